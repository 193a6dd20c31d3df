"""Measure this machine's CPU: ours against a naive implementation, how ours grows, how near convolutions come to the
machine's peak, and how long a start takes.

    python training/benchmark                      # or: make benchmark
    python training/benchmark --width 64 --cases mtt-1 mtt-graph

Images are random numbers, so nothing is downloaded. Ours and the naive way have a process each, so that its peak of
memory is its own; the two take turns, so that what else the machine does meets both alike. The naive one runs as a
plain script would, ours as our scripts do, which tell glibc to keep freed memory.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmark.cases import CASES, QUICK, Size

OURS, NAIVE = "ours", "naive"


def measure(name: str, way: str, size: Size) -> None:
    """
    The process of one case: prepares, warms up, then times one run for every line on stdin and answers in JSON with
    its seconds, how much it did, and the peak memory above what was held before the warm-up.
    """
    import torch

    from haba_hf.allocator import keep_freed_memory, peak_memory

    if way == OURS:
        keep_freed_memory()
    case = CASES[name]
    prepare = case.ours if way == OURS else case.naive
    assert prepare is not None
    run = prepare(size)
    before = peak_memory()
    run()
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        amount = run()
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "amount": amount, "bytes": peak_memory() - before}), flush=True)


def measure_peak() -> None:
    """GFLOP/s of a large matrix product and of the ConvNet's middle convolution, forward and backward, in JSON."""
    import torch
    from torch.nn import functional as F

    def gflops(run, operations: float) -> float:
        run()
        times = []
        for _ in range(5):
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
        return operations / statistics.median(times) / 1e9

    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a, b = torch.randn(2, 2048, 2048, dtype=dtype)
        found[f"matrix product, {name}"] = gflops(lambda a=a, b=b: a @ b, 2 * 2048**3)
        for batch in (10, 256):
            x = torch.randn(batch, 128, 16, 16, dtype=dtype, requires_grad=True)
            w = torch.randn(128, 128, 3, 3, dtype=dtype, requires_grad=True)

            def train(x=x, w=w):
                y = F.conv2d(x, w, padding=1)
                torch.autograd.grad(y, (x, w), y.detach())

            operations = 3 * 2 * batch * 16 * 16 * 128 * 128 * 9
            found[f"convolution of {batch} samples, forward and backward, {name}"] = gflops(train, operations)
    print(json.dumps(found))


IMPORTS = {
    "import torch, transformers.modeling_utils": "import torch, transformers.modeling_utils",
    "import haba_hf": "import haba_hf",
    "from_pretrained and first sample": (
        "from haba_hf import HabaModel; import torch; "
        "HabaModel.from_pretrained({path!r})(torch.tensor([0]), torch.tensor([0]))"
    ),
}


def measure_start(directory: str) -> dict[str, list[float]]:
    """Seconds of new processes that import and load, three of each, taking turns."""
    save = "from benchmark.cases import *; artifact(Size()).save_pretrained({path!r})"
    training = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([training, os.environ.get("PYTHONPATH", "")])}

    def run(code: str) -> float:
        started = time.perf_counter()
        command = [sys.executable, "-c", code.format(path=directory)]
        subprocess.run(command, check=True, env=environment, capture_output=True)
        return time.perf_counter() - started

    run(save)
    seconds: dict[str, list[float]] = {title: [] for title in IMPORTS}
    for _ in range(3):
        for title, code in IMPORTS.items():
            seconds[title].append(run(code))
    return seconds


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


class Measured:
    """Median, least and most of some runs in the unit of their case, and their peak memory in MB."""

    def __init__(self, runs: list[dict], unit: str):
        per_second = unit == "samples/s"
        self.unit = unit
        self.values = [
            run["amount"] / run["seconds"] if per_second else run["seconds"] / run["amount"] for run in runs
        ]
        self.seconds = statistics.median(run["seconds"] / run["amount"] for run in runs)
        self.peak = max(run["bytes"] for run in runs) / 1e6

    def __str__(self) -> str:
        digits = 0 if min(self.values) >= 100 else 2 if min(self.values) >= 1 else 3
        numbers = (statistics.median(self.values), min(self.values), max(self.values))
        median, low, high = (f"{value:,.{digits}f}" for value in numbers)
        return f"{median} {self.unit} ({low} to {high})"


