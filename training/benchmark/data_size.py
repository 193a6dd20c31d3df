"""How time and memory grow with the number of images: a few DM steps on made-up ones, every run in its own process.

    python training/benchmark/data_size.py                      # 10,000, 50,000 and 200,000 images of 64x64
    python training/benchmark/data_size.py --images 10000 50000

Images are JPEGs in parquet files in a temporary folder, which also holds the cache, so that the first run finds
nothing there; the second finds what the first left. Memory is the greatest `RssAnon` of Linux's /proc, looked at 20
times a second: what the process itself holds, without the pages of files that are mapped and can be dropped.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmark import machine

NUM_LABELS, IMAGES_PER_FILE = 10, 10_000
SECONDS_BETWEEN_LOOKS = 0.05
SETTINGS = {"objective": "dm", "bases_per_class": 1, "network_width": 32, "network_bank": 1, "real_batch_size": 32}


def write_images(folder: Path, count: int, side: int) -> None:
    """`count` smooth random JPEGs as training images, and a few as test images."""
    import io

    import numpy as np
    from datasets import ClassLabel, Dataset, Features, Image
    from PIL import Image as PILImage

    random = np.random.default_rng(0)
    label = ClassLabel(names=[f"class {number}" for number in range(NUM_LABELS)])

    def jpeg() -> bytes:
        file = io.BytesIO()
        coarse = PILImage.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((side, side), PILImage.Resampling.BICUBIC).save(file, "JPEG")
        return file.getvalue()

    starts = range(0, count, IMAGES_PER_FILE)
    for number, start in enumerate(starts):
        rows = range(start, min(start + IMAGES_PER_FILE, count))
        columns = {
            "image": [{"bytes": jpeg(), "path": None} for _ in rows],
            "label": [row % NUM_LABELS for row in rows],
        }
        table = Dataset.from_dict(columns, features=Features({"image": Image(), "label": label}))
        table.to_parquet(str(folder / f"train-{number:05d}-of-{len(starts):05d}.parquet"))


def distill_once(folder: Path, output_dir: Path, steps: int) -> None:
    """
    The measured process: prints seconds from its start, and those of the processor, to the end of the first step and
    to the artifact, in JSON.
    """
    from haba_hf.distillation import Observer
    from haba_hf.recipes import recipe_of
    from haba_hf.runs import distill, start_accelerator
    from haba_hf.utils.allocator import keep_freed_memory

    started, seconds = float(os.environ["STARTED"]), []

    def look() -> None:
        seconds.append((time.time() - started, time.process_time()))

    class FirstStep(Observer):
        def on_step_end(self, distiller, logs):
            if not seconds:
                look()

    keep_freed_memory()
    recipe = recipe_of(dataset=str(folder), output_dir=str(output_dir), steps=steps, report_to="none", **SETTINGS)
    distill(recipe, start_accelerator(), observer=FirstStep())
    look()
    print(json.dumps(seconds))


def measure(folder: Path, output_dir: Path, cache: Path, steps: int) -> tuple[list[tuple[float, float]], int]:
    """Of a new process the seconds, see [`distill_once`], and the most bytes it held of its own."""
    command = [sys.executable, __file__, "--distill", str(folder), str(output_dir), "--steps", str(steps)]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cache), "STARTED": str(time.time())}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    greatest = 0
    while process.poll() is None:
        greatest = max(greatest, own_memory(process.pid))
        time.sleep(SECONDS_BETWEEN_LOOKS)
    said = process.communicate()[0]
    if process.returncode:
        sys.exit(f"The run on {folder.name} failed: see above.")
    return json.loads(said.splitlines()[-1]), greatest


def own_memory(process: int) -> int:
    """Bytes that a process holds beside mapped files; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except ProcessLookupError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 50_000, 200_000], help="training images")
    parser.add_argument("--side", type=int, default=64, help="height and width of an image (64)")
    parser.add_argument("--steps", type=int, default=5, help="of DM (5)")
    parser.add_argument("--distill", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.distill:
        return distill_once(*map(Path, arguments.distill), arguments.steps)
    if not Path("/proc/self/status").exists():
        parser.error("memory is read from /proc, which this system does not have")
    print(f"{machine.facts()}. DM, {arguments.steps} steps, images of {arguments.side}x{arguments.side}.\n")
    print("| images | their pixels (MB) | run | seconds to the first step (CPU) | to the artifact | own memory (MB) |")
    print("|---|---|---|---|---|---|", flush=True)
    for count in arguments.images:
        with tempfile.TemporaryDirectory() as directory:
            folder, cache = Path(directory) / "images", Path(directory) / "cache"
            folder.mkdir()
            write_images(folder, count, arguments.side)
            pixels = count * 3 * arguments.side**2 / 1e6
            for run in ("first", "again"):
                seconds, memory = measure(folder, Path(directory) / run, cache, arguments.steps)
                times = " | ".join(f"{passed:.0f} ({of_cpu:.0f})" for passed, of_cpu in seconds)
                print(f"| {count:,} | {pixels:,.0f} | {run} | {times} | {memory / 1e6:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
