"""Experts are recorded: as a hand-written loop would, once, by several processes, and whole or not at all."""

import os
import signal
import subprocess
import sys
from itertools import chain

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional as F

from haba_hf.data import Split
from haba_hf.data.augmentation import DSA_STRATEGY, DsaAugmentation
from haba_hf.distillation import ExpertArguments, ExpertStore, expert_recording
from haba_hf.distillation.expert_recording import recording_bytes
from haba_hf.distillation.experts import expert_path
from haba_hf.networks import build_network
from haba_hf.utils.seeds import derived_seed, seeded_generator
from tiny import NETWORK, launch_processes, script_environment, tiny_data
from tiny_experts import contents, record, tiny_experts


def hand_written_trajectory(data, arguments, index, moments):
    """All parameters after each of `moments` SGD steps (0: before the first)."""
    weights = derived_seed(arguments.expert_seed, index, expert_recording.WEIGHTS)
    network = build_network(NETWORK, data.image_shape, data.num_labels, weights)
    generator = seeded_generator(arguments.expert_seed, index, expert_recording.TRAINING)
    velocities = [torch.zeros_like(parameter) for parameter in network.parameters()]
    augmentation = DsaAugmentation(arguments.expert_dsa)
    recorded, step = [], 0
    while True:
        order = torch.randperm(len(data.train), generator=generator)
        for first in range(0, len(order), arguments.expert_batch_size):
            if step in moments:
                recorded.append(torch.cat([parameter.detach().flatten() for parameter in network.parameters()]))
            if len(recorded) == len(moments):
                return torch.stack(recorded)
            rows = order[first : first + arguments.expert_batch_size]
            images = data.processor.normalize(data.train.images[rows])
            images = augmentation.apply(images, augmentation.draw(len(rows), generator))
            loss = F.cross_entropy(network(images), data.train.labels[rows])
            for parameter, velocity, gradient in zip(
                network.parameters(), velocities, torch.autograd.grad(loss, list(network.parameters())), strict=True
            ):
                velocity.mul_(arguments.expert_momentum).add_(gradient)
                parameter.data.sub_(arguments.expert_learning_rate * velocity)
            step += 1


