"""What does not take turns: the machine, how near convolutions come to its peak, and how long a start takes."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

TRAINING = Path(__file__).resolve().parents[1]


def facts() -> str:
    """Model, cores and memory of the machine, what else it was doing, and versions."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    versions = ", ".join(f"{name} {version(name)}" for name in ("haba_hf", "transformers", "accelerate"))
    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GB, load {os.getloadavg()[0]:.1f} at the start; "
        f"Python {platform.python_version()}, {versions}"
    )


def measure_peak() -> None:
    """GFLOP/s of a large matrix product and of the ConvNet's middle convolution, forward and backward, in JSON."""
    import torch
    from torch.nn import functional as F

    def gflops(run, operations: float) -> list[float]:
        run()
        speeds = []
        for _ in range(5):
            started = time.perf_counter()
            run()
            speeds.append(operations / (time.perf_counter() - started) / 1e9)
        return speeds

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


def peak_table(main: Path) -> str:
    command = [sys.executable, str(main), "--measure", "peak", "0"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    lines = ["| convolutions and the machine's peak | GFLOP/s: median (least to most) | of the matrix product's |"]
    lines.append("|---|---|---|")
    for title, speeds in found.items():
        median = statistics.median(speeds)
        peak = statistics.median(found[f"matrix product, {title.rsplit(', ', 1)[1]}"])
        lines.append(f"| {title} | {median:.0f} ({min(speeds):.0f} to {max(speeds):.0f}) | {median / peak:.0%} |")
    return "\n".join(lines)


STARTS = {
    "import torch, transformers.modeling_utils": "import torch, transformers.modeling_utils",
    "import haba_hf": "import haba_hf",
    "from_pretrained and first sample": (
        "from haba_hf import HabaModel; import torch; "
        "HabaModel.from_pretrained({path!r})(torch.tensor([0]), torch.tensor([0]))"
    ),
}


def start_table(repeats: int = 5) -> str:
    """Seconds of new processes that import and load, taking turns, and the ratio to the first."""
    save = "from benchmark.workloads import Size, artifact; artifact(Size()).save_pretrained({path!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TRAINING), os.environ.get("PYTHONPATH", "")])}
    seconds: dict[str, list[float]] = {title: [] for title in STARTS}
    with tempfile.TemporaryDirectory() as directory:

        def run(code: str) -> float:
            started = time.perf_counter()
            command = [sys.executable, "-c", code.format(path=directory)]
            subprocess.run(command, check=True, env=environment, capture_output=True)
            return time.perf_counter() - started

        run(save)
        for _ in range(repeats):
            for title, code in STARTS.items():
                seconds[title].append(run(code))
    first = statistics.median(seconds[next(iter(STARTS))])
    lines = ["| a new process | seconds: median (least to most) | of the first |", "|---|---|---|"]
    for title, times in seconds.items():
        median = statistics.median(times)
        lines.append(f"| {title} | {median:.2f} ({min(times):.2f} to {max(times):.2f}) | {median / first:.2f} |")
    return "\n".join(lines)
