r"""Score an artifact's students under the 19 corruptions of CIFAR-10-C at 5 severities, beside students of real data.

    accelerate launch training/robustness.py training/recipes/cifar10/dm-1pc.yaml
    accelerate launch training/robustness.py training/recipes/cifar10/dm-1pc.yaml \
        --corruption_images 1000 --evaluation_seeds 3 --references none
    accelerate launch training/robustness.py training/recipes/cifar10/dm-1pc.yaml --corruptions_dir path/to/CIFAR-10-C

Images are corrupted here with the published levels, or read from the published files. The table goes to the screen,
every figure of it to `output_dir/robustness.json`, the curve to `robustness.png` and one image under all corruptions
to `corruptions.png`.
"""

from haba_hf.evaluation import robustness_table
from haba_hf.recipes import parse_recipe, run_script
from haba_hf.runs import evaluate_robustness, start_accelerator


def main():
    recipe = parse_recipe(description=__doc__)
    accelerator = start_accelerator()
    results = evaluate_robustness(recipe, accelerator)
    accelerator.print(robustness_table(results))
    accelerator.end_training()


if __name__ == "__main__":
    run_script(main)
