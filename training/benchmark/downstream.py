"""Downstream speed (supplement, Tables 3 and 4): epochs per second of a student of samples that hallucinators make,
beside the same student of plain pixels of as many bases.

    python training/benchmark/downstream.py              # CIFAR-10's shape, 10 bases per class, 5 hallucinators
    python training/benchmark/downstream.py --depths 1 --rounds 3

The paper reports 140.11 epochs per second with hallucinators of depth 1 and 144.54 at depth 0 on its hardware: 97 %.
All ways take turns in one process, a few epochs of each in every round, so that what else the machine does meets them
alike. Bases are random numbers, so nothing is downloaded; the time does not depend on them.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch

from haba_hf import HabaConfig, HabaModel
from haba_hf.artifact.pairing import materialize_if_small, paired_batches
from haba_hf.data.augmentation import DSA_STRATEGY, DsaAugmentation
from haba_hf.evaluation import train_by_sgd
from haba_hf.networks import NetworkArguments, build_network
from haba_hf.utils.allocator import keep_freed_memory
from haba_hf.utils.seeds import seeded_generator

PLAIN = "plain pixels"
EPOCHS = 4  # of a turn


def epochs_of(config: HabaConfig, width: int, online: bool) -> Callable[[], None]:
    """Epochs of a student: every basis once, each with a hallucinator drawn for it, by SGD with DSA."""
    torch.manual_seed(0)
    model = HabaModel(config)
    network = build_network(NetworkArguments(network_width=width), config.sample_shape, config.num_labels, seed=0)
    generator, augmentation = seeded_generator(0), DsaAugmentation(DSA_STRATEGY, per_sample=True)
    materialized = None if online else materialize_if_small(model)

    def run() -> None:
        train_by_sgd(
            network,
            lambda epoch: paired_batches(model, 256, generator, materialized),
            epochs=EPOCHS,
            learning_rate=0.01,
            augmentation=augmentation,
            generator=generator,
        )

    return run


def in_turns(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of an epoch of each, one after the other in every round; a first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if number:
                seconds[name].append((time.perf_counter() - started) / EPOCHS)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="timed turns of each way (10)")
    parser.add_argument("--depths", type=int, nargs="+", default=[0, 1, 2, 3], help="of the hallucinators (0 1 2 3)")
    parser.add_argument("--bases_per_class", type=int, default=10, help="(10)")
    parser.add_argument("--side", type=int, default=32, help="height and width of a sample (32)")
    parser.add_argument("--width", type=int, default=128, help="of the student, a ConvNet-3 (128)")
    arguments = parser.parse_args()
    keep_freed_memory()

    def config(**settings) -> HabaConfig:
        sample = {"sample_height": arguments.side, "sample_width": arguments.side}
        return HabaConfig(num_labels=10, bases_per_class=arguments.bases_per_class, **sample, **settings)

    runs = {PLAIN: epochs_of(config(num_hallucinators=0), arguments.width, online=False)}
    for depth in arguments.depths:
        haba = config(hallucinator_depth=depth)
        # A student of the evaluation takes samples made once; where they do not fit into memory they are made anew.
        runs[f"depth {depth}, samples made once"] = epochs_of(haba, arguments.width, online=False)
        runs[f"depth {depth}, samples made for every batch"] = epochs_of(haba, arguments.width, online=True)
    seconds = in_turns(runs, arguments.rounds)

    size = f"{10 * arguments.bases_per_class} bases of 3x{arguments.side}x{arguments.side}, 5 hallucinators"
    print(
        f"{size}; ConvNet-3 of width {arguments.width}; torch {torch.__version__}, {torch.get_num_threads()} threads,"
    )
    print(f"load {os.getloadavg()[0]:.1f}; median of {arguments.rounds} turns of {EPOCHS} epochs.\n")
    print("| students of | epochs per second | of plain pixels' |\n|---|---|---|")
    for name, times in seconds.items():
        # Round by round, not median by median: the two of a round met the same machine.
        share = statistics.median(plain / own for plain, own in zip(seconds[PLAIN], times, strict=True))
        print(f"| {name} | {1 / statistics.median(times):.3g} | {share:.1%} |")


if __name__ == "__main__":
    main()
