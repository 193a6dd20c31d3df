r"""Draw an artifact's samples among real images: t-SNE in the feature space of a network trained on the real data.

    accelerate launch training/embed.py training/recipes/cifar10/dm-1pc.yaml
    accelerate launch training/embed.py training/recipes/cifar10/dm-1pc.yaml \
        --embedded_classes 0 1 2 --embedded_images 500 --real_student_epochs 20

Samples are colored by their hallucinator. The picture is `output_dir/embedding.png`, the points are in
`embedding.json`.
"""

from haba_hf.recipes import parse_recipe, run_script
from haba_hf.runs import embed, start_accelerator


def main():
    recipe = parse_recipe(description=__doc__)
    accelerator = start_accelerator()
    path = embed(recipe, accelerator)
    accelerator.print(f"{path}: written")
    accelerator.end_training()


if __name__ == "__main__":
    run_script(main)
