"""How coresets, evaluation and pictures grow with the number of classes: seconds of CPU of each at one number, of 20
images of 3x8x8 a class, and the peak memory of the process up to there.

    for classes in 100 1000; do python training/benchmark/classes.py $classes; done

Images are random numbers and the network a ConvNet-2 of width 4, so that what is done for each class shows.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmark.workloads import QUICK, accelerator_of, convnet
from haba_hf.artifact.processing_haba import HabaImageProcessor
from haba_hf.coresets import CoresetArguments, choose_coreset, real_images_artifact, real_images_config
from haba_hf.data import ImageData, Split
from haba_hf.evaluation import EvaluationArguments, evaluate_artifact
from haba_hf.hub import save_gallery
from haba_hf.utils.allocator import peak_memory
from haba_hf.utils.seeds import seeded_generator

PER_CLASS, CHOSEN = 20, 5


def random_data(num_labels: int) -> ImageData:
    generator = seeded_generator(0)

    def split(per_class: int) -> Split:
        labels = torch.arange(num_labels).repeat(per_class)
        return Split(torch.randint(256, (len(labels), 3, 8, 8), dtype=torch.uint8, generator=generator), labels)

    processor = HabaImageProcessor({"height": 8, "width": 8}, 3, image_mean=[0.5] * 3, image_std=[0.29] * 3)
    names = [f"class {label}" for label in range(num_labels)]
    return ImageData("random", split(PER_CLASS), split(2), split(2), names, processor, "random")


def timed(what: str, run: Callable):
    started = time.process_time()
    made = run()
    print(f"| {what} | {time.process_time() - started:.2f} | {(peak_memory() or 0) / 1e6:,.0f} |", flush=True)
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("num_labels", type=int, help="classes")
    num_labels = parser.parse_args().num_labels
    data, network, accelerator = random_data(num_labels), convnet(QUICK), accelerator_of(QUICK)
    print(f"| {num_labels:,} classes | CPU s | peak memory (MB) |\n|---|---|---|")
    print(f"| before | 0 | {(peak_memory() or 0) / 1e6:,.0f} |")
    with tempfile.TemporaryDirectory() as folder:
        for rule in ("random", "forgetting", "herding", "k_center"):
            arguments = CoresetArguments(coreset=rule, coreset_dir=f"{folder}/{rule}", coreset_epochs=1)
            sections = network, arguments, 0, accelerator
            coreset = timed(f"coreset: {rule}", lambda sections=sections: choose_coreset(data, CHOSEN, *sections))
        model = real_images_artifact(data, coreset.rows, real_images_config(data, CHOSEN))
        evaluation = EvaluationArguments(evaluation_seeds=1, student_epochs=2)
        sections = data.test, data.processor, network, evaluation
        timed("evaluation", lambda: evaluate_artifact(model, *sections, seed=0, accelerator=accelerator))
        timed("gallery", lambda: save_gallery(model, data.processor, f"{folder}/gallery.png"))


if __name__ == "__main__":
    main()
