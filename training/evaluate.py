r"""Evaluate an artifact: fresh students trained on it, beside random real images at equal storage and the full data.

    accelerate launch training/evaluate.py training/recipes/digits/dm-1pc.yaml
    accelerate launch training/evaluate.py training/recipes/digits/dm-1pc.yaml \
        --artifact user/haba-digits --references none

The test split is used once, after each student's last epoch. The table goes to the screen and to
`output_dir/results.json`.
"""

from haba_hf.evaluation import markdown_table
from haba_hf.recipe import parse_recipe, run_script
from haba_hf.runs import evaluate, start_accelerator


def main():
    recipe = parse_recipe(description=__doc__)
    accelerator = start_accelerator()
    rows = evaluate(recipe, accelerator)
    accelerator.print(markdown_table(rows))
    accelerator.end_training()


if __name__ == "__main__":
    run_script(main)
