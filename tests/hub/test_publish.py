"""An artifact to the Hub and back, by the real client over HTTP."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from huggingface_hub import ModelCard, constants
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel

from fake_hub import READER, WRITER, environment_of, serving
from haba_hf import HabaConfig, HabaModel
from haba_hf.artifact.whitening_haba import WHITENING
from haba_hf.hub import export_artifact, fetch_artifact, pull_artifact, push_artifact, read_artifact
from haba_hf.hub.artifact import fingerprints
from haba_hf.hub.publish import code_files
from haba_hf.utils.files import write_json
from tiny_artifact import tiny_artifact

ROOT = Path(__file__).parents[2]
CODE = {
    "card_haba.py",
    "files_haba.py",
    "configuration_haba.py",
    "datasets_haba.py",
    "hallucinator_haba.py",
    "modeling_haba.py",
    "output_haba.py",
    "processing_haba.py",
    "saving_haba.py",
    "storage_haba.py",
    "whitening_haba.py",
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


def files_of(folder):
    """Contents by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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


def test_a_whitening_goes_along_and_is_missed(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # made once a process, of the first endpoint
    artifact = tiny_artifact(tmp_path / "run", zca=True)
    push_artifact(artifact, "me/white")
    assert hub.files("me/white").keys() == FILES | CODE | {WHITENING}
    card = hub.files("me/white")["README.md"].decode()
    assert "| whitening | 4,160 |" in card and "Samples live in ZCA-whitened space" in card
    assert "plain images per class without the whitening, which plain images in its space would need" in card
    found = read_artifact(pull_artifact("me/white", tmp_path / "copy"))
    assert found.processor.whitening_fingerprint == found.model.config.whitening
    assert AutoImageProcessor.from_pretrained("me/white").whitening_fingerprint == found.model.config.whitening

    push_artifact(artifact, "me/white", as_dataset=True)
    files = hub.files("me/white", "dataset")
    assert files[WHITENING] == (artifact / WHITENING).read_bytes()
    assert json.loads(files["preprocessor_config.json"])["whitening"] == found.model.config.whitening

    files = hub.files("me/white")
    del files[WHITENING]
    hub.put("me/lost", files)
    for load in (
        lambda: pull_artifact("me/lost", tmp_path / "lost"),
        lambda: AutoImageProcessor.from_pretrained("me/lost"),
    ):
        with pytest.raises(ValueError, match=r"whitens images, but its whitening\.safetensors is missing"):
            load()
    assert not (tmp_path / "lost").exists()
    push_artifact(tiny_artifact(tmp_path / "plain"), "me/white")
    assert hub.files("me/white").keys() == FILES | CODE, "a whitening that is no longer the artifact's is deleted"


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
        ({"sample_height": 10**9}, "more than the"),
        ({"id2label": None, "num_labels": 10**12}, "num_labels must be at most"),
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
    (artifact.parent / "robustness.png").symlink_to(secret)
    with pytest.raises(ValueError, match=r"robustness\.png is a link out of its folder"):
        push_artifact(artifact, "me/tiny")
    (artifact.parent / "robustness.png").unlink()
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


def test_an_export_is_what_a_push_uploads(hub, tmp_path):
    directory = tiny_artifact(tmp_path / "run", analysed=True)
    exported = export_artifact(directory, tmp_path / "exported", repo_id="me/tiny")
    push_artifact(directory, "me/tiny")
    assert files_of(exported) == hub.files("me/tiny")
    assert {"cross_architecture.json", "robustness.json", "robustness.png"} <= hub.files("me/tiny").keys()
    before = len(hub.requests)
    push_artifact(exported, "me/tiny")
    assert not [path for _, path in hub.requests[before:] if "/commit/" in path], "it is an artifact like any other"
    assert read_artifact(exported).rows[0].accuracy.mean == 0.8125
    samples = HabaModel.from_pretrained(directory).materialize().samples
    assert torch.equal(HabaModel.from_pretrained(exported).materialize().samples, samples)


def test_an_export_takes_the_place_of_an_artifact_alone(artifact, tmp_path):
    exported = export_artifact(artifact, tmp_path / "exported", include_code=False)
    before = files_of(exported)
    assert before.keys() == FILES
    assert export_artifact(exported, exported, include_code=False) == exported
    assert files_of(exported) == before, "to itself"
    (exported / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="exported holds other files than an artifact's"):
        export_artifact(artifact, exported)
    (artifact / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="is a pickle"):
        export_artifact(artifact, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["results.json", "cross_architecture.json", "robustness.json"])
def test_measurements_of_another_artifact_are_refused(tmp_path, name):
    directory = tiny_artifact(tmp_path, analysed=True)
    path = tmp_path / name
    record = json.loads(path.read_text())
    key = "systems" if name == "robustness.json" else "rows"
    without = dict(record[key][0])
    without.pop("clean" if name == "robustness.json" else "accuracy")
    for changes, message in (
        ({"weights_fingerprint": "fedcba9876543210"}, f"{name} is of another artifact"),
        ({"data_fingerprint": "fedcba9876543210"}, f"{name} is of another artifact"),
        ({key: []}, f"{name} is not what an evaluation writes"),
        ({key: [without]}, f"{name} is not what an evaluation writes"),
    ):
        path.write_text(json.dumps(record | changes))
        with pytest.raises(ValueError, match=message):
            read_artifact(directory)


def test_records_that_are_none_are_refused(artifact):
    recipe = (artifact / "recipe.yaml").read_text()
    aliases = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
    (artifact / "recipe.yaml").write_text(f"{recipe}\na0: &a0 [1]\n{aliases}")
    with pytest.raises(ValueError, match=r"recipe\.yaml is no recipe, whose values are numbers, words or lists"):
        read_artifact(artifact)
    (artifact / "recipe.yaml").write_text("!!python/object/apply:os.system [exit 1]")
    with pytest.raises(ValueError, match=r"recipe\.yaml cannot be read"):
        read_artifact(artifact)
    (artifact / "recipe.yaml").write_text(recipe)
    (artifact / "coreset.json").write_text('{"coreset": "herding"}')
    with pytest.raises(ValueError, match="an artifact is either distilled or chosen"):
        read_artifact(artifact)
    (artifact / "coreset.json").unlink()
    (artifact / "distillation.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"distillation\.json cannot be read"):
        read_artifact(artifact)


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


def test_tokens_reach_no_log_and_no_file(hub, artifact, tmp_path, caplog, capfd):
    """With every logger at its most talkative."""
    caplog.set_level(logging.DEBUG)
    for name in ("httpx2", "httpcore2", "huggingface_hub", "transformers", "datasets", "filelock"):
        caplog.set_level(logging.DEBUG, logger=name)
    push_artifact(artifact, "me/tiny", token=WRITER)
    push_artifact(artifact, "me/tiny", as_dataset=True)
    pull_artifact("me/tiny", tmp_path / "copy")
    hub.fail("POST", "/commit/", 500, times=9)
    (artifact / "gallery.png").unlink()
    with pytest.raises(OSError, match="HTTP 500") as caught:
        push_artifact(artifact, "me/tiny", token=WRITER)
    assert caplog.records, "something was said"
    said = [*(record.getMessage() for record in caplog.records), *capfd.readouterr()]
    error: BaseException | None = caught.value
    while error is not None:
        said += [str(error), repr(error)]
        error = error.__cause__
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(WRITER in text for text in said)
    assert not any(WRITER.encode() in content for content in written)
    for kind in ("model", "dataset"):
        assert not any(WRITER.encode() in content for content in hub.files("me/tiny", kind).values())


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
    with pytest.raises(OSError, match="me/tiny: there is no revision 'v9' on the Hub"):
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


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("PUT", "/lfs/", 500, r"the Hub has a fault of its own: try again later \(HTTP 500\)"),
        ("PUT", "/lfs/", 403, r"the token has no right to do this.*\(HTTP 403\)"),
        ("PUT", "/lfs/", 429, r"too many requests: try again in some minutes \(HTTP 429\)"),
        ("PUT", "/lfs/", None, r"the connection to the Hub failed"),
        ("POST", "/lfs-verify", 404, r"the Hub lacks a file that it lists or was sent: try again \(HTTP 404\)"),
        ("POST", "/objects/batch", 403, r"the token has no right to do this.*\(HTTP 403\)"),
        ("POST", "/preupload/", 429, r"too many requests"),
    ],
)
def test_a_first_push_that_fails_says_that_an_empty_repository_stays(
    hub, artifact, monkeypatch, method, path, status, sentence
):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's own tries
    hub.drop(method, path, times=99) if status is None else hub.fail(method, path, status, times=99)
    with pytest.raises(OSError, match=f"me/tiny: {sentence}.*The new repository is empty: push again, or delete it"):
        push_artifact(artifact, "me/tiny")
    hub.faults.clear()
    hub.fail("POST", "/commit/", 403)
    with pytest.raises(OSError, match="me/tiny: the token has no right") as caught:
        push_artifact(artifact, "me/tiny")
    assert "new repository" not in str(caught.value), "the second time it is there"
    push_artifact(artifact, "me/tiny")
    assert hub.files("me/tiny").keys() == FILES | CODE


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


