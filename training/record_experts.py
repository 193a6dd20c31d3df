r"""Record expert trajectories on real data, for trajectory matching.

    accelerate launch training/record_experts.py training/recipes/digits/mtt-1pc.yaml
    accelerate launch --mixed_precision bf16 training/record_experts.py training/recipes/fashion_mnist/mtt-1pc.yaml \
        --data_dir path/to/fashion_mnist

Experts are spread over processes. Complete ones are kept, so an interrupted recording goes on where it stopped.
"""

from haba_hf.data import load_image_data
from haba_hf.distillation import record_experts
from haba_hf.recipe import parse_recipe, run_script
from haba_hf.runs import start_accelerator


def main():
    recipe = parse_recipe(description=__doc__)
    accelerator = start_accelerator()
    data = load_image_data(recipe.data, allow_missing_test=True)
    record_experts(data, recipe.network, recipe.experts, recipe.trajectory_matching.num_snapshots, accelerator)
    accelerator.end_training()


if __name__ == "__main__":
    run_script(main)
