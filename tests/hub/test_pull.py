"""An artifact from the Hub, by the real client over HTTP: what comes back, and what is refused."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel

from fake_hub import READER, environment_of
from haba_hf import HabaModel
from haba_hf.hub import fetch_artifact, pull_artifact, push_artifact, read_artifact
from tiny_artifact import CODE, FILES, files_of


def test_pull_gives_back_every_file_and_replaces_an_older_artifact(hub, artifact, tmp_path):
    push_artifact(artifact, "me/tiny")
    hub.put("me/tiny", {**hub.files("me/tiny"), "training_args.bin": b"a pickle", "run.py": b"raise SystemExit"})
    copy = pull_artifact("me/tiny", tmp_path / "copy")
    files = hub.files("me/tiny")
    assert files_of(copy) == {name: files[name] for name in FILES | CODE}
    assert not any(path.is_symlink() for path in copy.rglob("*"))
    again = read_artifact(copy)
    assert again.rows[0].accuracy.mean == 0.8125, "its results came along"
    samples = HabaModel.from_pretrained(artifact).materialize().samples
    assert torch.equal(again.model.materialize().samples, samples)
    assert not hub.asked("GET", r"training_args|run\.py")
    (copy / "gallery.png").write_bytes(b"")
    pull_artifact("me/tiny", copy)
    assert (copy / "gallery.png").read_bytes() == files["gallery.png"]
    push_artifact(copy, "me/again")
    assert hub.files("me/again").keys() == FILES | CODE


@pytest.mark.parametrize("names", [["thesis.tex"], ["README.md"], ["config.json", "model.safetensors"]])
def test_pull_leaves_other_folders_alone(hub, tmp_path, names):
    folder = tmp_path / "work"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("years of work")
    with pytest.raises(ValueError, match=r"work holds other files than an artifact's: name a new folder"):
        pull_artifact("me/tiny", folder)
    assert sorted(path.name for path in folder.iterdir()) == names
    assert hub.requests == []


@pytest.mark.parametrize("name", ["../escape.json", "a/../../b.json", "/etc/passwd", "a\\..\\b"])
def test_file_names_that_leave_their_folder_are_refused(hub, artifact, tmp_path, name):
    push_artifact(artifact, "me/tiny")
    hub.put("me/tiny", {**hub.files("me/tiny"), name: b"{}"})
    with pytest.raises(ValueError, match="would leave its folder"):
        pull_artifact("me/tiny", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_repositories_of_pickles_or_of_other_models_are_refused(hub, artifact, tmp_path):
    push_artifact(artifact, "me/tiny")
    files = hub.files("me/tiny")
    weights = files.pop("model.safetensors")
    hub.put("me/tiny", {**files, "pytorch_model.bin": b"\x80\x04."})
    with pytest.raises(ValueError, match=r"lacks model\.safetensors \(pickled weights are not read\)"):
        pull_artifact("me/tiny", tmp_path / "copy")
    config = json.loads(files["config.json"])
    for changes, message in (
        ({"bases_per_class": 10**9}, "more than the"),
        ({"sample_height": 10**9}, "more than the"),
        ({"id2label": None, "num_labels": 10**12}, "num_labels must be at most"),
        ({"model_type": "resnet"}, "not of a haba artifact"),
    ):
        changed = json.dumps({**config, **changes}).encode()
        hub.put("me/tiny", {**files, "model.safetensors": weights, "config.json": changed})
        with pytest.raises(ValueError, match=message):
            pull_artifact("me/tiny", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_code_of_a_repository_is_not_run(hub, artifact, tmp_path):
    push_artifact(artifact, "me/tiny")
    files = hub.files("me/tiny")
    evil = f"open({str(tmp_path / 'has-run')!r}, 'w')\n".encode()
    hub.put("me/tiny", {name: evil if name.endswith(".py") else content for name, content in files.items()})
    copy = pull_artifact("me/tiny", tmp_path / "copy")
    read_artifact(copy)
    for source in ("me/tiny", copy):
        HabaModel.from_pretrained(source)
        AutoModel.from_pretrained(source)
        AutoImageProcessor.from_pretrained(source)
    push_artifact(copy, "me/again")
    assert evil not in hub.files("me/again").values(), "code that is published is this package's own"
    assert not (tmp_path / "has-run").exists()


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (401, "the Hub does not accept the token, or there is none"),
        (403, "the token has no right to do this"),
        (429, "too many requests: try again"),
        (500, "the Hub has a fault of its own: try again later"),
        (418, "the Hub refuses"),
    ],
)
def test_a_pull_that_is_refused(hub, artifact, tmp_path, status, sentence):
    push_artifact(artifact, "me/tiny")
    hub.fail("GET", "/api/models/me/tiny", status, times=9)
    with pytest.raises(OSError, match=f"me/tiny: {sentence}.*HTTP {status}"):
        pull_artifact("me/tiny", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert not list((tmp_path / "hub-cache").rglob("snapshots/*/*"))


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (403, "the token has no right to do this"),
        (404, "the Hub lacks a file that it lists or was sent: try again"),
        (429, "too many requests: try again in some minutes"),
        (500, "the Hub has a fault of its own: try again later"),
    ],
)
def test_a_file_of_a_pull_that_is_refused(hub, artifact, tmp_path, monkeypatch, status, sentence):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    push_artifact(artifact, "me/tiny")
    for method in ("GET", "HEAD"):
        hub.fail(method, r"/resolve/.*/model\.safetensors", status, times=99)
    with pytest.raises(OSError, match=rf"me/tiny: {sentence}.*\(HTTP {status}\)"):
        pull_artifact("me/tiny", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


WITHOUT_HABA_HF = """
import sys
sys.modules["haba_hf"] = None  # importing it is an ImportError

