"""Measure student training, each objective's steps and materialization on this machine's CPU, with their peak memory.

    python training/benchmark.py                      # or: make benchmark
    python training/benchmark.py --width 64 --cases mtt-graph mtt-adjoint
    OMP_NUM_THREADS=2 LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libjemalloc.so.2 python training/benchmark.py

Images are random numbers, so nothing is downloaded. Every case has a process of its own, so that its peak of memory is
its own; the processes take turns, so that what else the machine does meets all of them alike.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

# torch and haba_hf are imported in the functions that a case's process calls: a new process begins with the peak
# memory of the one that started it, which therefore has to be small.

CLASSES, HALLUCINATORS = 10, 5


@dataclass
class Size:
    """What a case is measured on."""

    side: int = 28
    depth: int = 3
    width: int = 128
    student_epochs: int = 8
    real_batch_size: int = 256
    student_steps: int = 50
    bank_steps: int = 5
    materializations: int = 20


DIGITS = Size(side=8, depth=2, width=64, student_epochs=32)
QUICK = Size(side=8, depth=2, width=4, student_epochs=2, real_batch_size=4, student_steps=3, bank_steps=2)


@dataclass
class Case:
    """One line of the table."""

    title: str
    unit: str  # "samples/s", or "s" for seconds a step
    prepare: Callable[[Size], Callable[[], int]]  # gives what to time, which returns how many samples or steps it did
    digits: bool = False  # at the size of the digits


def artifact(size: Size, bases_per_class: int = 10):
    """An artifact of random numbers."""
    import torch

    from haba_hf import HabaConfig, HabaModel

    torch.manual_seed(0)
    sample = {"sample_channels": 1, "sample_height": size.side, "sample_width": size.side}
    budget = {"bases_per_class": bases_per_class, "num_hallucinators": HALLUCINATORS}
    return HabaModel(HabaConfig(num_labels=CLASSES, **budget, **sample))


def train_students(size: Size, online: bool) -> Callable[[], int]:
    """A student of the artifact, by batches of `paired_batches`, or by calling a hallucinator for every sample."""
    import torch

    from haba_hf.data.augmentation import DSA_STRATEGY, DsaAugmentation
    from haba_hf.evaluation import train_student
    from haba_hf.networks import NetworkArguments, build_network
    from haba_hf.pairing import materialize_if_small, paired_batches

    model = artifact(size)
    network_arguments = NetworkArguments(network_depth=size.depth, network_width=size.width)
    network = build_network(network_arguments, model.config.sample_shape, CLASSES, seed=0)
    generator = torch.Generator().manual_seed(0)
    batch_size = 256

    @torch.no_grad()
    def one_by_one(epoch: int):
        for basis_ids in torch.randperm(model.config.num_bases, generator=generator).split(batch_size):
            outputs = [model(i, torch.randint(HALLUCINATORS, (1,), generator=generator)) for i in basis_ids.split(1)]
            yield torch.cat([output.samples for output in outputs]), torch.cat([output.labels for output in outputs])

    def run() -> int:
        materialized = materialize_if_small(model) if online else None
        train_student(
            network,
            (lambda epoch: paired_batches(model, batch_size, generator, materialized)) if online else one_by_one,
            size.student_epochs,
            learning_rate=0.01,
            augmentation=DsaAugmentation(DSA_STRATEGY),
            generator=generator,
        )
        return size.student_epochs * model.config.num_bases

    return run


class RandomExperts:
    """In place of recorded experts: random parameters, whose values do not change what a step costs."""

    num_snapshots = 4

    def __init__(self, ends):
        self.ends = ends

    def draw(self, max_start, span, generator):
        return self.ends


def distill(size: Size, objective: str = "mtt", network_bank: int = 0, unroll: str = "graph") -> Callable[[], int]:
    """Whole steps of Algorithm 1 at 1 basis per class, with the adversary."""
    import torch
    from accelerate import Accelerator

    from haba_hf.data import ImageData, Split
    from haba_hf.distillation import DistillationArguments, Distiller, DistributionMatching, TrajectoryMatching
    from haba_hf.networks import NetworkArguments, build_network
    from haba_hf.processing_haba import HabaImageProcessor

    torch.manual_seed(0)
    shape = (1, size.side, size.side)
    labels = torch.arange(CLASSES).repeat(size.real_batch_size)
    split = Split(torch.randint(256, (len(labels), *shape), dtype=torch.uint8), labels)
    data = ImageData(
        name="random",
        train=split,
        validation=split,
        test=None,
        class_names=[str(label) for label in range(CLASSES)],
        processor=HabaImageProcessor(num_channels=1, image_mean=[0.5], image_std=[0.29]),
        fingerprint="random",
    )
    network_arguments = NetworkArguments(network_depth=size.depth, network_width=size.width)
    arguments = DistillationArguments(
        objective=objective,
        real_batch_size=size.real_batch_size,
        network_bank=network_bank,
        student_steps=size.student_steps,
        unroll=unroll,
    )
    if objective == "dm":
        matching = DistributionMatching(network_arguments, arguments)
    else:
        network = build_network(network_arguments, shape, CLASSES, seed=0)
        experts = RandomExperts(torch.randn(2, sum(parameter.numel() for parameter in network.parameters())) / 100)
        matching = TrajectoryMatching(experts, network_arguments, arguments)
    model, accelerator = artifact(size, bases_per_class=1), Accelerator(cpu=True)
    distiller = Distiller(model, matching, arguments, network_arguments, data, accelerator, recipe_hash="")
    steps = size.bank_steps if network_bank else 1

    def run() -> int:
        for _ in range(steps):
            distiller.step()
        return steps

    return run


def materialize(size: Size) -> Callable[[], int]:
    """All samples of an artifact of 10 bases per class."""
    model = artifact(size)

    def run() -> int:
        for _ in range(size.materializations):
            model.materialize()
        return size.materializations * model.config.num_samples

    return run


online, naive = partial(train_students, online=True), partial(train_students, online=False)
CASES = {
    "student": Case("student training, online pairing", "samples/s", online),
    "student-naive": Case("student training, paired one by one", "samples/s", naive),
    "digits-student": Case("student training, online pairing", "samples/s", online, digits=True),
    "digits-student-naive": Case("student training, paired one by one", "samples/s", naive, digits=True),
    "dm": Case("DM step, {real_batch_size} real images a class", "s", partial(distill, objective="dm")),
    "dm-bank": Case("DM step, network bank", "s", partial(distill, objective="dm", network_bank=1)),
    "mtt-graph": Case("MTT step, {student_steps} x 10 samples, graph", "s", partial(distill, unroll="graph")),
    "mtt-adjoint": Case("MTT step, {student_steps} x 10 samples, adjoint", "s", partial(distill, unroll="adjoint")),
    "materialize": Case("materialization", "samples/s", materialize),
}


def peak_bytes() -> int:
    """The most memory this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def allocator() -> str:
    """Whose `malloc` this process uses, as far as it shows, and the settings of glibc's."""
    maps = Path("/proc/self/maps")
    loaded = maps.read_text() if maps.exists() else ""
    names = [name for name in ("tcmalloc", "jemalloc", "mimalloc") if name in loaded]
    settings = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("MALLOC_"))
    return ", ".join([f"{names[0]} preloaded" if names else "no preload", *settings])