@pytest.mark.parametrize(
    ("settings", "moments"),
    [
        # 24 images in batches of 10 are 3 steps an epoch
        ({"expert_dsa": "none"}, [0, 3, 6, 9]),
        ({"expert_dsa": DSA_STRATEGY, "expert_momentum": 0.9, "expert_seed": 5}, [0, 3, 6, 9]),
        ({"snapshots_per_epoch": 3, "expert_learning_rate": 0.1}, [0, 1, 2, 3]),
        ({"snapshots_per_epoch": 2}, [0, 2, 3, 5]),
    ],
)
def test_snapshots_equal_a_hand_written_training_loop(tmp_path, settings, moments):
    data = tiny_data()
    arguments = tiny_experts(tmp_path, **settings)
    paths = record(arguments, data, num_snapshots=4)
    assert paths == [tmp_path / "expert-0000.safetensors", tmp_path / "expert-0001.safetensors"]
    for index, path in enumerate(paths):
        snapshots = load_file(path)["snapshots"]
        expected = hand_written_trajectory(data, arguments, index, moments)
        assert snapshots.shape == expected.shape
        torch.testing.assert_close(snapshots, expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(snapshots[0], expected[0])
    assert not torch.equal(load_file(paths[0])["snapshots"][0], load_file(paths[1])["snapshots"][0])


def test_only_what_a_run_can_draw_is_recorded(tmp_path, capsys):
    data = tiny_data()
    arguments = tiny_experts(tmp_path)
    (path, _) = record(arguments, data, num_snapshots=5)
    network = build_network(NETWORK, data.image_shape, data.num_labels, seed=0)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    with safe_open(path, framework="pt") as file:
        assert file.get_slice("snapshots").get_shape() == [5, parameters]
    size = recording_bytes(network, 5, arguments)
    assert size == 2 * 5 * parameters * 4
    assert size <= sum(path.stat().st_size for path in tmp_path.iterdir()) < size + 2000
    assert f"Experts: 2 x 5 snapshots, 0 MB in {tmp_path}" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["expert-0000.safetensors", "expert-0001.safetensors"]


def test_a_second_call_trains_nothing_and_a_deleted_expert_comes_back(tmp_path, monkeypatch):
    arguments = tiny_experts(tmp_path, num_experts=3)
    paths = record(arguments)
    before = [contents(path) for path in paths]
    paths[1].unlink()
    torch.manual_seed(99)
    trained = []
    train = expert_recording._train
    monkeypatch.setattr(expert_recording, "_train", lambda *words: trained.append(words[3]) or train(*words))
    assert record(arguments) == paths
    assert trained == [1]
    record(arguments)
    record(arguments, num_snapshots=2)
    assert trained == [1]
    assert [contents(path) for path in paths] == before


def test_more_experts_are_added(tmp_path):
    (path,) = record(tiny_experts(tmp_path, num_experts=1))
    first = path.read_bytes()
    paths = record(tiny_experts(tmp_path, num_experts=3))
    assert len(paths) == 3 and all(path.exists() for path in paths)
    assert paths[0].read_bytes() == first


def test_global_random_state_is_neither_used_nor_changed(tmp_path):
    torch.manual_seed(1)
    (path, _) = record(tiny_experts(tmp_path / "a"))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    (again, _) = record(tiny_experts(tmp_path / "b"))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(load_file(path)["snapshots"], load_file(again)["snapshots"])


def test_a_file_says_its_data_and_what_the_expert_reached(tmp_path):
    data = tiny_data()
    (path, _) = record(tiny_experts(tmp_path / "a"), data, num_snapshots=4)
    network = build_network(NETWORK, data.image_shape, data.num_labels, seed=0)
    torch.nn.utils.vector_to_parameters(load_file(path)["snapshots"][-1], network.parameters())
    predicted = network(data.processor.normalize(data.validation.images)).argmax(dim=1)
    expected = (predicted == data.validation.labels).double().mean().item()
    header, *_ = contents(path)
    assert header["dataset"] == "tiny"
    assert header["validation_accuracy"] == f"{expected:.4f}"

    data.validation = Split(data.validation.images[:0], data.validation.labels[:0])
    (path, _) = record(tiny_experts(tmp_path / "b"), data)
    assert "validation_accuracy" not in contents(path)[0]


def test_half_precision(tmp_path):
    data = tiny_data()
    full = record(tiny_experts(tmp_path / "full"), data)
    half = record(tiny_experts(tmp_path / "half", expert_precision="float16"), data)
    for wide, narrow in zip(full, half, strict=True):
        assert load_file(narrow)["snapshots"].dtype == torch.float16
        assert torch.equal(load_file(narrow)["snapshots"], load_file(wide)["snapshots"].half())
        assert narrow.stat().st_size < 0.6 * wide.stat().st_size
    stored_half = tiny_experts(tmp_path / "half", expert_precision="float16")
    (first,) = ExpertStore(stored_half, NETWORK, data).snapshots(0, 1)
    assert first.dtype == torch.float32
    assert torch.equal(first, load_file(half[0])["snapshots"][1].float())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_expert_leaves_no_file(tmp_path, monkeypatch, error):
    """In training, and while its file is written."""
    arguments = tiny_experts(tmp_path)
    (path, _) = record(arguments)
    expected = contents(expert_path(tmp_path, 1))
    expert_path(tmp_path, 1).unlink()

    def stop(*_):
        raise error("stop")

    with monkeypatch.context() as patched:
        patched.setattr(F, "cross_entropy", stop)
        with pytest.raises(error):
            record(arguments)
    assert os.listdir(tmp_path) == [path.name]

    def write_a_part(tensors, aside, metadata):
        aside.write_bytes(b"half")
        raise error("stop")

    with monkeypatch.context() as patched:
        patched.setattr(expert_recording, "save_file", write_a_part)
        with pytest.raises(error):
            record(arguments)
    assert os.listdir(tmp_path) == [path.name]
    record(arguments)
    assert contents(expert_path(tmp_path, 1)) == expected


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path):
    arguments = tiny_experts(tmp_path / "alone", num_experts=3)
    alone = record(arguments)
    lines = launch_processes(
        tmp_path,
        r"""
        import sys
        from tiny import NETWORK, tiny_accelerator, tiny_data
        from haba_hf.distillation import ExpertArguments, ExpertStore, expert_recording, record_experts

        accelerator = tiny_accelerator()
        data = tiny_data()
        trained, train = [], expert_recording._train
        expert_recording._train = lambda *words: trained.append(words[3]) or train(*words)
        arguments = ExpertArguments(experts_dir=sys.argv[1], num_experts=3, expert_batch_size=10)
        paths = record_experts(data, NETWORK, arguments, 3, accelerator)
        # When it returns, the experts of the other process are there too.
        store = ExpertStore(arguments, NETWORK, data)
        rank, count = accelerator.process_index, accelerator.num_processes
        print(f"RESULT {rank} of {count}, {len(store)} {len(paths)}:", *trained)
        """,
        str(tmp_path / "shared"),
    )
    assert [line.split(":")[0] for line in lines] == ["RESULT 0 of 2, 3 3", "RESULT 1 of 2, 3 3"]
    assert sorted(" ".join(line.split(":")[1] for line in lines).split()) == ["0", "1", "2"]
    for path in alone:
        assert contents(tmp_path / "shared" / path.name) == contents(path)