@pytest.mark.parametrize("content", [b"<html>Please log in</html>", b"[]", b"null", b'{"siblings": 3}'])
@pytest.mark.parametrize("path", [r"/api/models/me/tiny(/revision/.*)?$", "/tree/"])
def test_a_hub_that_answers_something_else(hub, artifact, tmp_path, path, content):
    push_artifact(artifact, "me/tiny")
    hub.say("GET", path, content, times=9)
    with pytest.raises((OSError, ValueError), match=r"me/tiny") as caught:
        pull_artifact("me/tiny", tmp_path / "copy")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "copy").exists()


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


MODEL_CODE = CODE - {"processing_haba.py", "whitening_haba.py"}


def test_push_to_hub_of_a_model(hub, artifact, caplog):
    """The model alone, with a short card, in one commit, with the options of transformers."""
    model = HabaModel.from_pretrained(artifact)
    model.add_model_tags(["ours"])
    options = {"commit_message": "Hello", "commit_description": "World", "private": True}
    commit = model.push_to_hub("me/plain", tags=["mine", "haba"], **options)
    assert commit.startswith(f"{hub.url}/me/plain")
    assert "push_artifact (or haba push) brings the processor, the records" in caplog.text
    files = hub.files("me/plain")
    assert files.keys() == MODEL_CODE | {"config.json", "model.safetensors", "README.md"}
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "haba_hf"
    assert card.data.tags == ["dataset-distillation", "haba", "ours", "mine"]
    config = model.config
    assert f"{config.num_bases} bases stored as pixels and {config.num_hallucinators} hallucinators" in card.text
    assert 'AutoModel.from_pretrained("me/plain", trust_remote_code=True)' in card.text
    assert "haba push" in card.text
    repo = hub.repos[("model", "me/plain")]
    assert repo.private
    assert [(title, repo.descriptions[sha]) for sha, title, _ in repo.commits[1:]] == [("Hello", "World")]
    loaded = HabaModel.from_pretrained("me/plain")
    assert torch.equal(loaded.materialize().samples, model.materialize().samples)


