"""Scripts of training/, run as a user would: settings that take seconds, and processes of their own."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from PIL import Image
from transformers import AutoImageProcessor

from haba_hf import HabaImageProcessor, HabaModel
from haba_hf.recipes import parse_recipe

ROOT = Path(__file__).parents[1]
TRAINING = ROOT / "training"
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "HABA_DEBUG"} | {
    "ACCELERATE_USE_CPU": "true",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}
NETWORK = ["--network_depth", "2", "--network_width", "4"]
DM = [*NETWORK, "--steps", "4", "--checkpoint_every", "2", "--real_batch_size", "8"]
MTT = ["--objective", "mtt", "--steps", "3", "--student_steps", "2", "--expert_span", "1", "--max_start", "2"]
TO = ["--report_to", "none", "--output_dir"]
EVALUATION = ["--evaluation_seeds", "2", "--student_epochs", "3", "--real_student_epochs", "1"]


def run_script(name, *arguments, launch=()):
    """Runs a script to its end, which has to be a good one, and returns what it printed."""
    command = [sys.executable, *launch, str(TRAINING / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_two_processes(config="cpu-2", *more):
    """The words that launch a script in two processes on the CPU."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "accelerate.commands.launch", "--main_process_port", str(port)]
    return [*launcher, "--config_file", str(TRAINING / "launch" / f"{config}.yaml"), *more]


def metrics_of(output_dir):
    return [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]


def check_run(output_dir, steps, num_hallucinators):
    """What every distillation leaves."""
    artifact = output_dir / "artifact"
    model = HabaModel.from_pretrained(artifact)
    assert model.config.num_hallucinators == num_hallucinators
    assert model.materialize().samples.shape == (10 * max(num_hallucinators, 1), 1, 8, 8)
    assert model.materialize().samples.isfinite().all()
    assert isinstance(AutoImageProcessor.from_pretrained(artifact), HabaImageProcessor)

    metrics = metrics_of(output_dir)
    assert [line["step"] for line in metrics] == list(range(1, steps + 1))
    assert all({"l_dd", "seconds"} <= line.keys() for line in metrics)
    assert all(("l_cos" in line) == (num_hallucinators > 1) for line in metrics)

    recipe = parse_recipe([str(artifact / "recipe.yaml")])
    assert recipe.distillation.steps == steps
    assert recipe.model.num_hallucinators == num_hallucinators
    provenance = json.loads((artifact / "distillation.json").read_text())
    assert provenance["recipe_hash"] == recipe.hash
    assert provenance["steps"] == steps
    for name in ("gallery.png", "training_curves.png"):
        with Image.open(artifact / name) as picture:
            picture.load()
            assert min(picture.size) > 50
    left = {path.name for path in output_dir.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"}
    assert left == set(), "half-written files stay behind"