RECORDS = """
import sys, time
from pathlib import Path
from tiny import NETWORK, tiny_accelerator, tiny_data
from haba_hf.distillation import ExpertArguments, expert_recording, record_experts

folder, name = Path(sys.argv[1]), sys.argv[2]
trained, train = [], expert_recording._train

def slowly(*words):
    trained.append(words[3])
    (folder / f"{name} is ready").touch()
    while len(list(folder.glob("* is ready"))) < 2:
        time.sleep(0.01)
    return train(*words)

expert_recording._train = slowly
arguments = ExpertArguments(experts_dir=str(folder / "shared"), num_experts=3, expert_batch_size=10)
record_experts(tiny_data(), NETWORK, arguments, 3, tiny_accelerator())
print("TRAINED", *trained)
"""


@pytest.mark.slow
def test_runs_that_share_a_folder_share_the_work(tmp_path):
    """Two machines, as far as the folder can tell: nothing else joins the two runs."""
    command = [sys.executable, "-c", RECORDS, str(tmp_path)]
    runs = [
        subprocess.Popen([*command, name], env=script_environment(), stdout=subprocess.PIPE, text=True)
        for name in ("a", "b")
    ]
    trained = [
        line.split()[1:]
        for run in runs
        for line in run.communicate(timeout=300)[0].splitlines()
        if line.startswith("TRAINED")
    ]
    assert all(trained) and sorted(chain(*trained)) == ["0", "1", "2"]
    for path in record(tiny_experts(tmp_path / "alone", num_experts=3)):
        assert contents(tmp_path / "shared" / path.name) == contents(path)
    assert len(os.listdir(tmp_path / "shared")) == 3, "no claim stays"


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "silent"])
def test_the_claim_of_a_process_that_ended_is_taken_over(tmp_path, monkeypatch, capsys, ending):
    """A killed process of this machine, and one whose state cannot be known, as on another machine that went down."""
    monkeypatch.setattr(expert_recording, "CLAIM_SECONDS", 1.0)
    claim = tmp_path / ".expert-0001.safetensors.claim"
    hold = "import sys, filelock as f; x = f.SoftFileLease(sys.argv[1], lease_duration=1.0)"
    hold += "; x.acquire(); print(); input()"
    with subprocess.Popen(
        [sys.executable, "-uc", hold, str(claim)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        try:
            holder.stdout.readline()
            holder.send_signal(ending)
            if ending == signal.SIGKILL:
                holder.wait()
            assert claim.exists()
            assert [path.exists() for path in record(tiny_experts(tmp_path))] == [True, True]
        finally:
            holder.kill()
    said = "Experts that other processes are training, waited for: 1" in capsys.readouterr().out
    assert said == (ending == signal.SIGSTOP)
    assert not claim.exists()


def test_divergence(tmp_path):
    with pytest.raises(
        FloatingPointError, match=r"Expert 0 diverged \(loss .*\): lower expert_learning_rate, now 1e\+30"
    ):
        record(tiny_experts(tmp_path, expert_learning_rate=1e30), num_snapshots=9)
    assert os.listdir(tmp_path) == []


def test_divergence_in_the_step_of_a_snapshot(tmp_path):
    """The loss is still finite, the parameters are not."""
    data = tiny_data()
    arguments = tiny_experts(tmp_path, expert_batch_size=24, expert_dsa="none")
    arguments.expert_learning_rate = float("inf")  # which no recipe can set
    with pytest.raises(FloatingPointError, match="Expert 0 diverged"):
        record(arguments, data, num_snapshots=2)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"num_experts": 0}, "num_experts must be at least 1"),
        ({"snapshots_per_epoch": 0}, "snapshots_per_epoch must be at least 1"),
        ({"expert_batch_size": 0}, "expert_batch_size must be at least 1"),
        ({"expert_learning_rate": 0.0}, "expert_learning_rate must be positive"),
        ({"expert_dsa": "blur"}, "blur"),
    ],
)
def test_unfit_settings_are_refused_before_anything_is_trained(setting, message):
    with pytest.raises(ValueError, match=message):
        ExpertArguments(**setting)


def test_more_snapshots_than_steps(tmp_path):
    with pytest.raises(ValueError, match="snapshots_per_epoch is 4, but an epoch has only 3 steps"):
        record(tiny_experts(tmp_path, snapshots_per_epoch=4))


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Cannot write .*file/experts"):
        record(tiny_experts(tmp_path / "file" / "experts"))