def test_the_card_of_a_push_to_hub_takes_the_place_of_one_of_other_weights(hub, artifact):
    push_artifact(artifact, "me/tiny")
    before = hub.files("me/tiny")
    model = HabaModel.from_pretrained(artifact)
    model.bases.data += 1
    model.push_to_hub("me/tiny")
    files = hub.files("me/tiny")
    assert files.keys() == before.keys()
    assert b"model-index" in before["README.md"] and b"model-index" not in files["README.md"], "of other weights"
    assert torch.equal(HabaModel.from_pretrained("me/tiny").bases, model.bases)
    push_artifact(artifact, "me/tiny")
    assert hub.files("me/tiny") == before


def test_push_to_hub_of_plain_pixels_does_not_call_them_distilled(hub, artifact):
    HabaModel(HabaConfig(num_labels=2, num_hallucinators=0, sample_height=8, sample_width=8)).push_to_hub("me/pixels")
    card = ModelCard(hub.files("me/pixels")["README.md"].decode())
    assert card.data.tags == ["haba"]
    assert "2 bases stored as pixels, in all 2 samples" in card.text


def test_push_to_hub_to_a_branch_and_as_a_pull_request(hub, artifact):
    model = HabaModel.from_pretrained(artifact)
    model.push_to_hub("me/tiny", revision="v2", tags="mine")
    assert hub.files("me/tiny") == {}, "the main branch is as it was"
    assert "mine" in ModelCard(hub.files("me/tiny", revision="v2")["README.md"].decode()).data.tags
    commit = model.push_to_hub("me/tiny", create_pr=True)
    assert commit.pr_url == f"{hub.url}/me/tiny/discussions/1"
    assert hub.files("me/tiny") == {}
    assert "model.safetensors" in hub.files("me/tiny", revision="refs/pr/1")


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
    assert torch.equal(exact[:]["pixel_values"], expected.samples)
    assert torch.equal(exact[:]["labels"], expected.labels)
    assert exact[:]["hallucinator"].tolist() == expected.hallucinator_ids.tolist()
    assert load_dataset("me/tiny", split="train").column_names == exact.column_names, "exact is the default"
    images = load_dataset("me/tiny", "images", split="train", streaming=True)
    pictures = [row["image"] for row in images]
    assert [picture.tobytes() for picture in pictures] == [
        picture.tobytes() for picture in loaded.processor.to_pil(expected.samples)
    ]
    streamed = next(iter(load_dataset("me/tiny", "exact", split="train", streaming=True)))
    assert torch.equal(torch.tensor(streamed["pixel_values"]), expected.samples[0])


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


