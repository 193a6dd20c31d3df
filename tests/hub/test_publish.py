"""An artifact to the Hub, by the real client over HTTP: what is sent, in one commit, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel

from fake_hub import WRITER
from haba_hf import HabaModel
from haba_hf.artifact.whitening_haba import WHITENING
from haba_hf.hub import export_artifact, pull_artifact, push_artifact, read_artifact
from haba_hf.hub.artifact import fingerprints
from haba_hf.hub.publish import code_files
from haba_hf.utils.files import write_json
from tiny_artifact import CODE, FILES, files_of, tiny_artifact

ROOT = Path(__file__).parents[2]


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


def test_a_slash_behind_a_folder_is_no_part_of_its_name(artifact, tmp_path):
    exported = export_artifact(f"{artifact}/", f"{tmp_path}/exported/")
    assert f'from_pretrained("{tmp_path}/exported")' in (exported / "README.md").read_text()


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
