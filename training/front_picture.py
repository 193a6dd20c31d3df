"""Draw artifacts one below the other, some samples of every class, each with a caption: the README's picture.

    python training/front_picture.py picture.png "a real image of each class: 15.4 %" runs/random/artifact \
        "32 bases of 96 numbers: 51.5 %" hub_cards/published/cifar10-mtt-1ipc --samples 4
"""

import argparse

import matplotlib
import numpy
import torch

matplotlib.use("Agg")
from matplotlib import pyplot

from haba_hf.artifact.loading import load_model_and_processor


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", help="the PNG to write")
    parser.add_argument("rows", nargs="+", help="captions and artifacts in turns")
    parser.add_argument("--samples", type=int, default=4, help="of a class at most (4)")
    arguments = parser.parse_args()
    if len(arguments.rows) % 2:
        parser.error("after the picture come a caption and an artifact, in turns.")
    pairs = list(zip(arguments.rows[::2], arguments.rows[1::2], strict=True))
    opened = [(caption, *load_model_and_processor(folder)) for caption, folder in pairs]
    counts = [min(arguments.samples, model.config.samples_per_class) for _, model, _ in opened]
    height = sum(0.45 + 0.8 * count for count in counts)
    figure, axes = pyplot.subplots(len(opened), figsize=(8, height), height_ratios=counts, squeeze=False)
    for axis, count, (caption, model, processor) in zip(axes[:, 0], counts, opened, strict=True):
        ids_LX = model.sample_ids_by_class()
        chosen = ids_LX[:, torch.linspace(0, ids_LX.shape[1] - 1, count).long()]
        pictures = [numpy.asarray(of) for of in processor.to_pil(model.restore(chosen.flatten()).samples.detach())]
        rows = [numpy.concatenate(pictures[row::count], axis=1) for row in range(count)]
        axis.imshow(numpy.concatenate(rows, axis=0), cmap="gray")
        axis.set_title(caption, fontsize=9, loc="left")
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(arguments.picture, dpi=90)


if __name__ == "__main__":
    main()
