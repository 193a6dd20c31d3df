"""Experts are read: those that a run can use, and every other one is refused."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from haba_hf.distillation import ExpertStore
from haba_hf.distillation.experts import expert_path, flat_parameters
from haba_hf.evaluation import students
from haba_hf.networks import NetworkArguments, build_network
from haba_hf.utils.seeds import derived_seed
from tiny import NETWORK, tiny_data
from tiny_experts import contents, record, tiny_experts


class TestStore:
    def test_snapshots(self, tmp_path):
        data = tiny_data()
        paths = record(tiny_experts(tmp_path), data, num_snapshots=4)
        store = ExpertStore(tiny_experts(tmp_path), NETWORK, data)
        assert len(store) == 2
        assert store.num_snapshots == 4
        found = store.snapshots(1, 3, 0)
        assert torch.equal(torch.stack(found), load_file(paths[1])["snapshots"][[3, 0]])

    def test_more_experts_in_the_folder_do_not_change_the_run(self, tmp_path):
        data = tiny_data()
        record(tiny_experts(tmp_path, num_experts=3), data)
        assert len(ExpertStore(tiny_experts(tmp_path), NETWORK, data)) == 2
        with pytest.raises(FileNotFoundError, match="holds 3 of the 4 experts"):
            ExpertStore(tiny_experts(tmp_path, num_experts=4), NETWORK, data)

    def test_draw(self, tmp_path):
        data = tiny_data()
        paths = record(tiny_experts(tmp_path), data, num_snapshots=4)
        store = ExpertStore(tiny_experts(tmp_path), NETWORK, data)
        recorded = torch.stack([load_file(path)["snapshots"] for path in paths])
        met = set()
        generator = torch.Generator().manual_seed(0)
        for _ in range(40):
            start, target = store.draw(2, 2, generator)
            (position,) = [
                (expert, moment)
                for expert in range(2)
                for moment in range(4)
                if torch.equal(recorded[expert, moment], start)
            ]
            assert torch.equal(recorded[position[0], position[1] + 2], target)
            met.add(position)
        assert met == {(0, 0), (0, 1), (1, 0), (1, 1)}

    def test_shortest_expert_counts(self, tmp_path):
        data = tiny_data()
        record(tiny_experts(tmp_path, num_experts=1), data, num_snapshots=2)
        record(tiny_experts(tmp_path / "longer"), data, num_snapshots=4)
        expert_path(tmp_path / "longer", 1).rename(expert_path(tmp_path, 1))
        assert ExpertStore(tiny_experts(tmp_path), NETWORK, data).num_snapshots == 2

    @pytest.mark.parametrize("exists", [True, False])
    def test_no_experts(self, tmp_path, exists):
        directory = tmp_path / "nowhere"
        if exists:
            directory.mkdir()
        with pytest.raises(FileNotFoundError, match=r"holds 0 of the 2 experts .*: record them by haba experts"):
            ExpertStore(tiny_experts(directory), NETWORK, tiny_data())


OTHERS = {
    "network": (NetworkArguments(network_depth=2, network_width=5), tiny_data()),
    "data": (NETWORK, tiny_data(seed=1)),
}


@pytest.mark.parametrize("what", OTHERS)
def test_experts_of_another_network_or_data_set(tmp_path, what):
    network, data = OTHERS[what]
    record(tiny_experts(tmp_path))
    message = (
        rf"expert-0000\.safetensors was recorded with another {what} \(.*choose another experts_dir, or delete it"
    )
    with pytest.raises(ValueError, match=message):
        ExpertStore(tiny_experts(tmp_path), network, data)
    with pytest.raises(ValueError, match=message):
        record(tiny_experts(tmp_path), data, network=network)


@pytest.mark.parametrize(
    "settings",
    [
        {"expert_learning_rate": 0.1},
        {"expert_momentum": 0.5},
        {"expert_batch_size": 5},
        {"expert_dsa": "none"},
        {"expert_precision": "float16"},
        {"expert_seed": 1},
        {"snapshots_per_epoch": 2},
    ],
)
def test_experts_trained_otherwise_are_not_taken_for_these(tmp_path, settings):
    record(tiny_experts(tmp_path))
    with pytest.raises(ValueError, match="recorded with another training"):
        record(tiny_experts(tmp_path, **settings))


def test_a_run_takes_experts_of_its_training_in_whatever_precision(tmp_path):
    record(tiny_experts(tmp_path))
    with pytest.raises(ValueError, match="recorded with another training"):
        ExpertStore(tiny_experts(tmp_path, snapshots_per_epoch=2), NETWORK, tiny_data())
    for path in tmp_path.iterdir():
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() | {"mixed_precision": "bf16"}
        save_file(load_file(path), path, metadata)
    store = ExpertStore(tiny_experts(tmp_path), NETWORK, tiny_data())
    assert len(store) == 2
    assert store.mixed_precision == "bf16", "which the artifact's record tells"
    with pytest.raises(ValueError, match="recorded with another mixed_precision"):
        record(tiny_experts(tmp_path))


def test_experts_too_short_for_the_recipe(tmp_path):
    record(tiny_experts(tmp_path), num_snapshots=3)
    with pytest.raises(
        ValueError, match="holds fewer than the 4 snapshots this recipe uses: delete it to record anew"
    ):
        record(tiny_experts(tmp_path), num_snapshots=4)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def write_text(path):
    path.write_text("this is not a safetensors file, whatever its name")


@pytest.mark.parametrize("spoil", [truncate, empty, write_text])
def test_damaged_expert(tmp_path, spoil):
    spoil(record(tiny_experts(tmp_path))[1])
    message = r"expert-0001\.safetensors is damaged \(.*\): delete it and record it again"
    with pytest.raises(ValueError, match=message):
        ExpertStore(tiny_experts(tmp_path), NETWORK, tiny_data())
    with pytest.raises(ValueError, match=message):
        record(tiny_experts(tmp_path))


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
@pytest.mark.parametrize("name", ["weight", "snapshots"])
def test_foreign_safetensors(tmp_path, name, metadata):
    save_file({name: torch.zeros(2, 3)}, tmp_path / "expert-0000.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=r"expert-0000\.safetensors is not an expert file of haba_hf: choose another"):
        ExpertStore(tiny_experts(tmp_path, num_experts=1), NETWORK, tiny_data())


def test_students_of_a_run_start_elsewhere_than_its_experts(tmp_path):
    data, arguments = tiny_data(), tiny_experts(tmp_path)
    starts = [load_file(path)["snapshots"][0] for path in record(arguments, data)]
    for index, start in enumerate(starts):
        seed = derived_seed(arguments.expert_seed, index, students.WEIGHTS)
        student = build_network(NETWORK, data.image_shape, data.num_labels, seed)
        assert not torch.equal(flat_parameters(student), start)


def test_signatures_are_readable(tmp_path):
    (path, _) = record(tiny_experts(tmp_path))
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["network"]) == ["convnet", 2, 4, [3, 8, 8], 4]
    assert json.loads(metadata["training"])["batch_size"] == 10
    assert metadata["data"] == tiny_data().fingerprint


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (lambda snapshots: {"others": snapshots}, r"holds snapshots of shape \[\] in place of any x"),
        (lambda snapshots: {"snapshots": snapshots[:, :-1].clone()}, r"holds snapshots of shape .* in place of any x"),
        (lambda snapshots: {"snapshots": snapshots[0].clone()}, r"holds snapshots of shape .* in place of any x"),
    ],
    ids=["another name", "another size", "another rank"],
)
def test_an_expert_of_other_tensors_is_refused(tmp_path, tensors, says):
    arguments, data = tiny_experts(tmp_path), tiny_data()
    path, _ = record(arguments)
    metadata, *_ = contents(path)
    save_file(tensors(load_file(path)["snapshots"]), path, metadata)
    for read in (lambda: ExpertStore(arguments, NETWORK, data), lambda: record(arguments)):
        with pytest.raises(ValueError, match=f"{path.name} {says}.*delete it and record it again"):
            read()
