"""Labels of a teacher: from a recipe to an artifact, its controls, its students and its files."""

import json

import pytest
import torch
from datasets import DatasetDict

from haba_hf import HabaModel, train_student
from haba_hf.artifact.pairing import PairedDataset
from haba_hf.data import load_image_data
from haba_hf.distillation import initial_model
from haba_hf.evaluation import Teacher, accuracy, evaluate_artifact, trained_teacher
from haba_hf.hub import artifact_facts, artifact_summary, export_artifact, read_artifact, render_model_card
from haba_hf.hub.released import write_released
from haba_hf.recipes import recipe_of
from haba_hf.runs import distill, evaluate, import_released, load_artifact, select_coreset, student_network
from image_sets import pictures
from tiny import assert_same, launch_processes, tiny_accelerator

SMALL = {
    **{"dataset": "in-memory", "steps": 4, "real_batch_size": 4, "checkpoint_every": 2, "report_to": "none"},
    **{"network_depth": 1, "network_width": 4, "num_hallucinators": 2, "validation_fraction": 0.25},
    **{"student_epochs": 3, "evaluation_batch_size": 4, "evaluation_learning_rate": 0.05, "evaluation_seeds": 2},
    **{"evaluation_dsa": "color_crop", "evaluation_cutmix": 0.5, "real_student_epochs": 6, "references": "random"},
    **{"label_kind": "teacher", "teacher_temperature": 2.0},
}


@pytest.fixture(scope="module")
def splits():
    return DatasetDict(train=pictures(12), test=pictures(4, first=100))


@pytest.fixture
def recipe(tmp_path):
    def make(**changes):
        folders = {"output_dir": str(tmp_path / "run"), "teacher_dir": str(tmp_path / "teachers")}
        return recipe_of(**SMALL | folders | changes)

    return make