def measure(case: Case, size: Size) -> None:
    """
    The process of one case: prepares, warms up, then times one run for every line on stdin and answers in JSON with
    its seconds, how much it did, and the peak memory above what was held before the warm-up.
    """
    import torch

    run = case.prepare(size)
    before = peak_bytes()
    run()
    facts = {"torch": torch.__version__, "threads": torch.get_num_threads(), "allocator": allocator()}
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        amount = run()
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "amount": amount, "bytes": peak_bytes() - before}), flush=True)


def answer(process: subprocess.Popen, name: str) -> dict:
    line = process.stdout.readline()
    if not line:
        sys.exit(f"error: the case {name} failed; what it said is above.")
    return json.loads(line)


def cpu() -> str:
    """Model and cores of the CPU, and what else it was doing."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start"


def row(case: Case, size: Size, runs: list[dict]) -> str:
    """One line of the table."""
    values = [
        run["amount"] / run["seconds"] if case.unit == "samples/s" else run["seconds"] / run["amount"] for run in runs
    ]
    digits = 0 if min(values) >= 100 else 2 if min(values) >= 1 else 3
    median, low, high = (f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    network = "" if case.title == "materialization" else f", ConvNet-{size.depth}, width {size.width}"
    title = case.title.format(**vars(size))
    peak = max(run["bytes"] for run in runs) / 1e6
    return f"| {title} | {size.side}x{size.side}{network} | {median} {case.unit} | {low} to {high} | {peak:,.0f} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128, help="width of the ConvNet-3 for 28x28 images (128)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of every case (3)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one run: shows that it works")
    parser.add_argument("--measure", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size = Size(width=arguments.width)
    sizes = {name: QUICK if arguments.quick else DIGITS if case.digits else size for name, case in CASES.items()}
    if arguments.measure:
        return measure(CASES[arguments.measure], sizes[arguments.measure])

    facts_of_cpu, options = cpu(), sys.argv[1:]
    repeats = 1 if arguments.quick else arguments.repeats
    runs: dict[str, list[dict]] = {name: [] for name in arguments.cases}
    processes: dict[str, subprocess.Popen] = {}
    try:
        for name in runs:
            print(f"preparing {name}", file=sys.stderr, flush=True)
            command = [sys.executable, __file__, *options, "--measure", name]
            processes[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            facts = answer(processes[name], name)
        for repeat in range(repeats):
            print(f"round {repeat + 1} of {repeats}", file=sys.stderr, flush=True)
            for name, process in processes.items():
                process.stdin.write("run\n")
                process.stdin.flush()
                runs[name].append(answer(process, name))
    finally:
        for process in processes.values():
            process.kill()
            process.wait()

    print(f"{facts_of_cpu}; torch {facts['torch']}, {facts['threads']} threads; allocator: {facts['allocator']}.\n")
    print("| what | on | median | least to most | peak memory (MB) |\n|---|---|---|---|---|")
    for name, of_case in runs.items():
        print(row(CASES[name], sizes[name], of_case))
    print(f"\nRuns of each: {repeats}. A step includes the adversary's. Memory is what a run adds to its process.")


if __name__ == "__main__":
    main()
