"""Distil a data set: Algorithm 1 of the paper, or plain pixels with `--num_hallucinators 0`.

    accelerate launch training/distill.py training/recipes/digits/dm-1pc.yaml
    accelerate launch training/distill.py training/recipes/fashion_mnist/mtt-1pc.yaml --data_dir path/to/fashion_mnist

Launched again after an interruption, it goes on from the newest checkpoint in `output_dir`. The artifact, its gallery
and its training curves are in `output_dir/artifact`.
"""

from haba_hf.recipes import parse_recipe, run_script
from haba_hf.runs import distill, start_accelerator


def main():
    recipe = parse_recipe(description=__doc__)
    accelerator = start_accelerator(tracked=recipe)
    distill(recipe, accelerator)
    accelerator.end_training()


if __name__ == "__main__":
    run_script(main)
