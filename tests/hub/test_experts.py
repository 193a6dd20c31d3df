"""Experts to the Hub and back, by the real client over HTTP, and what is refused on the way."""

import json
import shutil

import pytest
import torch
from huggingface_hub import DatasetCard
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fake_hub import READER
from haba_hf.distillation import ExpertStore, record_experts
from haba_hf.hub import pull_experts, push_experts, read_experts
from haba_hf.hub.experts import render_experts_card
from tiny import NETWORK, tiny_accelerator, tiny_data
from tiny_runs import stored

NAMES = ["expert-0000.safetensors", "expert-0001.safetensors"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    record_experts(tiny_data(), NETWORK, stored(folder), 3, tiny_accelerator())
    return folder


@pytest.fixture
def experts(recorded, tmp_path):
    return shutil.copytree(recorded, tmp_path / "experts")


def rewrite(path, tensors=None, **header):
    """The file with other tensors, or other words in its header; `None` takes one out."""
    with safe_open(path, framework="pt") as file:
        words = file.metadata() | header
    words = {name: word for name, word in words.items() if word is not None}
    save_file(load_file(path) if tensors is None else tensors, path, words)


def test_there_and_back(hub, experts, tmp_path):
    (experts / "notes.txt").write_text("not to be published")
    url = push_experts(experts, "me/experts", private=True, commit_message="Hello")
    assert url == f"{hub.url}/datasets/me/experts"
    repo = hub.repos[("dataset", "me/experts")]
    assert repo.private and [title for _, title, _ in repo.commits] == ["initial commit", "Hello"]
    files = hub.files("me/experts", "dataset")
    assert sorted(files) == ["README.md", *NAMES]

    (tmp_path / "copy").mkdir()
    assert pull_experts("me/experts", tmp_path / "copy") == tmp_path / "copy"
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()} == files
    assert files[NAMES[1]] == (experts / NAMES[1]).read_bytes()
    store = ExpertStore(stored(tmp_path / "copy"), NETWORK, tiny_data())
    assert torch.equal(store.snapshots(1, 2)[0], load_file(experts / NAMES[1])["snapshots"][2])
    assert push_experts(tmp_path / "copy", "me/again").endswith("me/again")


def test_the_card_says_what_the_files_hold(experts):
    text = render_experts_card(read_experts(experts), "me/experts-tiny")
    card = DatasetCard(text)
    assert card.data.pretty_name == "experts-tiny" and "expert-trajectories" in card.data.tags
    accuracies = []
    for name in NAMES:
        with safe_open(experts / name, framework="pt") as file:
            accuracies.append(float(file.metadata()["validation_accuracy"]))
    size = sum((experts / name).stat().st_size for name in NAMES)
    for line in (
        "2 expert trajectories of tiny: networks trained on real data",
        "haba experts pull me/experts-tiny experts",
        "network_width: 4\n",
        "expert_batch_size: 10\n",
        "can be up to 3.",
        "| network | convnet of depth 2 and width 4: 344 parameters, images of 3x8x8, 4 classes |",
        "| snapshots of each | 3, from before the first step to epoch 2 |",
        f"| size | {size:,} bytes, numbers of float32 |",
        f"| validation accuracy of the last snapshot | {50 * sum(accuracies):.1f} %, mean of 2 ",
        "| data | tiny |",
        f"| hash of the training images and labels | {tiny_data().fingerprint} |",
    ):
        assert line in text, line
    assert "experts_dir: " not in text, "where they lay is private"


def test_experts_recorded_without_name_and_accuracy_are_published_without(experts):
    rewrite(experts / NAMES[0], dataset=None, validation_accuracy=None)
    assert read_experts(experts).dataset == "tiny" and len(read_experts(experts).accuracies) == 1
    rewrite(experts / NAMES[1], dataset=None, validation_accuracy=None)
    text = render_experts_card(read_experts(experts), "me/old")
    assert "2 expert trajectories: networks" in text and "| data | not on record |" in text
    assert "accuracy" not in text


def test_markup_in_a_name_is_shown_and_not_obeyed(experts):
    for name in NAMES:
        rewrite(experts / name, dataset="[x](https://evil) {{ 7 * 7 }}")
    text = render_experts_card(read_experts(experts), "me/odd")
    assert "[x](" not in text and "49" not in text and "{{ 7" in text


def test_a_second_push_replaces_what_is_no_longer_there(hub, experts):
    push_experts(experts, "me/experts")
    hub.put("me/experts", hub.files("me/experts", "dataset") | {"notes.md": b"mine"}, "dataset")
    (experts / NAMES[1]).unlink()
    push_experts(experts, "me/experts", revision="small")
    assert sorted(hub.files("me/experts", "dataset", "small")) == ["README.md", NAMES[0], "notes.md"]
    assert push_experts(experts, "me/experts", create_pr=True).endswith("/discussions/1")
    assert NAMES[1] in hub.files("me/experts", "dataset")


