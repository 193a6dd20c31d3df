"""Time the Python of the README, statement by statement, in CPU seconds of one core.

    python training/benchmark/readme.py                                  # what is used
    HF_TOKEN=... python training/benchmark/readme.py path/to/cifar10     # what is distilled, too, and pushed

Own images are 100 of each class of CIFAR-10, which are read from a folder of its parquet files, 80 to train on. They
are pushed to the Hub that HF_ENDPOINT names, as the README says, by whoever HF_TOKEN is.
"""

import argparse
import ast
import os
import re
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
from datasets import load_dataset

README = Path(__file__).parents[2] / "README.md"
PER_CLASS, TO_TRAIN_ON = 100, 80


def save_images(parquet: str, folder: Path) -> None:
    """Some images of each class as PNG files, `folder/SPLIT/CLASS/NUMBER.png`."""
    images, saved = load_dataset("parquet", data_dir=parquet, split="train"), {}
    for row in images:
        label, image = (row[name] for name in ("label", "img" if "img" in row else "image"))
        number = saved[label] = saved.get(label, -1) + 1
        if number < PER_CLASS:
            path = folder / ("train" if number < TO_TRAIN_ON else "test") / str(label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)


def run(example: str) -> None:
    """Runs an example's statements and prints what each took."""
    names: dict = {}
    for statement in ast.parse(example).body:
        started, by_clock = time.process_time(), time.perf_counter()
        exec(compile(ast.Module([statement], []), "README.md", "exec"), names)
        seconds = time.process_time() - started, time.perf_counter() - by_clock
        print(f"{seconds[0]:8.1f} s of CPU, {seconds[1]:8.1f} by the clock: {ast.unparse(statement)}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parquet", nargs="?", help="folder of CIFAR-10's parquet files")
    parquet = parser.parse_args().parquet
    use, distil = re.findall(r"```python\n(.+?)```", README.read_text(), re.DOTALL)
    with tempfile.TemporaryDirectory() as folder:
        if parquet is not None:
            save_images(parquet, Path(folder) / "my_images")
        os.chdir(folder)  # not before: the folder of the parquet files may be a relative one
        run(use)
        if parquet is not None:
            run(distil)
        os.chdir(README.parent)


if __name__ == "__main__":
    main()
