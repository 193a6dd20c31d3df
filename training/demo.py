"""The whole of haba_hf in a few minutes on 2 CPU cores, with data that ships in scikit-learn: handwritten digits.

    python training/demo.py            # or: make demo

Distils the digits to 1 basis per class and 5 hallucinators, and to plain pixels at equal storage; then, in new
processes, loads both artifacts, trains students on them, and sets them against random real images at equal storage and
the full data.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

TRAINING = Path(__file__).resolve().parent
RECIPES = TRAINING / "recipes" / "digits"


def run(script: str, recipe: str, output_dir: Path, *options: str):
    """Runs one of the training scripts in a process of its own, as a user would."""
    command = [sys.executable, TRAINING / script, RECIPES / recipe, "--output_dir", output_dir, *options]
    print(f"\n$ python training/{script} {RECIPES.name}/{recipe} {' '.join(options)}".rstrip(), flush=True)
    started = time.perf_counter()
    subprocess.run(command, check=True)
    print(f"({time.perf_counter() - started:.0f} s)", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/demo"), help="where the two artifacts go")
    parser.add_argument("options", nargs="*", help="passed on to every script, after --, e.g. -- --steps 10")
    arguments = parser.parse_args()
    haba, pixels = arguments.output_dir / "haba", arguments.output_dir / "pixels"
    started = time.perf_counter()
    run("distill.py", "dm-1pc.yaml", haba, *arguments.options)
    run("distill.py", "dm-2pc-pixels.yaml", pixels, *arguments.options)
    run("evaluate.py", "dm-1pc.yaml", haba, *arguments.options)
    run("evaluate.py", "dm-2pc-pixels.yaml", pixels, "--references", "none", *arguments.options)

    rows = [row for run_dir in (haba, pixels) for row in json.loads((run_dir / "results.json").read_text())["rows"]]
    print("\n| system | accuracy (%) | bytes | of the training set's floats |\n|---|---|---|---|")
    for row in rows:
        accuracy, storage = row["accuracy"], row["storage"]
        print(
            f"| {row['system']} | {100 * accuracy['mean']:.1f} ± {100 * accuracy['std']:.1f} | {storage['bytes']:,} "
            f"| {storage['ratio']:.2%} |"
        )
    print(f"\nMean ± standard deviation over {len(rows[0]['accuracy']['accuracies'])} students of each.")
    print(f"Look at {haba / 'artifact' / 'gallery.png'} and {haba / 'artifact' / 'training_curves.png'}.")
    print(f"Load it: HabaModel.from_pretrained({str(haba / 'artifact')!r})")
    print(f"Took {time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    main()
