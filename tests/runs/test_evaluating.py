"""Students of what a recipe has distilled: whose classes and space they are tested in, and what is refused."""

import json
import shutil

import datasets
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor

from haba_hf import HabaModel
from haba_hf.data import load_image_data
from haba_hf.evaluation import evaluate_artifact, evaluate_full_data
from haba_hf.hub import read_artifact, save_gallery
from haba_hf.runs import (
    distill,
    distilling,
    evaluate,
    load_artifact,
    student_network,
    train_one_student,
)
from haba_hf.utils.fingerprints import weights_fingerprint
from tiny import tiny_accelerator


def test_students_are_scored_on_classes_of_the_same_name(recipe_of, tmp_path, capsys):
    """Folders sort by name: `green tea` called `z green tea` would make lava out of it."""
    recipe, accelerator = recipe_of(), tiny_accelerator()
    distill(recipe, accelerator)
    assert "of each (training / validation): green tea 6/2, lava 6/2, sky 6/2" in capsys.readouterr().out
    artifact = str(tmp_path / "run" / "artifact")
    shutil.copytree(tmp_path / "pictures", tmp_path / "renamed")
    for split in ("train", "test"):
        (tmp_path / "renamed" / split / "green tea").rename(tmp_path / "renamed" / split / "z green tea")
    fields = {"artifact": artifact, "output_dir": tmp_path / "other", "references": "none"}
    with pytest.raises(ValueError, match=r"renamed lacks green tea; the artifact .* lacks z green tea"):
        evaluate(recipe_of(dataset=tmp_path / "renamed", **fields), accelerator)
    assert not (tmp_path / "other").exists(), "before any work"

    # The same classes in another order give the same accuracy.
    names = ["sky", "green tea", "lava"]
    columns = {"image": [], "label": []}
    for label, name in enumerate(names):
        for path in sorted((tmp_path / "pictures" / "test" / name).iterdir()):
            columns["image"].append({"bytes": path.read_bytes(), "path": None})
            columns["label"].append(label)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    table = datasets.Dataset.from_dict(columns, features=features)
    (tmp_path / "turned").mkdir()
    for split in ("train", "test"):
        table.to_parquet(str(tmp_path / "turned" / f"{split}.parquet"))
    (straight,) = evaluate(recipe_of(**fields), accelerator)
    (turned,) = evaluate(recipe_of(dataset=tmp_path / "turned", **fields), accelerator)
    assert straight.accuracy.mean > 0.9
    assert turned.accuracy.accuracies == straight.accuracy.accuracies


def test_a_class_of_one_image_is_evaluated_all_the_same(recipe_of, tmp_path, capsys):
    for path in (tmp_path / "pictures" / "train" / "sky").iterdir():
        if path.name != "0.png":
            path.unlink()
    fields = {"validation_fraction": 0.0, "student_epochs": 2, "real_student_epochs": 1, "num_hallucinators": 5}
    recipe, accelerator = recipe_of(**fields), tiny_accelerator()
    distill(recipe, accelerator)
    rows = evaluate(recipe, accelerator)
    assert [row.system for row in rows] == [
        "HaBa, 5 hallucinators",
        "random real, equal storage",
        "random real, equal bytes",
        "full data",
    ]
    said = capsys.readouterr().out
    assert "of which 'sky' has 1; a class with fewer gives all, again and again." in said


def test_weights_that_are_not_those_on_record_are_neither_scored_nor_started_from(recipe_of):
    recipe, accelerator = recipe_of(steps=1), tiny_accelerator()
    path = distill(recipe, accelerator)
    model, _, origin = load_artifact(str(path))
    assert origin["weights_fingerprint"] == weights_fingerprint(model)
    with torch.no_grad():
        model.bases[0] += 1
    model.save_pretrained(path)
    for use in (
        lambda: evaluate(recipe, accelerator),
        lambda: distill(recipe_of(init_from=path, output_dir=f"{path}-next"), accelerator),
    ):
        with pytest.raises(ValueError, match="holds other weights than distilled or chosen there"):
            use()


def test_one_student_is_the_first_of_the_evaluation(recipe_of, tmp_path):
    recipe, accelerator = recipe_of(references="none", student_width=6), tiny_accelerator()
    distill(recipe, accelerator)
    (row,) = evaluate(recipe, accelerator)
    before = torch.random.get_rng_state()
    assert train_one_student(recipe, accelerator) == row.accuracy.accuracies[0]
    assert torch.equal(torch.random.get_rng_state(), before)

    student = tmp_path / "run" / "student"
    settings = json.loads((student / "student.json").read_text())
    assert settings["class_names"] == ["green tea", "lava", "sky"]
    assert settings["image_shape"] == [3, 8, 8]
    assert settings["network"] == {"network": "convnet", "network_depth": 2, "network_width": 6}
    assert settings["training"]["evaluation_learning_rate"] == pytest.approx(0.01)
    assert settings["training"]["student_epochs"] == 40
    weights = load_file(student / "model.safetensors")
    train_one_student(recipe, accelerator)  # in place of the first
    assert all(torch.equal(weights[name], tensor) for name, tensor in load_file(student / "model.safetensors").items())
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "artifact",
        "checkpoints",
        "metrics.jsonl",
        "results.json",
        "student",
    ]


