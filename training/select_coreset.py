r"""Choose a coreset: real training images at random, by Herding, by K-Center or by Forgetting.

    accelerate launch training/select_coreset.py training/recipes/digits/herding-1pc.yaml
    accelerate launch training/evaluate.py       training/recipes/digits/herding-1pc.yaml

    accelerate launch training/select_coreset.py training/recipes/fashion_mnist/k-center-1pc.yaml \
        --data_dir path/to/fashion_mnist --bases_per_class 10 --output_dir runs/fashion_mnist-k-center-10pc

`bases_per_class` is the number of images of each class. All but random look at what one expert, trained on the whole
training split, makes of the images; it is trained once and recorded in `coreset_dir`. The coreset and its gallery are
in `output_dir/artifact`; `coreset.json` there names the rows of the training split.
"""

from haba_hf.recipes import parse_recipe, run_script
from haba_hf.runs import select_coreset, start_accelerator


def main():
    recipe = parse_recipe(description=__doc__)
    accelerator = start_accelerator()
    select_coreset(recipe, accelerator)
    accelerator.end_training()


if __name__ == "__main__":
    run_script(main)
