"""An artifact to the Hub and back, by the real client over HTTP."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import AutoModel

from fake_hub import READER, WRITER, environment_of, serving
from haba_hf import HabaModel
from haba_hf.hub import fetch_artifact, pull_artifact, push_artifact, read_artifact
from haba_hf.hub.publish import code_files
from tiny_artifact import tiny_artifact

ROOT = Path(__file__).parents[2]
CODE = {
    "configuration_haba.py",
    "datasets_haba.py",
    "hallucinator_haba.py",
    "modeling_haba.py",
    "output_haba.py",
    "processing_haba.py",
}
FILES = {
    ".eval_results/haba.yaml",
    "README.md",
    "config.json",
    "distillation.json",
    "gallery.png",
    "model.safetensors",
    "preprocessor_config.json",
    "recipe.yaml",
    "results.json",
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serving(tmp_path, monkeypatch) as server:
        yield server
        assert server.unknown == [], "the client asked for what this Hub does not know"


@pytest.fixture
def artifact(tmp_path):
    return tiny_artifact(tmp_path / "run")


def test_push_sends_the_known_files_in_one_commit(hub, artifact):
    (artifact / "checkpoints").mkdir()
    (artifact / "checkpoints" / "model.safetensors").write_bytes(b"not to be published")
    (artifact / "notes.txt").write_text("not to be published")
    (artifact / "modeling_haba.py").write_text("raise SystemExit  # not this package's code")
    url = push_artifact(artifact, "me/tiny", private=True, commit_message="Hello")
    assert url == f"{hub.url}/me/tiny"
    assert hub.files("me/tiny").keys() == FILES | CODE
    repo = hub.repos[("model", "me/tiny")]
    assert [title for _, title, _ in repo.commits] == ["initial commit", "Hello"]
    assert repo.private
    files = hub.files("me/tiny")
    assert files["model.safetensors"] == (artifact / "model.safetensors").read_bytes()
    assert {path.name: path.read_bytes() for path in code_files()} == {name: files[name] for name in CODE}
    assert json.loads(files["results.json"])["rows"][0]["accuracy"]["mean"] == 0.8125
    published = b"".join(files.values())
    assert b"/home/someone" not in published
    assert str(artifact.parent).encode() not in published
    assert WRITER.encode() not in published


def test_code_is_what_save_pretrained_copies(artifact):
    assert {path.name for path in artifact.glob("*.py")} == CODE == {path.name for path in code_files()}


def test_without_code_the_configs_name_none(hub, artifact):
    push_artifact(artifact, "me/tiny")
    push_artifact(artifact, "me/tiny", include_code=False)
    files = hub.files("me/tiny")
    assert files.keys() == FILES, "code of the first push is deleted"
    assert "auto_map" not in json.loads(files["config.json"])
    assert "auto_map" not in json.loads(files["preprocessor_config.json"])
    assert b"trust_remote_code" not in files["README.md"]
    assert AutoModel.from_pretrained("me/tiny").config.num_labels == 4


@pytest.mark.parametrize("as_dataset", [False, True])
def test_second_push_uploads_nothing(hub, artifact, as_dataset):
    push_artifact(artifact, "me/tiny", as_dataset=as_dataset)
    before = len(hub.requests)
    push_artifact(artifact, "me/tiny", as_dataset=as_dataset)
    later = hub.requests[before:]
    assert not [path for method, path in later if method == "PUT" or "/commit/" in path]
    assert len(hub.repos[("dataset" if as_dataset else "model", "me/tiny")].commits) == 2


def test_push_deletes_what_the_artifact_lost_and_leaves_the_rest(hub, artifact):
    push_artifact(artifact, "me/tiny")
    hub.put("me/tiny", {**hub.files("me/tiny"), "LICENSE": b"mine", "docs/gallery.png": b"mine"})
    (artifact / "gallery.png").unlink()
    (artifact.parent / "results.json").unlink()
    push_artifact(artifact, "me/tiny")
    lost = {"gallery.png", "results.json", ".eval_results/haba.yaml"}
    assert hub.files("me/tiny").keys() == (FILES | CODE | {"LICENSE", "docs/gallery.png"}) - lost
    assert b"Not measured" in hub.files("me/tiny")["README.md"]


def test_push_to_a_branch_and_pull_of_a_revision(hub, artifact, tmp_path):
    push_artifact(artifact, "me/tiny")
    model = HabaModel.from_pretrained(artifact)
    with torch.no_grad():
        model.bases.add_(1)
    (artifact.parent / "results.json").unlink()
    model.save_pretrained(artifact)
    push_artifact(artifact, "me/tiny", revision="v2")
    for revision, added in ((None, 0), ("v2", 1)):
        copy = pull_artifact("me/tiny", tmp_path / f"copy {revision}", revision)
        bases = load_file(copy / "model.safetensors")["bases"]
        assert torch.equal(bases, load_file(artifact / "model.safetensors")["bases"]) == bool(added)
        loaded = HabaModel.from_pretrained("me/tiny", revision=revision or "main")
        assert torch.equal(loaded.bases, bases)


def test_pull_gives_back_every_file_and_replaces_an_older_artifact(hub, artifact, tmp_path):
    push_artifact(artifact, "me/tiny")
    hub.put("me/tiny", {**hub.files("me/tiny"), "training_args.bin": b"a pickle", "run.py": b"raise SystemExit"})
    copy = pull_artifact("me/tiny", tmp_path / "copy")
    found = {path.relative_to(copy).as_posix(): path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    files = hub.files("me/tiny")
    assert found == {name: files[name] for name in FILES | CODE}
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


@pytest.mark.parametrize(
    "repo_id", ["tiny", "../me/tiny", "me/../tiny", "me/tiny/..", "-me/tiny", "me/ti ny", "me//tiny"]
)
def test_repo_ids_that_are_none_are_refused(hub, artifact, tmp_path, repo_id):
    for call in (lambda: push_artifact(artifact, repo_id), lambda: pull_artifact(repo_id, tmp_path / "copy")):
        with pytest.raises(ValueError, match="name on the Hub"):
            call()
    assert hub.requests == []


@pytest.mark.parametrize("name", ["pytorch_model.bin", "checkpoints/optimizer.PT", "state.pkl", "last.ckpt"])
def test_folders_with_a_pickle_are_refused(hub, artifact, name):
    (artifact / name).parent.mkdir(exist_ok=True)
    (artifact / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=r"is a pickle, which can run code .* move the file elsewhere"):
        push_artifact(artifact, "me/tiny")
    assert hub.requests == []


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
        ({"model_type": "resnet"}, "not of a haba artifact"),
    ):
        changed = json.dumps({**config, **changes}).encode()
        hub.put("me/tiny", {**files, "model.safetensors": weights, "config.json": changed})
        with pytest.raises(ValueError, match=message):
            pull_artifact("me/tiny", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_unfit_folders_are_refused_before_anything_is_sent(hub, artifact, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no artifact"):
        push_artifact(tmp_path / "nowhere", "me/tiny")
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    (artifact / "gallery.png").unlink()
    (artifact / "gallery.png").symlink_to(secret)
    with pytest.raises(ValueError, match=r"gallery\.png is a link out of its folder"):
        push_artifact(artifact, "me/tiny")
    (artifact / "gallery.png").unlink()
    weights = (artifact / "model.safetensors").read_bytes()
    (artifact / "model.safetensors").write_bytes(weights[:-8])
    with pytest.raises(ValueError, match="is cut off"):
        push_artifact(artifact, "me/tiny")
    (artifact / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no whole artifact, it lacks preprocessor_config\.json"):
        push_artifact(artifact, "me/tiny")
    assert hub.requests == []


def test_results_of_another_artifact_are_refused(hub, artifact):
    path = artifact.parent / "results.json"
    results = json.loads(path.read_text())
    for name in ("weights_fingerprint", "data_fingerprint"):
        path.write_text(json.dumps({**results, name: "fedcba9876543210"}))
        with pytest.raises(ValueError, match=r"results\.json is of another artifact .* evaluate this one again"):
            push_artifact(artifact, "me/tiny")
    for broken, message in (("{", "cannot be read"), ('{"rows": [{}]}', "is not what an evaluation writes")):
        path.write_text(broken)
        with pytest.raises(ValueError, match=message):
            push_artifact(artifact, "me/tiny")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "status", "sentence"),
    [
        ("hf_nobody_secret", 401, r"the Hub does not accept the token, or there is none: run `hf auth login`"),
        (READER, 403, r"the token has no right to do this"),
    ],
)
def test_tokens_that_may_not_write(hub, artifact, token, status, sentence):
    push_artifact(artifact, "me/tiny")
    commits = len(hub.repos[("model", "me/tiny")].commits)
    (artifact / "gallery.png").unlink()
    with pytest.raises(OSError, match=sentence) as caught:
        push_artifact(artifact, "me/tiny", token=token)
    assert f"(HTTP {status})" in str(caught.value)
    assert "secret" not in f"{caught.value} {caught.value.__cause__!r} {caught.value.__cause__}"
    assert len(hub.repos[("model", "me/tiny")].commits) == commits


def test_what_is_not_there(hub, artifact, tmp_path):
    with pytest.raises(OSError, match=r"me/nothing: there is no such repository on the Hub, or it is private"):
        pull_artifact("me/nothing", tmp_path / "copy")
    push_artifact(artifact, "me/tiny")
    with pytest.raises(OSError, match="me/tiny has no revision 'v9' on the Hub"):
        pull_artifact("me/tiny", tmp_path / "copy", "v9")
    assert not (tmp_path / "copy").exists()


def test_a_failing_hub_is_tried_again(hub, artifact, tmp_path, caplog):
    hub.fail("PUT", "/lfs/", 503, times=2)
    hub.drop("POST", "/objects/batch")
    push_artifact(artifact, "me/tiny")
    assert hub.files("me/tiny").keys() == FILES | CODE
    hub.drop("GET", r"/resolve/.*/model\.safetensors")
    hub.fail("GET", "/tree/", 503)
    copy = pull_artifact("me/tiny", tmp_path / "copy")
    assert (copy / "model.safetensors").read_bytes() == (artifact / "model.safetensors").read_bytes()
    assert not any(WRITER in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("fault", ["fail", "drop"])
def test_a_broken_hub_leaves_no_half_repository(hub, artifact, fault):
    status = [503] if fault == "fail" else []
    getattr(hub, fault)("POST", "/commit/", *status, times=20)
    sentence = "has a fault of its own: try again later" if fault == "fail" else "the connection to the Hub failed"
    with pytest.raises(OSError, match=sentence):
        push_artifact(artifact, "me/tiny")
    assert hub.files("me/tiny") == {}
    hub.faults.clear()
    uploaded = len(hub.asked("PUT"))
    push_artifact(artifact, "me/tiny")
    assert hub.files("me/tiny").keys() == FILES | CODE
    assert len(hub.asked("PUT")) == uploaded, "the files that had arrived are not sent again"


@pytest.mark.parametrize("fault", ["fail", "drop"])
def test_a_broken_hub_leaves_no_half_copy(hub, artifact, tmp_path, fault):
    push_artifact(artifact, "me/tiny")
    status = [500] if fault == "fail" else []
    getattr(hub, fault)("GET", r"/resolve/.*/model\.safetensors", *status, times=20)
    with pytest.raises(OSError, match="me/tiny: "):
        pull_artifact("me/tiny", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert not list((tmp_path / "hub-cache").rglob("snapshots/*/model.safetensors"))
    hub.faults.clear()
    pull_artifact("me/tiny", tmp_path / "copy")
    assert read_artifact(tmp_path / "copy").rows


def test_no_hub_and_offline(hub, artifact, tmp_path, monkeypatch):
    push_artifact(artifact, "me/tiny")
    fetch_artifact("me/tiny")
    hub.close()
    with pytest.raises(OSError, match=r"me/tiny: the connection to the Hub failed \(ConnectError\)"):
        push_artifact(artifact, "me/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set"):
        pull_artifact("me/tiny", tmp_path / "copy")
    assert torch.equal(HabaModel.from_pretrained("me/tiny").bases, HabaModel.from_pretrained(artifact).bases), (
        "from the cache"
    )


def test_push_to_hub_of_transformers(hub, artifact, monkeypatch):
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # made once a process, of the first endpoint
    model = HabaModel.from_pretrained(artifact)
    model.push_to_hub("me/plain")
    assert CODE | {"config.json", "model.safetensors", "README.md"} == hub.files("me/plain").keys() | {
        "processing_haba.py"  # the processor's own push brings it
    }
    assert torch.equal(HabaModel.from_pretrained("me/plain").bases, model.bases)


@pytest.mark.parametrize("label_kind", ["hard", "soft"])
def test_samples_as_a_dataset_repository(hub, tmp_path, label_kind):
    artifact = tiny_artifact(tmp_path / "run", label_kind=label_kind)
    url = push_artifact(artifact, "me/tiny", as_dataset=True)
    assert url == f"{hub.url}/datasets/me/tiny"
    tables = {f"{config}/train-00000-of-00001.parquet" for config in ("exact", "images")}
    records = FILES - {"config.json", "model.safetensors", ".eval_results/haba.yaml"}
    assert hub.files("me/tiny", "dataset").keys() == records | tables
    loaded = read_artifact(artifact)
    expected = loaded.model.materialize()

    exact = load_dataset("me/tiny", "exact", split="train").with_format("torch")
    assert torch.equal(exact[:]["sample"], expected.samples)
    assert torch.equal(exact[:]["label"], expected.labels)
    assert exact[:]["hallucinator"].tolist() == expected.hallucinator_ids.tolist()
    assert load_dataset("me/tiny", split="train").column_names == exact.column_names, "exact is the default"
    images = load_dataset("me/tiny", "images", split="train", streaming=True)
    pictures = [row["image"] for row in images]
    assert [picture.tobytes() for picture in pictures] == [
        picture.tobytes() for picture in loaded.processor.to_pil(expected.samples)
    ]
    streamed = next(iter(load_dataset("me/tiny", "exact", split="train", streaming=True)))
    assert torch.equal(torch.tensor(streamed["sample"]), expected.samples[0])


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
