"""Scripts under Accelerate's launcher: several processes and machines, signals, and the configurations."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from accelerate.commands.config import load_config_from_file
from accelerate.commands.config.config_args import ClusterConfig

from haba_hf import HabaModel
from training_scripts import (
    DM,
    ENVIRONMENT,
    NETWORK,
    TO,
    TRAINING,
    check_run,
    in_two_processes,
    metrics_of,
    run_script,
)


@pytest.mark.slow
def test_two_machines_distil_what_two_processes_of_one_do(tmp_path):
    """The configuration for two machines, with one process each and the loopback between them."""
    run_script("distill.py", *DM, *TO, tmp_path / "one", launch=in_two_processes())

    launch = in_two_processes("nodes-2x8", "--num_processes", "2", "--main_process_ip", "127.0.0.1", "--machine_rank")
    words = [TRAINING / "distill.py", *DM, *TO, tmp_path / "two"]
    machines = [
        subprocess.Popen([sys.executable, *map(str, [*launch, rank, *words])], env=ENVIRONMENT) for rank in (0, 1)
    ]
    assert [machine.wait(300) for machine in machines] == [0, 0]

    (one, two) = (HabaModel.from_pretrained(tmp_path / name / "artifact").state_dict() for name in ("one", "two"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert json.loads((tmp_path / "two" / "artifact" / "distillation.json").read_text())["processes"] == 2
    assert [line["step"] for line in metrics_of(tmp_path / "two")] == [1, 2, 3, 4]  # of the first machine alone


@pytest.mark.slow
def test_an_interrupted_run_ends_in_the_same_bytes(tmp_path):
    """Killed by SIGTERM after a checkpoint and launched again, against a run in one go."""
    options = [*DM, "--num_hallucinators", "2", "--steps", "100", "--checkpoint_every", "10", *TO]
    command = [sys.executable, str(TRAINING / "distill.py"), *options, str(tmp_path / "interrupted")]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "interrupted").glob("checkpoints/step-*")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert not (tmp_path / "interrupted" / "artifact").exists()
    assert len(metrics_of(tmp_path / "interrupted")) < 100

    assert "Resuming at step" in run_script("distill.py", *options, tmp_path / "interrupted")
    run_script("distill.py", *options, tmp_path / "whole")
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        files = [tmp_path / run / "artifact" / name for run in ("interrupted", "whole")]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    logs = [
        [(line["step"], line["l_dd"], line["l_con"]) for line in metrics_of(tmp_path / run)]
        for run in ("interrupted", "whole")
    ]
    assert logs[0] == logs[1]
    check_run(tmp_path / "whole", steps=100, num_hallucinators=2)


@pytest.mark.parametrize("path", sorted((TRAINING / "launch").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_launch_configuration_is_one_that_accelerate_reads(path):
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    written = yaml.safe_load(path.read_text())
    assert written.keys() <= vars(config).keys()
    assert config.num_processes == written["num_processes"]


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "in vain"
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["none", "one process", "two processes"])
def test_sigterm_ends_a_run_and_its_children_where_nothing_is_lost(tmp_path, launcher):
    """SIGTERM to `accelerate launch` itself; the same command goes on where the run was stopped."""
    launch = {
        "none": [],
        "one process": ["-m", "accelerate.commands.launch", "--cpu", "--num_processes=1"],
        "two processes": in_two_processes(),
    }[launcher]
    recipe = TRAINING / "recipes" / "digits" / "dm-1pc.yaml"
    words = [*NETWORK, "--real_batch_size", "8", "--checkpoint_every", "100000", *TO, tmp_path / "run"]
    command = [sys.executable, *launch, TRAINING / "distill.py", recipe, *words]
    command = [*map(str, command), "--learning_rate_schedule", "constant", "--steps"]
    with (tmp_path / "output").open("w") as output:
        run = subprocess.Popen([*command, "100000"], env=ENVIRONMENT, stdout=output, stderr=output)
        log = tmp_path / "run" / "metrics.jsonl"
        wait_for(lambda: log.exists() and len(log.read_text().splitlines()) > 3)
        run.terminate()
        run.wait(60)
    wait_for(lambda: not (tmp_path / "run" / ".lock").exists())
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    step = len(metrics_of(tmp_path / "run"))
    assert checkpoint.name == f"step-{step:08d}"
    assert f"stopped: step {step} is saved, run the same command again to go on" in (tmp_path / "output").read_text()
    if launcher == "none":
        assert run.returncode == 143
    done = subprocess.run(
        [*command, str(step + 1)], env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"Resuming at step {step} from {checkpoint}" in done.stdout
    assert len(metrics_of(tmp_path / "run")) == step + 1
