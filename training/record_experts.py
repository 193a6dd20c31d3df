r"""Record expert trajectories on real data, for trajectory matching.

    accelerate launch training/record_experts.py training/recipes/digits/mtt-1pc.yaml
    accelerate launch --mixed_precision bf16 training/record_experts.py training/recipes/fashion_mnist/mtt-1pc.yaml \
        --data_dir path/to/fashion_mnist

Experts are spread over processes. Complete ones are kept, so an interrupted recording goes on where it stopped.
"""

from haba_hf.recipes import parse_recipe, run_script
from haba_hf.runs import record, start_accelerator


def main():
    recipe = parse_recipe(description=__doc__)
    accelerator = start_accelerator()
    record(recipe, accelerator)
    accelerator.end_training()


if __name__ == "__main__":
    run_script(main)
