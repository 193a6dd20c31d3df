"""How coresets, distillation, evaluation and pictures grow with the number of classes: seconds of CPU of each at one
number, of 20 images of 3x8x8 a class, and the peak memory of the process up to there.

    for classes in 100 1000; do python training/benchmark/classes.py $classes; done

Images are random numbers and the network a ConvNet-2 of width 4, so that what is done for each class shows. A step of
distillation is the second, of 1 basis per class and 5 hallucinators with their adversary, on 4 real images a class;
MTT's has 3 student steps.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmark.workloads import QUICK, accelerator_of, convnet, distill, random_data
from haba_hf.coresets import CoresetArguments, choose_coreset, real_images_artifact, real_images_config
from haba_hf.evaluation import EvaluationArguments, evaluate_artifact
from haba_hf.hub import save_gallery
from haba_hf.utils.allocator import peak_memory

PER_CLASS, CHOSEN, MICRO_BATCH = 20, 5, 256


def timed(what: str, run: Callable):
    started = time.process_time()
    made = run()
    print(f"| {what} | {time.process_time() - started:.2f} | {(peak_memory() or 0) / 1e6:,.0f} |", flush=True)
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("num_labels", type=int, help="classes")
    num_labels = parser.parse_args().num_labels
    size = replace(QUICK, classes=num_labels, channels=3)
    data, network, accelerator = random_data(size, PER_CLASS), convnet(size), accelerator_of(size)
    print(f"| {num_labels:,} classes | CPU s | peak memory (MB) |\n|---|---|---|")
    print(f"| before | 0 | {(peak_memory() or 0) / 1e6:,.0f} |")
    with tempfile.TemporaryDirectory() as folder:
        for rule in ("random", "forgetting", "herding", "k_center"):
            arguments = CoresetArguments(coreset=rule, coreset_dir=f"{folder}/{rule}", coreset_epochs=1)
            sections = network, arguments, 0, accelerator
            coreset = timed(f"coreset: {rule}", lambda sections=sections: choose_coreset(data, CHOSEN, *sections))
        model = real_images_artifact(data, coreset.rows, real_images_config(data, CHOSEN))
        for objective in ("dm", "dsa", "mtt"):
            step = distill(size, objective, micro_batch_size=MICRO_BATCH)
            step()  # the first one makes what all share
            timed(f"a step: {objective}", step)
        evaluation = EvaluationArguments(evaluation_seeds=1, student_epochs=2)
        sections = data.validation, data.processor, network, evaluation
        timed("evaluation", lambda: evaluate_artifact(model, *sections, seed=0, accelerator=accelerator))
        timed("gallery", lambda: save_gallery(model, data.processor, f"{folder}/gallery.png"))


if __name__ == "__main__":
    main()
