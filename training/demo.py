"""The whole of haba_hf in a few minutes on 2 CPU cores, with data that ships in scikit-learn: handwritten digits.

    python training/demo.py            # or: make demo

Distils the digits to three artifacts of about 5 KB: 11 bases per class of 40 frequencies in 8 bits, 2 images per class
of plain pixels in float32, and 1 basis per class with 5 hallucinators (HaBa). Then, in new processes, loads them,
trains students on them, and sets them against random real images (in the same storage, of as many bytes) and the full
data.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

TRAINING = Path(__file__).resolve().parent
RECIPES = TRAINING / "recipes" / "digits"

# Students of all three train alike, in minutes.
ALIKE = ["--network_bank", "20", "--steps", "200", "--evaluation_steps", "300", "--evaluation_batch_size", "64"]


def run(script: str, recipe: str, output_dir: Path, *options: str):
    """Runs one of the training scripts in a process of its own, as a user would."""
    command = [sys.executable, TRAINING / script, RECIPES / recipe, "--output_dir", output_dir, *options]
    print(f"\n$ python training/{script} {RECIPES.name}/{recipe} {' '.join(options)}".rstrip(), flush=True)
    started = time.perf_counter()
    subprocess.run(command, check=True)
    print(f"({time.perf_counter() - started:.0f} s)", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/demo"), help="where the artifacts go")
    parser.add_argument("options", nargs="*", help="passed on to every script, after --, e.g. -- --steps 10")
    arguments = parser.parse_args()
    folder, options = arguments.output_dir, [*ALIKE, *arguments.options]
    runs = {"int8": "dm-2ipc-int8.yaml", "pixels": "dm-2pc-pixels.yaml", "haba": "dm-1pc.yaml"}
    started = time.perf_counter()
    for name, recipe in runs.items():
        run("distill.py", recipe, folder / name, *options)
    for name, recipe in runs.items():
        references = "all" if name == "int8" else "none"
        run("evaluate.py", recipe, folder / name, "--references", references, *options)

    rows = [row for name in runs for row in json.loads((folder / name / "results.json").read_text())["rows"]]
    print("\n| system | accuracy (%) | bytes | of the training set's bytes |\n|---|---|---|---|")
    for row in rows:
        accuracy, storage = row["accuracy"], row["storage"]
        print(
            f"| {row['system']} | {100 * accuracy['mean']:.1f} ± {100 * accuracy['std']:.1f} | {storage['bytes']:,} "
            f"| {storage['bytes_ratio']:.2%} |"
        )
    artifact = folder / "int8" / "artifact"
    print(f"\nMean ± standard deviation over {len(rows[0]['accuracy']['accuracies'])} students of each.")
    print(f"Look at {artifact / 'gallery.png'}, what was stored, and {artifact / 'training_curves.png'}.")
    print(f"Load it: HabaModel.from_pretrained({str(artifact)!r})")
    print(f"Took {time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    main()
