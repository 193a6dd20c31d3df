"""Fifty SIGKILLs and ten SIGTERMs at random moments: the same bytes in the end, and no leftovers."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from haba_hf.hub import export_artifact
from haba_hf.recipes import parse_recipe, run_script
from haba_hf.runs import distill, evaluate, record
from haba_hf.utils.files import LEFTOVER
from tiny import tiny_accelerator
from tiny_artifact import tiny_artifact

COMMON = ["--dataset", "digits", "--max_train_samples", "50", "--network_depth", "2", "--network_width", "4"]
COMMON += ["--real_batch_size", "4", "--evaluation_seeds", "3", "--student_epochs", "40", "--references", "random"]
COMMON += ["--report_to", "none", "--num_hallucinators", "2", "--checkpoint_every", "3"]


def dm(folder):
    distill(parse_recipe([*COMMON, "--network_bank", "1", "--steps", "25", "--output_dir", f"{folder}"]), ready())


def mtt(folder):
    words = ["--objective", "mtt", "--experts_dir", f"{folder}/experts", "--num_experts", "3", "--max_start", "2"]
    words += ["--expert_span", "1", "--student_steps", "2", "--steps", "12", "--expert_batch_size", "32"]
    recipe = parse_recipe([*COMMON, *words, "--output_dir", f"{folder}/run"])
    record(recipe, ready())
    distill(recipe, ready())


def evaluation(folder):
    words = ["--artifact", f"{folder.parent}/dm-whole/artifact", "--output_dir", f"{folder}"]
    evaluate(parse_recipe([*COMMON, *words]), ready())


def export(folder):
    for _ in range(5):  # the first makes the folder, the others take its place
        export_artifact(folder.parent / "artifact", folder / "exported")


def ready():
    return tiny_accelerator()


def in_a_process(work, folder, signum=None, after=0.0):
    """Runs `work` and, after some seconds, sends it a signal; returns whether that came before its end."""
    process = multiprocessing.get_context("fork").Process(target=quietly, args=(work, folder))
    process.start()
    if signum is not None:
        process.join(after)
        if process.is_alive():
            os.kill(process.pid, signum)
    process.join(120)
    if process.exitcode == 0:
        return False
    # 143 once it has begun, -15 before it.
    assert process.exitcode in (-signal.SIGKILL, 128 + signal.SIGTERM, -signal.SIGTERM), process.exitcode
    return True


def quietly(work, folder):
    with Path(os.devnull).open("w") as nowhere:
        for number in (1, 2):
            os.dup2(nowhere.fileno(), number)
        run_script(lambda: work(folder))


def header_and_values(path):
    """All of a safetensors file; the order in which its library writes metadata is another in every process."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def ends_of(folder):
    """What a run leaves: contents by name, without what a clock or a picture has in it."""
    ends = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        assert not LEFTOVER.fullmatch(path.name) and path.name != ".lock", name
        assert not any(LEFTOVER.fullmatch(part) for part in path.relative_to(folder).parts), name
        if path.name in ("distillation.json", "results.json", "README.md") or "/checkpoints/" in f"/{name}":
            continue  # SIGTERM writes a checkpoint of its own
        if path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            ends[name] = [{key: value for key, value in line.items() if "second" not in key} for line in lines]
        elif path.suffix == ".safetensors":
            ends[name] = header_and_values(path)
        elif path.suffix == ".json":
            ends[name] = path.read_bytes()
        else:
            ends[name] = None
    for path in folder.rglob("results.json"):
        rows = json.loads(path.read_text())["rows"]
        ends[path.relative_to(folder).as_posix()] = [row["accuracy"]["accuracies"] for row in rows]
    return ends


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "kills", "terms"),
    [
        pytest.param(dm, 18, 4, id="dm"),
        pytest.param(mtt, 16, 3, id="mtt with its experts"),
        pytest.param(evaluation, 8, 2, id="evaluation"),
        pytest.param(export, 8, 1, id="export"),
    ],
)
def test_whatever_moment_a_run_is_ended_at(tmp_path, work, kills, terms):
    draw = random.Random(0)
    tiny_artifact(tmp_path)
    if work is evaluation:
        in_a_process(dm, tmp_path / "dm-whole")
    started = time.monotonic()
    assert not in_a_process(work, tmp_path / "whole")
    seconds = time.monotonic() - started
    wanted = ends_of(tmp_path / "whole")
    signals = [signal.SIGKILL] * kills + [signal.SIGTERM] * terms
    draw.shuffle(signals)
    folder = tmp_path / "killed"
    while signals:
        if in_a_process(work, folder, signals[-1], after=draw.uniform(0, seconds)):
            signals.pop()
        else:  # it was faster: once more from the start
            assert ends_of(folder) == wanted
            shutil.rmtree(folder)
    assert not in_a_process(work, folder)
    assert ends_of(folder) == wanted
