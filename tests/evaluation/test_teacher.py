"""A teacher's labels: the mean over the samples of a basis, of the same network for all that ask for it."""

import dataclasses
import math

import pytest
import torch
from safetensors import safe_open

from haba_hf import HabaModel
from haba_hf.artifact.budget import same_storage_config
from haba_hf.coresets import real_images_config
from haba_hf.evaluation import (
    EvaluationArguments,
    Teacher,
    TeacherArguments,
    evaluate_full_data,
    evaluate_random_real,
    labelled,
    random_real_artifact,
    teacher,
    teacher_settings,
    trained_teacher,
)
from haba_hf.networks import build_network
from haba_hf.utils.seeds import derived_seed
from tiny import NETWORK, assert_same, tiny_accelerator, tiny_data, tiny_model

ARGUMENTS = EvaluationArguments(
    real_student_epochs=3, real_evaluation_seeds=1, evaluation_batch_size=5, evaluation_dsa="color_crop_scale"
)
STORED = {"basis_storage": "frequencies", "basis_frequencies": 9}


def settings_of(seed=3, **changes):
    return teacher_settings(NETWORK, ARGUMENTS, TeacherArguments(**changes), seed)


def untrained(data, temperature):
    network = build_network(NETWORK, data.image_shape, data.num_labels, seed=7)
    return Teacher(network, {"teacher_temperature": temperature}, "f", 0.0, None)


@pytest.mark.parametrize("temperature", [0.5, 4.0])
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"num_hallucinators": 0},
        {"num_hallucinators": 0, "formation_factor": 2},
        {"formation_factor": 2, **STORED},
    ],
    ids=["HaBa", "pixels", "tiles", "HaBa, tiles, frequencies"],
)
def test_a_basis_has_the_mean_over_its_samples(sizes, temperature, monkeypatch):
    data = tiny_data()
    model, asked = tiny_model(data, **sizes), untrained(data, temperature)
    monkeypatch.setattr(teacher, "images_at_once", lambda shape: 5)  # a basis is cut in two
    output, expected = model.materialize(), []
    for basis in range(model.config.num_bases):
        of_basis = []
        for sample, owner in zip(output.samples, output.basis_ids.tolist(), strict=True):
            if owner == basis:
                logits = asked.network(sample[None])[0].tolist()
                powers = [math.exp(logit / temperature) for logit in logits]
                of_basis.append([power / sum(powers) for power in powers])
        assert len(of_basis) == model.config.num_samples // model.config.num_bases
        expected.append([sum(of_class) / len(of_basis) for of_class in zip(*of_basis, strict=True)])
    labels = asked.labels(model)
    torch.testing.assert_close(labels, torch.tensor(expected), rtol=1e-5, atol=1e-6)
    assert labels.std(dim=0).max() > 1e-3, "bases differ"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_an_artifact_is_labelled_as_it_is_stored(dtype, tmp_path):
    data = tiny_data()
    hard, asked = tiny_model(data, storage_dtype=dtype), untrained(data, 2.0)
    before, random_state = {name: value.clone() for name, value in hard.state_dict().items()}, torch.get_rng_state()
    soft = labelled(hard, asked)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert_same(hard.state_dict(), before)
    # The samples that a reader sees are those that were labelled.
    hard.round_to_storage()
    assert torch.equal(soft.materialize().samples, hard.materialize().samples)
    near = 1e-6 if dtype == "float32" else 0.02
    torch.testing.assert_close(soft.labels, asked.labels(hard), rtol=near, atol=near)
    soft.save_pretrained(tmp_path)
    assert_same(HabaModel.from_pretrained(tmp_path).state_dict(), soft.state_dict())
    # L numbers a basis, in the bits of what is learned.
    more = soft.storage().floats - hard.storage().floats
    assert more == soft.storage().parts["labels"] == 8 * 4
    assert soft.storage().bytes - hard.storage().bytes == more * (4 if dtype == "float32" else 2)
    # Once more, with labels there already, gives the same.
    assert_same(labelled(soft, asked).state_dict(), soft.state_dict())


def test_a_teacher_is_a_student_of_the_full_data(tmp_path):
    data, accelerator, settings = tiny_data(images_per_class=9), tiny_accelerator(), settings_of()
    made = trained_teacher(settings, str(tmp_path), data, accelerator)
    students = {}
    seed = derived_seed(3, 0, 5)
    result = evaluate_full_data(
        data, data.validation, NETWORK, ARGUMENTS, seed, accelerator, on_student=students.__setitem__
    )
    assert_same(made.network.state_dict(), students[0].state_dict())
    assert made.validation_accuracy == result.mean and made.record()["validation_accuracy"] == result.mean
    assert not made.network.training and made.seconds > 0
    fresh = build_network(NETWORK, data.image_shape, 4, derived_seed(3, 0, 0))
    assert not torch.equal(
        build_network(NETWORK, data.image_shape, 4, derived_seed(seed, 0, 0)).classifier.weight,
        fresh.classifier.weight,
    ), "no student starts where the teacher did"