@pytest.mark.parametrize("changed", ["weights", "processor"])
def test_an_artifact_that_is_not_the_one_on_record_is_refused(artifact, changed):
    """Flipped bits, a file of another run: what was distilled is on record by its fingerprints."""
    found = read_artifact(artifact)
    record = found.distillation | fingerprints(found.model, found.processor)
    write_json(artifact / "distillation.json", record)
    assert read_artifact(artifact).distillation == record
    if changed == "weights":
        tensors = load_file(artifact / "model.safetensors")
        tensors["bases"][0, 0, 0, 0] += 1e-3
        save_file(tensors, artifact / "model.safetensors", metadata={"format": "pt"})
    else:
        settings = json.loads((artifact / "preprocessor_config.json").read_text())
        (artifact / "preprocessor_config.json").write_text(json.dumps(settings | {"do_resize": False}))
    with pytest.raises(ValueError, match=f"holds (other|another) {changed} than distilled or chosen there"):
        read_artifact(artifact)


def test_a_processor_of_other_samples_is_refused(artifact):
    settings = json.loads((artifact / "preprocessor_config.json").read_text())
    (artifact / "preprocessor_config.json").write_text(json.dumps(settings | {"size": {"height": 30, "width": 30}}))
    with pytest.raises(ValueError, match=r"The processor makes images \[1, 30, 30\]"):
        read_artifact(artifact)


def test_another_processors_settings_are_not_read_in_place_of_its_own(artifact):
    settings = json.loads((artifact / "preprocessor_config.json").read_text())
    other = {
        "image_processor": settings | {"image_mean": [9.0]},
        "feature_extractor": settings | {"image_mean": [9.0]},
    }
    (artifact / "processor_config.json").write_text(json.dumps(other))
    assert read_artifact(artifact).processor.image_mean == settings["image_mean"]
    assert AutoImageProcessor.from_pretrained(artifact).image_mean == settings["image_mean"]


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