def run_in_turns(name: str, options: list[str], repeats: int) -> tuple[dict[str, list[dict]], dict]:
    """Runs of one case, ours and, if there is one, the naive way, and the facts that their processes told."""
    ways = [OURS, NAIVE] if CASES[name].naive else [OURS]
    runs: dict[str, list[dict]] = {way: [] for way in ways}
    processes: dict[str, subprocess.Popen] = {}
    facts: dict = {}
    print(name, file=sys.stderr, flush=True)
    try:
        for way in ways:
            command = [sys.executable, __file__, *options, "--measure", name, way]
            processes[way] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            facts = answer(processes[way], name)
        for _ in range(repeats):
            for way, process in processes.items():
                process.stdin.write("run\n")
                process.stdin.flush()
                runs[way].append(answer(process, name))
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    return runs, facts


def main():
    parser = argparse.ArgumentParser(
        prog="benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=128, help="width of the ConvNet-3 for 28x28 images (128)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of every case (3)")
    parser.add_argument("--cases", nargs="+", choices=CASES, metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one run: shows that it works")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else Size(width=arguments.width)
    if arguments.measure == ["peak", ""]:
        return measure_peak()
    if arguments.measure:
        return measure(*arguments.measure, size)

    facts_of_cpu, options = cpu(), sys.argv[1:]
    repeats = 1 if arguments.quick else arguments.repeats
    measured: dict[str, dict[str, Measured]] = {}
    for name in arguments.cases or list(CASES):
        runs, facts = run_in_turns(name, options, repeats)
        measured[name] = {way: Measured(of_way, CASES[name].unit) for way, of_way in runs.items()}
    compared = [name for name in measured if NAIVE in measured[name]]
    alone = [name for name in measured if NAIVE not in measured[name]]

    print(f"{facts_of_cpu}; torch {facts['torch']}, {facts['threads']} threads.")
    print(f"ConvNet-{size.depth} of width {size.width}, {size.side}x{size.side}. Runs of each: {repeats}, in turns.\n")
    if compared:
        print("| what | ours: median (least to most) | naive | ours / naive time | peak memory, ours / naive (MB) |")
        print("|---|---|---|---|---|")
        for name in compared:
            ours, naive = measured[name][OURS], measured[name][NAIVE]
            ratio = f"{ours.seconds / naive.seconds:.2f}"
            print(f"| {CASES[name].title} | {ours} | {naive} | {ratio} | {ours.peak:,.0f} / {naive.peak:,.0f} |")
    if alone:
        print("\n| how ours grows | median (least to most) | peak memory (MB) |\n|---|---|---|")
        for name in alone:
            ours = measured[name][OURS]
            print(f"| {CASES[name].title} | {ours} | {ours.peak:,.0f} |")
    if not (arguments.cases or arguments.quick):
        command = [sys.executable, __file__, "--measure", "peak", ""]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print("\n| convolutions and the machine's peak | GFLOP/s | of the matrix product's |\n|---|---|---|")
        for title, gflops in found.items():
            peak = found[f"matrix product, {title.rsplit(', ', 1)[1]}"]
            print(f"| {title} | {gflops:.0f} | {gflops / peak:.0%} |")
        with tempfile.TemporaryDirectory() as directory:
            seconds = measure_start(directory)
        print("\n| a new process | seconds: median (least to most) |\n|---|---|")
        for title, times in seconds.items():
            print(f"| {title} | {statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f}) |")
    print("\nA step includes the adversary's. Memory is what a run adds to its process.")


if __name__ == "__main__":
    main()