def test_from_a_recipe_to_a_card(recipe, splits, tmp_path):
    accelerator = tiny_accelerator()
    path = distill(recipe(), accelerator, splits)
    model, processor, origin = load_artifact(str(path))
    hard = distill(recipe(label_kind="hard", output_dir=str(tmp_path / "hard")), accelerator, splits)
    assert torch.equal(model.bases, HabaModel.from_pretrained(hard).bases), "the samples are those of hard labels"

    # What the record says of the teacher gives it back, and it gives the labels.
    data = load_image_data(recipe().data, splits=splits)
    taught = trained_teacher(origin["teacher"]["settings"], str(tmp_path / "teachers"), data, accelerator)
    torch.testing.assert_close(model.labels, taught.labels(model), rtol=1e-5, atol=1e-6)
    assert origin["labels"] == "teacher" and origin["teacher"] == json.loads(json.dumps(taught.record()))
    assert origin["teacher"]["settings"]["teacher_temperature"] == 2.0
    assert origin["teacher"]["settings"]["network_width"] == 4
    assert 0 <= origin["teacher"]["validation_accuracy"] <= 1
    assert len(list((tmp_path / "teachers").iterdir())) == 1

    # Its controls have labels of the same teacher, which count.
    rows = evaluate(recipe(), accelerator, splits)
    assert [(row.system, row.labels) for row in rows] == [
        ("HaBa, 2 hallucinators", "teacher"),
        ("random real, equal storage", "teacher"),
        ("random real, equal bytes", "teacher"),
    ]
    own, equal, in_bytes = (row.storage for row in rows)
    maps = 2 * (2 * 192 + 2 * 84)
    assert (own.floats, own.bytes) == (3 * (192 + 3) + maps + 1, 4 * (3 * (192 + 3) + maps + 1))
    assert equal.floats == 3 * (192 + 3) * ((own.floats - 1) // (3 * (192 + 3))) + 1
    assert own.bytes // (3 * (192 + 3 * 4)) == 11
    assert in_bytes.bytes == 9 * 3 * (192 + 3 * 4), "a class has no more than 9"
    assert len(list((tmp_path / "teachers").iterdir())) == 1, "none was trained again"

    # A student from the artifact alone is the first of the evaluation, and so is one on the files of another layout.
    student = train_student(HabaModel.from_pretrained(path))
    assert accuracy(student, data.test.images, data.test.labels, processor) == rows[0].accuracy.accuracies[0]
    read = read_artifact(path)
    assert read.labels == "teacher" and read.rows[0].labels == "teacher"
    card = render_model_card(read, "me/tiny")
    reached = f"{100 * origin['teacher']['validation_accuracy']:.1f} % of the validation split, temperature 2"
    assert "given by a teacher: convnet of depth 1 and width 4, 6 epochs" in card and reached in card
    assert "| HaBa, 2 hallucinators | teacher |" in card
    assert "random images with the teacher's labels at equal storage" in card
    assert "have labels of the same teacher, counted too" in card and "hard ones" not in card
    assert any(line.startswith("labels: given by a teacher") for line in artifact_summary(read))
    facts = artifact_facts(read)
    assert (facts["labels"], facts["parts"]["labels"], facts["part_bytes"]["labels"]) == ("teacher", 9, 36)
    again = read_artifact(export_artifact(path, tmp_path / "out", include_code=False))
    assert again.distillation["teacher"] == origin["teacher"] and again.rows[1].labels == "teacher"

    samples, paired = model.to_dataset(), PairedDataset(model)
    assert torch.equal(samples.with_format("torch")["labels"][:], model.materialize().labels)
    assert any(torch.equal(paired[2]["labels"], label) for label in model.labels)


def test_out_and_in_again_by_the_layout_of_others(recipe, splits, tmp_path, monkeypatch):
    accelerator, labels = tiny_accelerator(), Teacher.labels
    # An imported set is sorted by its labels' classes, about which a teacher may be wrong: not this one.
    monkeypatch.setattr(
        Teacher,
        "labels",
        lambda self, model: 0.4 * labels(self, model) + 0.6 * torch.eye(10)[model.class_ids],
    )
    settings = {"num_hallucinators": 0, "references": "none", "dataset": "digits"}
    made = recipe(**settings, steps=1, bases_per_class=2, real_student_epochs=1)
    path = distill(made, accelerator)
    written = write_released(read_artifact(path), tmp_path / "mtt")
    images, labels = (str(written / name) for name in ("images_best.pt", "labels_best.pt"))
    imported = import_released(images, labels, str(tmp_path / "in"), layout="mtt", dataset="digits")
    first, second = (HabaModel.from_pretrained(folder) for folder in (path, imported))
    torch.testing.assert_close(second.labels, first.labels, rtol=1e-5, atol=1e-6)
    (own,) = evaluate(made, accelerator)
    data = load_image_data(made.data)
    same = evaluate_artifact(
        second, data.test, data.processor, student_network(made), made.evaluation, made.distillation.seed, accelerator
    )
    assert same.accuracies == pytest.approx(own.accuracy.accuracies, abs=0.01)
    (row,) = evaluate(recipe(**settings, artifact=str(imported), output_dir=str(tmp_path / "other")), accelerator)
    assert row.labels == "soft", "whose they are is not known"


def test_labels_are_learned_from_those_of_a_teacher(recipe, splits, tmp_path):
    accelerator = tiny_accelerator()
    starts = {}
    for rate in (0.0, 0.1):
        folder = str(tmp_path / f"rate-{rate}")
        made = recipe(
            label_kind="soft", label_init="teacher", label_learning_rate=rate, objective="dc", output_dir=folder
        )
        model, _, origin = load_artifact(str(distill(made, accelerator, splits)))
        starts[rate] = model.labels
        assert origin["labels"] == "learned from a teacher"
    assert (starts[0.0] - starts[0.1]).abs().max() > 1e-3
    data = load_image_data(made.data, splits=splits)
    taught = trained_teacher(origin["teacher"]["settings"], str(tmp_path / "teachers"), data, accelerator)
    start = initial_model(made.model, data, made.distillation.seed)
    torch.testing.assert_close(starts[0.0], taught.labels(start), rtol=1e-5, atol=1e-6)
    rows = evaluate(made, accelerator, splits)
    assert [row.labels for row in rows] == ["learned from a teacher", "teacher", "teacher"]


def test_labels_that_are_learned_alone_are_beside_hard_ones(recipe, splits):
    made = recipe(label_kind="soft", steps=1)
    path = distill(made, tiny_accelerator(), splits)
    assert "teacher" not in load_artifact(str(path))[2]
    rows = evaluate(made, tiny_accelerator(), splits)
    assert [row.labels for row in rows] == ["learned", "hard", "hard"]
    assert rows[1].storage.floats == 3 * 192 * ((rows[0].storage.floats - 1) // (3 * 192)) + 1
    card = render_model_card(read_artifact(path), "me/tiny")
    assert "random images with hard labels at equal storage" in card and "if any, have hard ones" in card


@pytest.mark.parametrize("label_kind", ["teacher", "soft"])
def test_a_resumed_run_has_the_labels_of_an_uninterrupted_one(recipe, splits, tmp_path, label_kind):
    settings = {"label_kind": label_kind, "objective": "dc"}
    settings |= {"label_init": "teacher"} if label_kind == "soft" else {}
    whole = distill(recipe(**settings, output_dir=str(tmp_path / "whole")), tiny_accelerator(), splits)
    distill(recipe(**settings, steps=2), tiny_accelerator(), splits)
    resumed = distill(recipe(**settings), tiny_accelerator(), splits)
    assert_same(*(HabaModel.from_pretrained(path).state_dict() for path in (resumed, whole)))
    changed = r"other settings \(real_student_epochs 6, now 7; teacher .*; teacher_temperature 2\.0, now 3\.0\)"
    with pytest.raises(ValueError, match=changed):
        distill(recipe(**settings, teacher_temperature=3.0, real_student_epochs=7), tiny_accelerator(), splits)


def test_a_validation_sees_the_labels_that_are_saved(recipe, splits, monkeypatch):
    asked = []
    labels = Teacher.labels
    monkeypatch.setattr(Teacher, "labels", lambda self, model: asked.append(model) or labels(self, model))
    made = recipe(validate_every=2, keep_best=True, validation_epochs=2, storage_dtype="bfloat16", seed=1)
    path = distill(made, tiny_accelerator(), splits)
    assert len(asked) == 3, "two validations, and the artifact"
    model, processor, _ = load_artifact(str(path))
    data = load_image_data(made.data, splits=splits)
    lines = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
    kept = json.loads((path / "distillation.json").read_text())["kept_step"]
    (logged,) = [line["validation_accuracy"] for line in lines if line["step"] == kept]
    args = recipe(student_epochs=2, evaluation_seeds=1).evaluation
    result = evaluate_artifact(
        model, data.validation, processor, student_network(made), args, kept, tiny_accelerator()
    )
    assert 100 * result.mean == logged


def test_what_cannot_be_is_refused_before_work_is_done(recipe, splits, tmp_path):
    for changes, message in (
        (
            {"label_init": "teacher"},
            "for labels that a teacher gives at the end, label_kind to teacher",
        ),
        ({"label_init": "teacher", "label_kind": "hard"}, "label_init teacher is where learned labels start"),
        ({"teacher_temperature": 0.0}, "teacher_temperature must be positive"),
        ({"label_kind": "fuzzy"}, "label_kind: expected one of hard, soft, teacher"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe(**changes)
    with pytest.raises(ValueError, match=r"\(ld\) learns labels: set label_kind to soft, and label_init to teacher"):
        distill(recipe(objective="ld", num_hallucinators=0), tiny_accelerator(), splits)
    assert not (tmp_path / "teachers").exists()
    with pytest.raises(ValueError, match=r"one basis per class \(585\) need more"):
        distill(recipe(num_hallucinators=0, storage_budget=1.0, bases_per_class=1), tiny_accelerator(), splits)
    with pytest.raises(ValueError, match="A coreset is real images with their labels"):
        select_coreset(recipe(num_hallucinators=0), tiny_accelerator())


def test_a_budget_pays_for_labels(recipe, splits):
    stored = {"basis_storage": "frequencies", "basis_frequencies": 9, "num_hallucinators": 0, "steps": 1}
    made = recipe(**stored, bases_per_class="auto", storage_budget=0.5)
    model, _, _ = load_artifact(str(distill(made, tiny_accelerator(), splits)))
    of_basis = sum(model.config.plane_numbers) + 3
    assert model.config.bases_per_class == int(0.5 * 3 * 192) // (3 * of_basis)


def test_a_record_of_a_teacher_is_checked(recipe, splits, tmp_path, capsys):
    path = distill(recipe(steps=1), tiny_accelerator(), splits)
    record = json.loads((path / "distillation.json").read_text())

    def with_teacher(**changes):
        (path / "distillation.json").write_text(json.dumps(record | changes))

    for changes, message in (
        ({"teacher": 3}, "teacher in .* is not names and values"),
        ({"teacher": {"settings": record["teacher"]["settings"]}}, "does not say how the teacher of its labels was"),
        ({"labels": "guessed"}, "The labels on record are guessed, not hard, soft"),
    ):
        with_teacher(**changes)
        with pytest.raises(ValueError, match=message):
            evaluate(recipe(steps=1), tiny_accelerator(), splits)
    # Trained again on another machine, it may be another: that is said.
    with_teacher(teacher=record["teacher"] | {"fingerprint": "0123456789abcdef"})
    evaluate(recipe(steps=1, teacher_dir=str(tmp_path / "new")), tiny_accelerator(), splits)
    assert "trained again as it was, it has other weights" in capsys.readouterr().out


TWO_PROCESSES = """
import sys

from accelerate.utils import gather_object
from datasets import DatasetDict

from haba_hf.distillation import distiller
from haba_hf.recipes import recipe_of
from haba_hf.runs import distill, load_artifact, start_accelerator
from image_sets import pictures

found = []
prepare = distiller.Distiller.__init__

def spied(self, model, *args, **more):
    found.append(model.labels.detach().double().sum(dim=0).tolist())
    prepare(self, model, *args, **more)

distiller.Distiller.__init__ = spied
accelerator = start_accelerator()
folder = sys.argv[1]
settings = dict(
    dataset="in-memory", objective="dc", steps=2, real_batch_size=4, network_depth=1, network_width=4,
    num_hallucinators=0, real_student_epochs=4, evaluation_dsa="none", report_to="none", teacher_dir=f"{folder}/t",
)
for more in (dict(label_kind="teacher"), dict(label_kind="soft", label_init="teacher")):
    recipe = recipe_of(output_dir=f"{folder}/{more['label_kind']}", **settings, **more)
    path = distill(recipe, accelerator, DatasetDict(train=pictures(12)))
    found.append(load_artifact(str(path))[0].labels.detach().double().sum(dim=0).tolist())
first, second = gather_object([found])
assert first == second and len(first) == 4, (first, second)
print("RESULT", accelerator.process_index)
"""


@pytest.mark.slow
def test_two_processes_have_the_same_labels(tmp_path):
    assert launch_processes(tmp_path, TWO_PROCESSES, str(tmp_path)) == ["RESULT 0", "RESULT 1"]
