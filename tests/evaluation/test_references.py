import numpy as np
import pytest
import torch
from accelerate import Accelerator

from haba_hf import HabaConfig
from haba_hf.artifact.budget import storage_of
from haba_hf.artifact.processing_haba import HabaImageProcessor
from haba_hf.coresets import real_images_config
from haba_hf.data import ImageData, Split
from haba_hf.evaluation import (
    EvaluationArguments,
    evaluate_artifact,
    evaluate_full_data,
    evaluate_random_real,
    random_real_artifact,
)
from haba_hf.networks import NetworkArguments
from haba_hf.runs.systems import random_real_configs

NETWORK = NetworkArguments(network_depth=1, network_width=8)
NAMES = ["left", "right", "none"]


def stripes(per_class, seed, noise=100):
    """Three classes of 6x6 color images: bright on the left, bright on the right, dark."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat(per_class)
    images = torch.randint(0, noise, (len(labels), 3, 6, 6), generator=generator)
    images[labels == 0, :, :, :3] += 100
    images[labels == 1, :, :, 3:] += 100
    return Split(images.to(torch.uint8), labels)


def make_data(per_class=40, noise=100, test=True):
    train = stripes(per_class, 0, noise)
    processor = HabaImageProcessor(
        size={"height": 6, "width": 6}, image_mean=[0.3, 0.35, 0.4], image_std=[0.2, 0.25, 0.3]
    )
    return ImageData(
        name="stripes",
        train=train,
        validation=stripes(5, 1, noise),
        test=stripes(30, 2, noise) if test else None,
        class_names=NAMES,
        processor=processor,
        fingerprint="0" * 16,
    )


def make_args(**kwargs):
    defaults = {"evaluation_seeds": 2, "student_epochs": 30, "real_student_epochs": 4, "evaluation_batch_size": 16}
    return EvaluationArguments(**defaults | {"evaluation_dsa": "none"} | kwargs)


def test_random_real_images_are_real_and_of_their_class():
    data = make_data()
    model = random_real_artifact(data, real_images_config(data, 7), seed=0)
    config = model.config
    assert config.num_hallucinators == 0 and config.sample_shape == (3, 6, 6)
    assert [config.id2label[i] for i in range(3)] == NAMES and config.label2id["right"] == 1
    assert model.labels.tolist() == [0] * 7 + [1] * 7 + [2] * 7
    samples = model.materialize().samples
    real = data.processor.normalize(data.train.images)
    equal = (samples[:, None] == real[None]).flatten(2).all(dim=2)
    assert (equal.sum(dim=1) == 1).all()
    chosen = equal.int().argmax(dim=1)
    assert len(chosen.unique()) == 21  # without replacement
    assert torch.equal(data.train.labels[chosen], model.labels)


def test_the_draw_depends_on_the_seed_alone():
    data = make_data()
    before = torch.get_rng_state()
    first = random_real_artifact(data, real_images_config(data, 5), seed=1).bases
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(random_real_artifact(data, real_images_config(data, 5), seed=1).bases, first)
    assert not torch.equal(random_real_artifact(data, real_images_config(data, 5), seed=2).bases, first)


def test_a_class_with_few_images_gives_all_of_them_again_and_again():
    data = make_data(per_class=4)
    one_less = data.train.labels.ne(0) | (torch.arange(12) == 0)  # one image of "left", four of the others
    data.train = Split(data.train.images[one_less], data.train.labels[one_less])
    model = random_real_artifact(data, real_images_config(data, 3), seed=0)
    left, right, none = model.bases.detach().view(3, 3, -1)
    assert torch.equal(left[0], left[1]) and torch.equal(left[0], left[2])
    assert len(right.unique(dim=0)) == len(none.unique(dim=0)) == 3
    config = real_images_config(data, 3)
    result = evaluate_random_real(data, data.test, config, NETWORK, make_args(), 0, Accelerator(cpu=True))
    assert len(result.accuracies) == 2


def test_no_reference_asks_for_more_than_the_largest_class_has():
    data = make_data(per_class=4)
    config = HabaConfig(num_labels=3, sample_height=6, sample_width=6, num_hallucinators=0, bases_per_class=9)
    floats = random_real_configs(config, data)["random real, equal storage"]
    assert floats.bases_per_class == 4


def test_every_student_has_a_draw_of_its_own(monkeypatch):
    drawn = []
    from haba_hf.evaluation import references

    def recorded(data, config, seed, teacher=None):
        drawn.append(random_real_artifact(data, config, seed))
        return drawn[-1]

    monkeypatch.setattr(references, "random_real_artifact", recorded)
    data, args = make_data(), make_args(evaluation_seeds=3)
    result = evaluate_random_real(
        data, data.test, real_images_config(data, 3), NETWORK, args, 0, Accelerator(cpu=True)
    )
    bases = [model.bases for model in drawn[1:]]  # the first is a check that all classes have enough
    assert len(bases) == 3 and not any(torch.equal(bases[i], bases[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert result.mean > 0.95 and result.std == pytest.approx(np.std(result.accuracies))


def test_random_real_follows_the_artifacts_recipe():
    """With all images of each class the draw is but an order, and both ways train alike."""
    data, args = make_data(per_class=3, noise=150), make_args(student_epochs=10)
    reference = evaluate_random_real(
        data, data.test, real_images_config(data, 3), NETWORK, args, 0, Accelerator(cpu=True)
    )
    artifact = random_real_artifact(data, real_images_config(data, 3), seed=0)
    direct = evaluate_artifact(artifact, data.test, data.processor, NETWORK, args, 0, Accelerator(cpu=True))
    assert len(reference.accuracies) == len(direct.accuracies) == 2
    assert reference.mean == pytest.approx(direct.mean, abs=0.15)


def test_full_data_is_learned_with_its_own_epochs_and_learning_rate():
    data = make_data()
    before = torch.get_rng_state()
    result = evaluate_full_data(data, data.test, NETWORK, make_args(), 0, Accelerator(cpu=True))
    assert torch.equal(torch.get_rng_state(), before)
    assert min(result.accuracies) > 0.95
    assert (
        evaluate_full_data(data, data.test, NETWORK, make_args(), 0, Accelerator(cpu=True)).accuracies
        == result.accuracies
    )
    one = evaluate_full_data(
        data, data.validation, NETWORK, make_args(real_evaluation_seeds=1), 0, Accelerator(cpu=True)
    )
    assert len(one.accuracies) == 1
    with pytest.raises(FloatingPointError, match=r"of 2 at learning rate 3e\+38"):
        args = make_args(real_student_epochs=2, real_student_learning_rate=3e38)
        evaluate_full_data(data, data.test, NETWORK, args, 0, Accelerator(cpu=True))


def test_an_epoch_of_full_data_is_every_image_once(monkeypatch):
    data, seen = make_data(per_class=11), []
    from haba_hf.evaluation import protocols

    def record(network, batches_of_epoch, epochs, *_, **__):
        seen.extend([list(batches_of_epoch(epoch)) for epoch in range(epochs)])
        return network

    monkeypatch.setattr(protocols, "train_by_sgd", record)
    args = make_args(evaluation_seeds=1, real_student_epochs=2)
    evaluate_full_data(data, data.test, NETWORK, args, 0, Accelerator(cpu=True))
    real = data.processor.normalize(data.train.images)
    orders = []
    for batches in seen:
        assert [len(labels) for _, labels in batches] == [16, 16, 1]
        images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
        equal = (images[:, None] == real[None]).flatten(2).all(dim=2)
        orders.append(equal.int().argmax(dim=1))
        assert orders[-1].sort().values.tolist() == list(range(33))
        assert torch.equal(labels, data.train.labels[orders[-1]])
    assert not torch.equal(*orders)


def test_a_student_may_be_given_steps_in_place_of_epochs():
    data = make_data()
    for per_class, batch_size, steps, epochs in ((5, 16, 7, 7), (7, 10, 7, 3), (7, 21, 1, 1)):
        config = real_images_config(data, per_class)
        args = make_args(evaluation_steps=steps, evaluation_batch_size=batch_size, evaluation_seeds=1)
        result = evaluate_random_real(data, data.test, config, NETWORK, args, 0, Accelerator(cpu=True))
        assert result.samples == epochs * 3 * per_class
        assert result.steps == epochs * -(-3 * per_class // batch_size) >= steps
    by_epochs = make_args(student_epochs=4, evaluation_seeds=1, evaluation_batch_size=10)
    result = evaluate_random_real(data, data.test, config, NETWORK, by_epochs, 0, Accelerator(cpu=True))
    assert (result.steps, result.samples) == (4 * 3, 4 * 21)


def test_what_real_images_an_artifact_is_compared_with():
    data = make_data(per_class=20)
    kinds = {
        "plain pixels": ({"num_hallucinators": 0, "bases_per_class": 2}, {"equal storage": 2, "equal bytes": 8}),
        "HaBa": ({"num_hallucinators": 1}, {"equal storage": 2, "equal bytes": 8}),
        "small": (
            {"num_hallucinators": 0, "bases_per_class": 8, "basis_height": 3, "basis_width": 3},
            {"equal storage": 2, "same storage": 8, "equal bytes": 8},
        ),
        "small, of 8 bits": (
            {"num_hallucinators": 0, "bases_per_class": 8, "basis_height": 3, "basis_width": 3}
            | {"storage_dtype": "int8"},
            {"same storage": 8, "equal bytes": 2},
        ),
        "hallucinators spend what bases could": (
            {"num_hallucinators": 1, "basis_height": 3, "basis_width": 3, "hallucinate_at": "sample"},
            {"equal storage": 1, "same storage": 5, "equal bytes": 5},
        ),
        "one channel, which hallucinators make three": (
            {"num_hallucinators": 1, "basis_channels": 1},
            {"equal storage": 1, "equal bytes": 5},
        ),
        "tiles": (
            {"num_hallucinators": 0, "bases_per_class": 1, "formation_factor": 2},
            {"equal storage": 1, "same storage": 1, "equal bytes": 4},
        ),
    }
    for kind, (settings, expected) in kinds.items():
        config = HabaConfig(num_labels=3, sample_height=6, sample_width=6, **settings)
        configs = random_real_configs(config, data)
        found = {name.removeprefix("random real, "): of.bases_per_class for name, of in configs.items()}
        assert found == expected, kind
        for of in configs.values():
            model = random_real_artifact(data, of, seed=0)
            assert model.config.num_hallucinators == 0 and model.storage() == storage_of(of)
        if "same storage" in expected:
            alike = configs["random real, same storage"]
            assert (alike.stored_shape, alike.storage_dtype) == (config.stored_shape, config.storage_dtype)
            assert alike.num_floats <= config.num_floats


def test_real_images_in_bits_are_rounded_as_the_artifact_is():
    data = make_data()
    config = HabaConfig(num_labels=3, sample_height=6, sample_width=6, num_hallucinators=0, storage_dtype="int8")
    model = random_real_artifact(data, config, seed=0)
    before = model.bases.detach().clone()
    model.round_to_storage()
    assert torch.equal(model.bases, before) and model.basis_codes.any()