def test_a_teacher_is_trained_once_and_known_by_what_decides_it(tmp_path, monkeypatch):
    data, accelerator = tiny_data(), tiny_accelerator()
    first = trained_teacher(settings_of(), str(tmp_path), data, accelerator)
    trained = []
    train = teacher.train_fresh_student
    monkeypatch.setattr(
        teacher, "train_fresh_student", lambda *args, **more: trained.append(1) or train(*args, **more)
    )
    again = trained_teacher(settings_of(teacher_temperature=3.0), str(tmp_path), data, accelerator)
    assert not trained and again.fingerprint == first.fingerprint and again.settings["teacher_temperature"] == 3.0
    assert_same(again.network.state_dict(), first.network.state_dict())
    longer = settings_of() | {"real_student_epochs": 4}
    turned = data.with_classes_of(data.class_names[::-1], "the artifact")
    for settings, of in ((settings_of(seed=4), data), (longer, data), (settings_of(), turned)):
        assert trained_teacher(settings, str(tmp_path), of, accelerator).fingerprint != first.fingerprint
    assert len(trained) == 3 and len(list(tmp_path.iterdir())) == 4, "nothing else is left there"
    empty = dataclasses.replace(
        data,
        validation=dataclasses.replace(data.validation, images=data.train.images[:0], labels=data.train.labels[:0]),
    )
    none = trained_teacher(settings_of(), str(tmp_path / "unscored"), empty, accelerator)
    assert none.validation_accuracy is None and none.fingerprint == first.fingerprint


def test_what_is_no_teacher_is_refused(tmp_path):
    data, accelerator = tiny_data(), tiny_accelerator()
    trained_teacher(settings_of(), str(tmp_path), data, accelerator)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"teacher-.* is damaged .* delete it and record it again"):
        trained_teacher(settings_of(), str(tmp_path), data, accelerator)
    lacking = {name: value for name, value in settings_of().items() if name not in ("seed", "network_depth")}
    with pytest.raises(
        ValueError, match="The record of a teacher lacks network_depth, seed: distil the artifact again"
    ):
        trained_teacher(lacking, str(tmp_path), data, accelerator)
    for wrong, message in (
        ({"teacher_temperature": 0.0}, "teacher_temperature must be positive, got 0.0"),
        ({"evaluation_batch_size": "many"}, "evaluation_batch_size: expected a whole number, got 'many'"),
        ({"network": "nonesuch"}, "There is no network 'nonesuch'"),
    ):
        with pytest.raises(ValueError, match=message):
            trained_teacher(settings_of() | wrong, str(tmp_path), data, accelerator)


def test_its_file_says_what_it_is(tmp_path):
    trained_teacher(settings_of(), str(tmp_path), tiny_data(), tiny_accelerator())
    with safe_open(next(tmp_path.iterdir()), framework="pt") as file:
        header = file.metadata()
    assert '"real_student_epochs": 3' in header["training"] and "temperature" not in header["training"]
    assert "tiny-3-6-4-8-0" in header["data"] and 0 <= float(header["validation_accuracy"]) <= 1


def test_random_real_images_have_the_labels_of_what_is_stored_of_them():
    data = tiny_data(images_per_class=12)
    asked = untrained(data, 1.0)
    plain = real_images_config(data, 3, label_kind="soft")
    alike = same_storage_config(tiny_model(data, formation_factor=2, **STORED).config, 12, "soft")
    assert alike.label_kind == "soft" and alike.num_hallucinators == 0
    for config in (plain, alike):
        model = random_real_artifact(data, config, 5, asked)
        hard = random_real_artifact(data, with_hard_labels(config), 5)
        assert torch.equal(model.bases, hard.bases), "the same images"
        torch.testing.assert_close(model.labels, asked.labels(hard), rtol=1e-5, atol=1e-6)
        assert hard.labels.dtype == torch.long


def with_hard_labels(config):
    return type(config).from_dict(config.to_dict() | {"label_kind": "hard"})


def test_students_of_random_real_images_learn_from_the_labels(monkeypatch):
    """A teacher that says the next class of each: what its students then say is wrong every time."""
    data = tiny_data(images_per_class=12)

    class Mistaken:
        def labels(self, model):
            classes = (model.class_ids + 1) % 4
            return 0.94 * torch.nn.functional.one_hot(classes, 4) + 0.015

    args = dataclasses.replace(ARGUMENTS, student_epochs=60, evaluation_seeds=1, evaluation_dsa="none")
    common = data, data.test, real_images_config(data, 10, label_kind="soft"), NETWORK, args, 0, tiny_accelerator()
    assert evaluate_random_real(*common, teacher=Mistaken()).mean < 0.1