from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModel

try:
    AutoModel.from_pretrained("me/tiny", trust_remote_code=False)
except ValueError as error:
    print("refused", "trust_remote_code" in str(error))
model = AutoModel.from_pretrained("me/tiny", trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained("me/tiny", trust_remote_code=True)
print(type(model).__name__, type(processor).__name__, processor.size["height"])
save_file({"samples": model.materialize().samples}, sys.argv[1])
"""


@pytest.mark.slow
def test_a_new_process_without_haba_hf_and_then_without_the_hub(hub, artifact, tmp_path):
    push_artifact(artifact, "me/tiny")
    environment = environment_of(hub, tmp_path / "home")
    for offline in ({}, {"HF_HUB_OFFLINE": "1"}):
        if offline:
            hub.close()
        saved = tmp_path / "samples.safetensors"
        saved.unlink(missing_ok=True)
        command = [sys.executable, "-c", WITHOUT_HABA_HF, str(saved)]
        done = subprocess.run(command, env=environment | offline, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.splitlines() == ["refused True", "HabaModel HabaImageProcessor 8"]
        samples = HabaModel.from_pretrained(artifact).materialize().samples
        assert torch.equal(load_file(saved)["samples"], samples)


def test_other_bytes_than_the_hubs_are_refused_and_fetched_anew(hub, artifact, tmp_path):
    """Of the same length, which the client would take."""
    push_artifact(artifact, "me/tiny")
    snapshot = fetch_artifact("me/tiny")
    for name in ("model.safetensors", "config.json"):
        blob = (snapshot / name).resolve()
        content = bytearray(blob.read_bytes())
        content[-3] ^= 1
        blob.write_bytes(content)
        with pytest.raises(OSError, match=f"me/tiny: {name} arrived with other content than the Hub has: try again"):
            pull_artifact("me/tiny", tmp_path / "pulled")
        assert not (tmp_path / "pulled").exists()
        pull_artifact("me/tiny", tmp_path / "pulled")
        shutil.rmtree(tmp_path / "pulled")


def test_a_stranger_sees_what_is_public_and_small(hub, artifact, monkeypatch):
    """As the Space fetches what a visitor names: without its owner's token, and up to a size."""
    push_artifact(artifact, "me/tiny", private=True)
    push_artifact(artifact, "me/open")
    monkeypatch.setenv("HF_TOKEN", READER)
    assert fetch_artifact("me/tiny").is_dir()
    with pytest.raises(OSError, match=r"me/tiny: .*(private|token)"):
        fetch_artifact("me/tiny", token=False)
    assert fetch_artifact("me/open", token=False, most_bytes=10**6).is_dir()
    with pytest.raises(ValueError, match=r"me/open takes [\d,]+ bytes, more than the 1,000 that are fetched here"):
        fetch_artifact("me/open", most_bytes=1000)
