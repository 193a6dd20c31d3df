r"""Evaluate an artifact: fresh students trained on it, beside random real images at equal storage and the full data.

    accelerate launch training/evaluate.py training/recipes/digits/dm-1pc.yaml
    accelerate launch training/evaluate.py training/recipes/digits/dm-1pc.yaml \
        --artifact user/haba-digits --references none

    # across architectures, in place of the table above
    accelerate launch training/evaluate.py training/recipes/cifar10/dm-1pc.yaml \
        --architectures convnet resnet18 vgg11 alexnet transformers/vit

The test split is used once, after each student's last epoch. The table goes to the screen and to
`output_dir/results.json`; across architectures, to `output_dir/cross_architecture.json`.
"""

from haba_hf.evaluation import architecture_table, markdown_table
from haba_hf.recipes import parse_recipe, run_script
from haba_hf.runs import evaluate, evaluate_architectures, start_accelerator


def main():
    recipe = parse_recipe(description=__doc__)
    accelerator = start_accelerator()
    if recipe.cross_architecture.architectures:
        table = architecture_table(evaluate_architectures(recipe, accelerator))
    else:
        table = markdown_table(evaluate(recipe, accelerator))
    accelerator.print(table)
    accelerator.end_training()


if __name__ == "__main__":
    run_script(main)
