"""Measure steps at the published sizes on this machine's accelerator (or, with --device cpu, on its processor):
CIFAR-10's shape, a ConvNet-3 of width 128, images of random numbers.

    python training/benchmark/on_device.py --out steps.jsonl
    python training/benchmark/on_device.py --out steps.jsonl --device cpu --tiny --cases dm mtt-1

A line of JSON for each case: seconds of a step, epoch or pass (median, least and most), the device's peak memory in
bytes, and how often the device was waited for. A GPU's clock is read once its work is done.
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmark.workloads import QUICK, Size, accelerator_of, distill, experts, students
from haba_hf.runs.provenance import environment

PUBLISHED = Size(side=32, channels=3, expert_images=50_000, student_epochs=20, student_steps=50)

# What a step is of, as the published settings have it: HaBa by MTT meets all bases at once, 10 x bases_per_class.
CASES: dict[str, tuple[str, str, Callable]] = {
    "mtt-1": ("MTT, 1 basis per class, 50 student steps", "step", distill),
    "mtt-10": (
        "MTT, 10 bases per class, 30 student steps",
        "step",
        partial(distill, bases_per_class=10, student_steps=30),
    ),
    "mtt-50": (
        "MTT, 50 bases per class, 30 student steps",
        "step",
        partial(distill, bases_per_class=50, student_steps=30),
    ),
    "mtt-1-images": ("MTT, 1 image per class, 50 student steps", "step", partial(distill, storage={})),
    "mtt-50-images": (
        "MTT, 50 images per class, 30 student steps",
        "step",
        partial(distill, storage={}, bases_per_class=50, student_steps=30),
    ),
    "dm": ("DM, 1 image per class, a new network", "step", partial(distill, objective="dm", storage={})),
    "dm-frequencies": (
        "DM, 32 bases of 64 frequencies per class, a new network",
        "step",
        partial(
            distill,
            objective="dm",
            storage={"basis_storage": "frequencies", "basis_frequencies": 64},
            bases_per_class=32,
        ),
    ),
    "dsa": ("DSA, 10 images per class", "step", partial(distill, objective="dsa", storage={}, bases_per_class=10)),
    "idc": ("IDC, 10 images per class", "step", partial(distill, objective="idc", storage={}, bases_per_class=10)),
    "student": ("student, 20 epochs of 10 bases per class", "training", partial(students, bf16=False)),
    "student-bf16": ("student, 20 epochs of 10 bases per class, bf16", "training", students),
    "expert": ("expert, 50,000 images in batches of 256", "epoch", partial(experts, bf16=False)),
    "expert-bf16": ("expert, 50,000 images in batches of 256, bf16", "epoch", experts),
}


def measure(prepare: Callable[[Size], Callable], size: Size, repeats: int, most_seconds: float) -> dict:
    """Times a case after a run to warm up, within about `most_seconds`."""
    on_gpu = size.device == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    run = prepare(size)

    def timed() -> float:
        started = time.perf_counter()
        run()
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - started

    spent = timed()
    seconds = [timed()]
    while len(seconds) < repeats and spent + sum(seconds) + seconds[-1] < most_seconds:
        seconds.append(timed())
    found = {"seconds": statistics.median(seconds), "least": min(seconds), "most": max(seconds), "runs": len(seconds)}
    if on_gpu:
        found["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            run()
            torch.cuda.set_sync_debug_mode("default")
        found["waits"] = sum("synchronizing" in str(warning.message) for warning in caught)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="file of JSON lines to append to")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: shows that it works")
    parser.add_argument("--repeats", type=int, default=10, help="timed runs of every case (10)")
    parser.add_argument("--seconds", type=float, default=10, help="that a case takes at most, about (10)")
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(CASES)
    )
    arguments = parser.parse_args()
    size = replace(QUICK, channels=3) if arguments.tiny else PUBLISHED
    size = replace(size, device=arguments.device)
    name = environment(accelerator_of(size))["device"]
    for case in arguments.cases:
        title, unit, prepare = CASES[case]
        line = {"case": case, "title": title, "unit": unit, "device": name, "torch": torch.__version__}
        try:
            line |= measure(prepare, size, arguments.repeats, arguments.seconds)
        except (RuntimeError, NotImplementedError) as error:  # such as a device out of memory: the others go on
            line["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
        with open(arguments.out, "a") as file:
            file.write(json.dumps(line) + "\n")
        shown = line.get("error") or f"{line['seconds']:.4f} s a {unit} ({line['least']:.4f} to {line['most']:.4f})"
        print(f"{title}: {shown}", flush=True)


if __name__ == "__main__":
    main()