def test_an_artifact_of_few_bits_is_validated_and_scored_as_it_is_loaded(recipe_of, monkeypatch):
    seen = []

    def recorded(model, *arguments, **keywords):
        seen.append(model)
        return evaluate_artifact(model, *arguments, **keywords)

    monkeypatch.setattr(distilling, "evaluate_artifact", recorded)
    small = {"num_hallucinators": 0, "bases_per_class": 4, "basis_storage": "luma_chroma", "basis_height": 4}
    small |= {"basis_width": 4, "storage_dtype": "int8", "references": "same_storage"}
    recipe = recipe_of(validate_every=5, validation_epochs=1, **small)
    artifact = distill(recipe, tiny_accelerator())
    loaded, _, _ = load_artifact(str(artifact))
    assert torch.equal(seen[0].bases, loaded.bases), "the validated model is rounded as the saved one"
    assert (artifact / "model.safetensors").stat().st_size < 4_000 + loaded.storage().bytes
    own, alike = evaluate(recipe, tiny_accelerator())
    assert (own.system, alike.system) == ("luma 4x4, chroma 2x2, int8", "random real, same storage")
    assert own.storage.bytes == alike.storage.bytes == loaded.storage().bytes == 3 * 4 * (24 + 12) + 4


def test_students_of_whitened_digits_learn(recipe_of):
    data = load_image_data(recipe_of(dataset="digits", zca=True).data)
    recipe = recipe_of(network_width=16, real_student_epochs=25, evaluation_seeds=1)
    result = evaluate_full_data(data, data.test, recipe.network, recipe.evaluation, 0, tiny_accelerator())
    assert result.mean > 0.85


def test_a_student_is_never_tested_in_another_space_than_it_was_trained_in(recipe_of, tmp_path):
    recipe, accelerator = recipe_of(zca=True), tiny_accelerator()
    artifact = distill(recipe, accelerator)
    for run in (evaluate, train_one_student):
        with pytest.raises(ValueError, match="live in ZCA-whitened space, but the recipe says zca: false"):
            run(recipe_of(), accelerator)
    other = distill(recipe_of(output_dir=tmp_path / "plain"), accelerator)
    with pytest.raises(ValueError, match="are not whitened, but the recipe says zca: true"):
        evaluate(recipe_of(zca=True, artifact=other), accelerator)
    # With a processor that does not whiten, whichever way the artifact is opened.
    for name in ("whitening.safetensors", "preprocessor_config.json"):
        (artifact / name).unlink()
    shutil.copyfile(other / "preprocessor_config.json", artifact / "preprocessor_config.json")
    for call in (lambda: evaluate(recipe, accelerator), lambda: read_artifact(artifact)):
        with pytest.raises(ValueError, match=r"live in ZCA-whitened space .* the processor does not whiten"):
            call()
    model = HabaModel.from_pretrained(artifact)
    processor = AutoImageProcessor.from_pretrained(artifact)
    data, network = load_image_data(recipe.data), student_network(recipe)
    with pytest.raises(ValueError, match="the processor does not whiten"):
        evaluate_artifact(model, data.test, processor, network, recipe.evaluation, 0, accelerator)
    with pytest.raises(ValueError, match="the processor does not whiten"):
        save_gallery(model, processor, tmp_path / "gallery.png")


def test_data_without_a_test_split_can_be_distilled_but_not_evaluated(recipe_of, tmp_path):
    (tmp_path / "pictures" / "test").rename(tmp_path / "elsewhere")
    recipe, accelerator = recipe_of(), tiny_accelerator()
    distill(recipe, accelerator)
    for run in (evaluate, train_one_student):
        with pytest.raises(ValueError, match="no test split"):
            run(recipe, accelerator)
    assert not (tmp_path / "run" / "results.json").exists()

    on_validation = recipe_of(evaluation_split="validation")
    assert len(evaluate(on_validation, accelerator)) == 4
    written = json.loads((tmp_path / "run" / "validation.json").read_text())
    assert written["settings"]["evaluation_split"] == "validation"
    assert not (tmp_path / "run" / "results.json").exists()
    with pytest.raises(ValueError, match="no validation split to score on: set validation_fraction above 0"):
        evaluate(recipe_of(evaluation_split="validation", validation_fraction=0.0), accelerator)


def test_an_artifact_of_other_data_or_an_unwritable_folder_is_refused_at_once(recipe_of, tmp_path):
    recipe, accelerator = recipe_of(), tiny_accelerator()
    artifact = distill(recipe, accelerator)
    (tmp_path / "file").write_text("in the way")
    for run in (evaluate, train_one_student):
        with pytest.raises(ValueError, match=r"is of samples .* pictures has images \[3, 10, 10\]"):
            run(recipe_of(resize=10), accelerator)
        with pytest.raises(ValueError, match=r"The classes of the artifact .* of digits .10. are not the same"):
            run(recipe_of(dataset="digits"), accelerator)
        with pytest.raises(OSError, match="Cannot write"):
            run(recipe_of(artifact=artifact, output_dir=tmp_path / "file" / "run"), accelerator)
        with pytest.raises(FileNotFoundError, match=r"There is no artifact in .*nowhere: run haba distill"):
            run(recipe_of(output_dir=tmp_path / "nowhere"), accelerator)


def test_students_of_the_full_data_alone_need_no_artifact(recipe_of, tmp_path):
    recipe, accelerator = recipe_of(students_of="full_data"), tiny_accelerator()
    (full,) = evaluate(recipe, accelerator)
    assert full.system == "full data" and full.storage.images_per_class == 6
    results = json.loads((tmp_path / "run" / "full_data.json").read_text())
    assert results["artifact"] is None and "weights_fingerprint" not in results
    distill(recipe_of(), accelerator)
    beside = evaluate(recipe_of(), accelerator)[-1]
    assert beside.accuracy.accuracies == full.accuracy.accuracies
    assert (tmp_path / "run" / "results.json").exists()


def test_student_network(recipe_of):
    assert student_network(recipe_of()).network_width == 8
    assert student_network(recipe_of(student_width=16)).network_width == 16