def spoiled(experts, how):
    path = experts / NAMES[1]
    snapshots = load_file(path)["snapshots"]
    with safe_open(path, framework="pt") as file:
        training = json.loads(file.metadata()["training"])
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    elif how == "gap":
        path.rename(experts / "expert-0002.safetensors")
    elif how == "none":
        for name in NAMES:
            (experts / name).unlink()
    elif how == "NaN":
        snapshots[1, 7] = float("nan")
        rewrite(path, {"snapshots": snapshots})
    elif how == "more tensors":
        rewrite(path, {"snapshots": snapshots, "more": torch.zeros(1)})
    elif how == "no header":
        rewrite(path, network=None)
    elif how in ("data", "dataset", "mixed_precision"):
        rewrite(path, **{how: "another"})
    elif how == "size":
        rewrite(path, {"snapshots": snapshots[:, 1:].contiguous()})
    elif how == "type":
        rewrite(path, {"snapshots": snapshots.half()})
    elif how == "accuracy":
        rewrite(path, validation_accuracy="very good")
    else:
        words = {
            "network": {"network": '["convnet", 2, 4, [3, 8, 8], "many"]'},
            "own network": {"network": '["mine", [3, 8, 8], 4]'},
            "training": {"training": json.dumps(training | {"dsa": "blur"})},
            "more training": {"training": json.dumps(training | {"else": 1})},
        }[how]
        for name in NAMES:
            rewrite(experts / name, **words)


UNFIT = {
    "cut": "holds a damaged expert",
    "gap": r"lacks expert-0001\.safetensors, for experts are numbered from 0 on",
    "NaN": r"expert-0001\.safetensors holds NaN or infinity in snapshot 1",
    "more tensors": "is not an expert file of haba_hf",
    "no header": "is not an expert file of haba_hf",
    "data": r"expert-0001\.safetensors is of another data than the experts before",
    "dataset": "is of another dataset than",
    "mixed_precision": "is of another mixed_precision than",
    "size": "holds 343 parameters of torch.float32 where its network has 344",
    "type": "holds 344 parameters of torch.float16 where .* its training says float32",
    "accuracy": "states a validation accuracy of 'very good'",
    "network": "names no network that is known here",
    "own network": "names no network that is known here .*There is no network 'mine'",
    "training": "does not say how it was trained .*blur",
    "more training": "does not say how it was trained",
}


def test_unfit_experts_are_not_sent(hub, recorded, tmp_path):
    for how, message in UNFIT.items():
        experts = shutil.copytree(recorded, tmp_path / how)
        spoiled(experts, how)
        with pytest.raises(ValueError, match=message):
            push_experts(experts, "me/experts")
    spoiled(experts, "none")
    with pytest.raises(FileNotFoundError, match="holds no experts: give the folder that haba experts wrote"):
        push_experts(experts, "me/experts")
    for repo_id, words, message in (("experts", {}, "owner/name"), ("me/x", {"revision": "a"}, "against main")):
        with pytest.raises(ValueError, match=message):
            push_experts(recorded, repo_id, create_pr=True, **words)
    assert hub.requests == []


@pytest.mark.parametrize("how", ["NaN", "gap", "more training"])
def test_unfit_experts_are_not_taken(hub, experts, tmp_path, how):
    spoiled(experts, how)
    hub.put("you/odd", {path.name: path.read_bytes() for path in experts.iterdir()}, "dataset")
    with pytest.raises(ValueError, match=UNFIT[how]):
        pull_experts("you/odd", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_repositories_that_hold_no_experts(hub, recorded, tmp_path):
    hub.put("you/pickles", {"replay_buffer_0.pt": b"pickle"}, "dataset")
    with pytest.raises(ValueError, match=r"you/pickles holds no experts, it lacks expert-0000.* \(pickled weights"):
        pull_experts("you/pickles", tmp_path / "copy")
    hub.put("you/climber", {"../expert-0000.safetensors": b""}, "dataset")
    with pytest.raises(ValueError, match="would leave its folder"):
        pull_experts("you/climber", tmp_path / "copy")
    with pytest.raises(ValueError, match="is not empty: name a new folder for the experts"):
        pull_experts("you/pickles", recorded)
    assert not (tmp_path / "copy").exists()


def test_faults_of_the_hub_are_sentences(hub, experts, tmp_path, monkeypatch):
    with pytest.raises(OSError, match=r"me/none: there is no such repository on the Hub.*\(HTTP 404\)"):
        pull_experts("me/none", tmp_path / "copy")
    hub.fail("POST", "/commit/", 403)
    with pytest.raises(OSError, match=r"me/new: the token has no right to do this.*The new repository is empty"):
        push_experts(experts, "me/new")
    push_experts(experts, "me/experts")
    hub.say("GET", r"/resolve/.*/expert-0001", b"x" * len((experts / NAMES[1]).read_bytes()), times=9)
    with pytest.raises(OSError, match=r"expert-0001\.safetensors arrived with other content than the Hub has"):
        pull_experts("me/experts", tmp_path / "copy")
    monkeypatch.setenv("HF_TOKEN", READER)
    with pytest.raises(OSError, match="the token has no right to do this"):
        push_experts(experts, "me/experts")
    assert not (tmp_path / "copy").exists()
