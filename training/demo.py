"""The whole of haba_hf in a few minutes on 2 CPU cores, with data that ships in scikit-learn: handwritten digits.

    python training/demo.py            # or: make demo

Distils the digits to three artifacts of about 5 KB: 11 bases per class of 40 frequencies in 8 bits, 2 images per class
of plain pixels in float32, and 1 basis per class with 5 hallucinators (HaBa). Then loads them from their folders,
trains students on them, and sets them against random real images (in the same storage, of as many bytes) and the full
data.
"""

import argparse
import json
import time
from pathlib import Path

from haba_hf.evaluation import markdown_table
from haba_hf.recipes import parse_recipe, run_script
from haba_hf.runs import distill, evaluate, start_accelerator

RECIPES = Path(__file__).resolve().parent / "recipes" / "digits"
RUNS = {"int8": "dm-2ipc-int8.yaml", "pixels": "dm-2pc-pixels.yaml", "haba": "dm-1pc.yaml"}

# Students of all three train alike, in minutes.
ALIKE = ["--network_bank", "20", "--steps", "200", "--evaluation_steps", "300", "--evaluation_batch_size", "64"]


def run(script: str, recipe: str, output_dir: Path, *options: str):
    """Does what `python training/SCRIPT RECIPE OPTIONS` does, and says how long it took."""
    print(f"\n$ python training/{script} {RECIPES.name}/{recipe} {' '.join(options)}".rstrip(), flush=True)
    started = time.perf_counter()
    parsed = parse_recipe([str(RECIPES / recipe), "--output_dir", str(output_dir), *options])
    if script == "distill.py":
        accelerator = start_accelerator(tracked=parsed)
        distill(parsed, accelerator)
    else:
        accelerator = start_accelerator()
        print(markdown_table(evaluate(parsed, accelerator)))
    accelerator.end_training()
    print(f"({time.perf_counter() - started:.0f} s)", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/demo"), help="where the artifacts go")
    parser.add_argument("options", nargs="*", help="passed on to every script, after --, e.g. -- --steps 10")
    arguments = parser.parse_args()
    folder, options = arguments.output_dir, [*ALIKE, *arguments.options]
    started = time.perf_counter()
    for name, recipe in RUNS.items():
        run("distill.py", recipe, folder / name, *options)
    for name, recipe in RUNS.items():
        references = "all" if name == "int8" else "none"
        run("evaluate.py", recipe, folder / name, "--references", references, *options)

    rows = [row for name in RUNS for row in json.loads((folder / name / "results.json").read_text())["rows"]]
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
    run_script(main)
