import dataclasses
import json
import random
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score
from torch import nn
from torch.nn import functional as F

from haba_hf import HabaConfig, HabaModel
from haba_hf.artifact.budget import describe_storage
from haba_hf.artifact.pairing import paired_batches
from haba_hf.artifact.processing_haba import HabaImageProcessor
from haba_hf.data import Split
from haba_hf.data.augmentation import DsaAugmentation
from haba_hf.data.cutmix import CutMix
from haba_hf.evaluation import (
    AccuracyResult,
    EvaluationArguments,
    ReportRow,
    accuracy,
    evaluate_artifact,
    learning_rate_at,
    markdown_table,
    train_by_sgd,
    write_results,
)
from haba_hf.networks import NetworkArguments, build_network
from haba_hf.utils.files import write_json
from haba_hf.utils.seeds import seeded_generator
from tiny import launch_processes

NETWORK = NetworkArguments(network_depth=1, network_width=8)


def make_processor():
    return HabaImageProcessor(size={"height": 8, "width": 8}, num_channels=1, image_mean=[0.3], image_std=[0.25])


def quadrants(per_class, seed):
    """Four classes of noisy 8x8 images, each bright in a quadrant of its own."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(4).repeat(per_class)
    images = torch.randint(0, 120, (len(labels), 1, 8, 8), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = 4 * (label // 2), 4 * (label % 2)
        image[:, top : top + 4, left : left + 4] += 100
    return Split(images.to(torch.uint8), labels)


def noisy_test():
    split = quadrants(100, seed=9)
    noise = torch.randint(0, 256, split.images.shape, generator=torch.Generator().manual_seed(1))
    split.images = (split.images * 0.2 + noise * 0.8).to(torch.uint8)
    return split


def make_artifact(num_hallucinators=2, label_kind="hard", **kwargs):
    """Two real images of each class, seen through hallucinators near the identity."""
    torch.manual_seed(0)
    config = HabaConfig(
        num_labels=4,
        bases_per_class=2,
        num_hallucinators=num_hallucinators,
        hallucinator_init="identity",
        sample_channels=1,
        sample_height=8,
        sample_width=8,
        label_kind=label_kind,
        **kwargs,
    )
    model, real = HabaModel(config), quadrants(2, seed=5)
    with torch.no_grad():
        model.bases.copy_(make_processor().normalize(real.images[real.labels.argsort(stable=True)]))
    return model


def make_args(**kwargs):
    return EvaluationArguments(**{"evaluation_seeds": 2, "student_epochs": 40, "evaluation_dsa": "none"} | kwargs)


def evaluate(model=None, args=None, seed=0, split=None, **kwargs):
    model = make_artifact() if model is None else model
    split = quadrants(25, seed=9) if split is None else split
    return evaluate_artifact(
        model, split, make_processor(), NETWORK, args or make_args(), seed, Accelerator(cpu=True), **kwargs
    )


@pytest.mark.parametrize(("num_hallucinators", "label_kind"), [(2, "hard"), (0, "hard"), (2, "soft")])
def test_a_separable_set_is_learned(num_hallucinators, label_kind):
    result = evaluate(make_artifact(num_hallucinators, label_kind))
    assert len(result.accuracies) == 2 and min(result.accuracies) > 0.95
    assert result.mean == pytest.approx(np.mean(result.accuracies))
    assert result.std == pytest.approx(np.std(result.accuracies))  # ddof = 0
    assert result.seconds > 0 and result.validation_accuracies == []


def test_dsa_is_part_of_training():
    args = make_args(student_epochs=10)
    augmented = make_args(student_epochs=10, evaluation_dsa="color_crop_cutout_scale_rotate")
    assert (
        evaluate(args=args, split=noisy_test()).accuracies != evaluate(args=augmented, split=noisy_test()).accuracies
    )


def test_the_result_depends_on_the_seed_and_on_no_global_state():
    args, split = make_args(student_epochs=5), noisy_test()
    model = make_artifact()
    torch.manual_seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    first = evaluate(model, args, split=split)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    assert torch.equal(before[0], after[0]) and before[1] == after[1] and np.array_equal(before[2], after[2])
    torch.manual_seed(2)
    assert evaluate(model, args, split=split).accuracies == first.accuracies
    assert evaluate(model, args, seed=1, split=split).accuracies != first.accuracies
    # student i is the same whatever the number of students
    more = evaluate(model, make_args(student_epochs=5, evaluation_seeds=3), split=split)
    assert more.accuracies[:2] == first.accuracies and len(set(more.accuracies)) == 3


def test_evaluation_leaves_the_artifact_alone():
    model = make_artifact().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, make_args(student_epochs=2))
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_validation_is_scored_on_the_same_students():
    test, validation = noisy_test(), quadrants(10, seed=3)
    both = evaluate(split=test, validation_split=validation)
    assert both.accuracies == evaluate(split=test).accuracies
    assert both.validation_accuracies == evaluate(split=validation).accuracies


def test_accuracies_of_classes_are_those_of_sklearn():
    """On a split of 100, 40 and 10 images of three classes and none of the fourth."""
    test, networks = noisy_test(), {}
    rows = torch.cat([test.of_class(label)[:count] for label, count in enumerate((100, 40, 10))])
    uneven = Split(test.images[rows], test.labels[rows])
    result = evaluate(args=make_args(student_epochs=8), split=uneven, on_student=networks.__setitem__)
    recalls = []
    for index, network in networks.items():
        predicted = network(make_processor().normalize(uneven.images)).argmax(dim=1)
        assert result.accuracies[index] == accuracy_score(uneven.labels, predicted)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a student may name the class that has no images
            expected = balanced_accuracy_score(uneven.labels, predicted)
        assert result.balanced_accuracies[index] == pytest.approx(expected)
        recalls.append(recall_score(uneven.labels, predicted, average=None, labels=range(3)))
    assert result.class_accuracies[:3] == pytest.approx(np.mean(recalls, axis=0))
    assert result.class_accuracies[3] is None and result.mean != pytest.approx(np.mean(result.balanced_accuracies))


def test_the_stored_learning_rate_is_the_default():
    split = noisy_test()
    stored = evaluate(make_artifact(student_learning_rate=0.003), make_args(student_epochs=8), split=split)
    given = evaluate(make_artifact(), make_args(student_epochs=8, evaluation_learning_rate=0.003), split=split)
    default = evaluate(make_artifact(), make_args(student_epochs=8), split=split)
    # the artifact stores a float32
    assert stored.accuracies == pytest.approx(given.accuracies, abs=0.01)
    assert stored.accuracies != default.accuracies


def test_a_useless_stored_learning_rate_is_refused():
    model = make_artifact()
    model.student_learning_rate.data.fill_(-0.1)
    with pytest.raises(ValueError, match=r"student learning rate is -0\.1.*set evaluation_learning_rate"):
        evaluate(model)


def test_accuracy_equals_sklearns_in_one_pass_of_bounded_batches():
    images = torch.randint(0, 256, (10_000, 1, 8, 8), dtype=torch.uint8)
    labels, processor = torch.randint(0, 4, (10_000,)), make_processor()
    network = build_network(NETWORK, (1, 8, 8), 4, seed=0).train()
    batches = []
    network.register_forward_pre_hook(
        lambda module, inputs: batches.append((len(inputs[0]), module.training, torch.is_grad_enabled()))
    )
    scored = accuracy(network, images, labels, processor)
    assert sum(size for size, _, _ in batches) == 10_000 and max(size for size, _, _ in batches) <= 256
    assert not any(training or grad for _, training, grad in batches)
    assert network.training
    with torch.no_grad():
        predictions = network.eval()(processor.normalize(images)).argmax(dim=1)
    assert scored == accuracy_score(labels, predictions)
    assert not network.training and accuracy(network, images, labels, processor, batch_size=7) == scored


def test_the_learning_rate_decays_after_the_middle():
    assert [learning_rate_at(epoch, 5, 1.0) for epoch in range(5)] == [1, 1, 1, 0.1, 0.1]
    assert [learning_rate_at(epoch, 6, 1.0) for epoch in range(6)] == [1, 1, 1, 1, 0.1, 0.1]
    assert [learning_rate_at(epoch, 2, 1.0) for epoch in range(2)] == [1, 0.1], "of two, the last"
    assert learning_rate_at(0, 1, 1.0) == 1
    # the paper's code: 1,001 epochs, the last at the full rate is 501 when counting from 0
    assert [learning_rate_at(epoch, 1001, 1.0) for epoch in (500, 501)] == [1, 0.1]


def test_the_learning_rate_decays_in_two_steps():
    rates = [learning_rate_at(epoch, 1000, 1.0, "two_steps") for epoch in (0, 665, 666, 832, 833, 999)]
    assert rates == pytest.approx([1, 1, 0.2, 0.2, 0.04, 0.04])
    assert learning_rate_at(0, 1, 1.0, "two_steps") == pytest.approx(0.04)


def test_schedule_and_cutmix_reach_the_students():
    args = make_args(student_epochs=6)
    plain = evaluate(args=args, split=noisy_test()).accuracies
    for change in ({"evaluation_cutmix": 1.0}, {"evaluation_schedule": "two_steps"}):
        assert evaluate(args=make_args(student_epochs=6, **change), split=noisy_test()).accuracies != plain


@pytest.mark.parametrize("label_kind", ["hard", "soft"])
def test_training_with_cutmix_equals_a_plain_loop(label_kind):
    model, augmentation, cutmix = make_artifact(label_kind=label_kind), DsaAugmentation("crop"), CutMix(0.7)
    network = build_network(NETWORK, (1, 8, 8), 4, seed=0)
    generator = seeded_generator(3)
    batches = {"batches_of_epoch": lambda epoch: paired_batches(model, 3, generator), "epochs": 6}
    settings = {"momentum": 0.0, "weight_decay": 0.0, "schedule": "two_steps", "learning_rate": 0.05}
    train_by_sgd(network, **batches, **settings, augmentation=augmentation, cutmix=cutmix, generator=generator)
    expected, generator, mixed = build_network(NETWORK, (1, 8, 8), 4, seed=0), seeded_generator(3), 0
    for learning_rate in (0.05, 0.05, 0.05, 0.05, 0.01, 0.002):
        for samples, labels in paired_batches(model, 3, generator):
            samples = augmentation(samples, generator)
            mixture = cutmix.draw(samples.shape, generator)
            targets = labels if label_kind == "soft" else F.one_hot(labels, 4).float()
            if mixture is not None:
                mixed += 1
                (top, bottom), (left, right) = mixture.rows, mixture.columns
                other, samples = samples[mixture.partners], samples.clone()
                samples[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
                targets = (1 - mixture.share) * targets + mixture.share * targets[mixture.partners]
            loss = -(targets * expected(samples).log_softmax(dim=1)).sum(dim=1).mean()
            slopes = torch.autograd.grad(loss, list(expected.parameters()))
            with torch.no_grad():
                for weight, slope in zip(expected.parameters(), slopes, strict=True):
                    weight.sub_(learning_rate * slope)
    assert 4 < mixed < 18
    for weight, other in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(weight, other)


@pytest.mark.parametrize("label_kind", ["hard", "soft"])
def test_training_equals_a_plain_loop(label_kind):
    model, augmentation = make_artifact(label_kind=label_kind), DsaAugmentation("crop_scale")
    network = build_network(NETWORK, (1, 8, 8), 4, seed=0)
    generator, losses = seeded_generator(3), []
    train_by_sgd(
        network,
        lambda epoch: paired_batches(model, 3, generator),
        epochs=5,
        learning_rate=0.05,
        augmentation=augmentation,
        generator=generator,
        on_epoch=lambda epoch, loss: losses.append((epoch, loss)),
    )
    expected, generator = build_network(NETWORK, (1, 8, 8), 4, seed=0), seeded_generator(3)
    velocity = [torch.zeros_like(weight) for weight in expected.parameters()]
    for learning_rate in (0.05, 0.05, 0.05, 0.005, 0.005):
        for samples, labels in paired_batches(model, 3, generator):
            logits = expected(augmentation(samples, generator))
            if label_kind == "hard":
                loss = F.nll_loss(logits.log_softmax(dim=1), labels)
            else:
                loss = -(labels * logits.log_softmax(dim=1)).sum(dim=1).mean()
            gradients = torch.autograd.grad(loss, list(expected.parameters()))
            with torch.no_grad():
                for weight, v, gradient in zip(expected.parameters(), velocity, gradients, strict=True):
                    v.mul_(0.9).add_(gradient + 5e-4 * weight)
                    weight.sub_(learning_rate * v)
    for weight, other in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(weight, other)
    assert [epoch for epoch, _ in losses] == list(range(5)) and losses[-1][1] < losses[0][1]


def test_mixed_precision_is_that_of_the_forward_passes():
    """bfloat16 rounds to 8 bits: the weights stay float32 and land near, not at, those of float32."""
    model, trained = make_artifact(), []
    for autocast in (nullcontext, partial(torch.autocast, "cpu", torch.bfloat16)):
        network, seen = build_network(NETWORK, (1, 8, 8), 4, seed=0), set()
        network.classifier.register_forward_hook(lambda *args, seen=seen: seen.add(args[-1].dtype))
        generator = seeded_generator(3)
        batches = partial(paired_batches, model, 3, generator)
        train_by_sgd(network, lambda epoch, b=batches: b(), 3, 0.05, generator=generator, autocast=autocast)
        trained.append(network.blocks[0].weight.detach())
        assert torch.bfloat16 in seen or autocast is nullcontext
    assert trained[1].dtype == torch.float32 and not torch.equal(*trained)
    torch.testing.assert_close(*trained, rtol=0.1, atol=0.01)


@pytest.mark.parametrize("epochs", [1, 30])
def test_a_diverging_student_names_learning_rate_and_epoch(epochs):
    args = make_args(student_epochs=epochs, evaluation_learning_rate=3e38)
    message = rf"Student 0 of 2: .* diverged in epoch \d+ of {epochs} at learning rate 3e\+38.*lower learning rate"
    with pytest.raises(FloatingPointError, match=message):
        evaluate(args=args)


def test_logits_that_are_not_finite_are_no_accuracy():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    nn.init.constant_(network[1].weight, torch.nan)
    split = quadrants(1, seed=0)
    with pytest.raises(FloatingPointError, match="diverged"):
        accuracy(network, split.images, split.labels, make_processor())


def test_images_of_another_shape_or_class_are_refused():
    with pytest.raises(ValueError, match=r"samples are \[1, 8, 8\] but the images \[3, 8, 8\]"):
        evaluate(split=Split(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4)))
    with pytest.raises(ValueError, match=r"of classes 0\.\.3"):
        evaluate(split=Split(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5)))
    empty = Split(torch.zeros(0, 1, 8, 8, dtype=torch.uint8), torch.arange(0))
    with pytest.raises(ValueError, match="need images"):
        evaluate(split=empty)
    with pytest.raises(ValueError, match="need images"):
        evaluate(validation_split=empty)
    with pytest.raises(ValueError, match="split is empty"):
        accuracy(build_network(NETWORK, (1, 8, 8), 4, seed=0), empty.images, empty.labels, make_processor())


def test_an_empty_epoch_is_refused():
    network = build_network(NETWORK, (1, 8, 8), 4, seed=0)
    with pytest.raises(ValueError, match="training set is empty"):
        train_by_sgd(network, lambda epoch: [], 1, 0.1, generator=seeded_generator(0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("evaluation_seeds", 0),
        ("student_epochs", 0),
        ("evaluation_steps", 0),
        ("evaluation_batch_size", 0),
        ("real_student_epochs", -1),
        ("evaluation_learning_rate", 0.0),
        ("real_student_learning_rate", -1.0),
        ("evaluation_dsa", "color_spin"),
        ("evaluation_cutmix", 1.5),
    ],
)
def test_arguments_are_checked(name, value):
    messages = {"evaluation_dsa": "spin", "evaluation_cutmix": "CutMix must be between 0 and 1"}
    with pytest.raises(ValueError, match=messages.get(name, name)):
        EvaluationArguments(**{name: value})


def make_row(**kwargs):
    accuracies = [0.8, 0.81, 0.82]
    result = AccuracyResult(
        float(np.mean(accuracies)), float(np.std(accuracies)), accuracies, seconds=12.4, steps=1000, samples=20_000
    )
    storage = describe_storage(make_artifact().storage(), 1000, (1, 8, 8))
    return ReportRow(**{"system": "HaBa", "accuracy": result, "storage": storage} | kwargs)


def test_the_table():
    table = markdown_table([make_row(), make_row(system="Random")])
    lines = table.splitlines()
    assert lines[0].startswith("| system | accuracy (%) | floats | bytes |")
    assert lines[2] == "| HaBa | 81.0 ± 0.8 | 809 | 3,236 | 3.16 | 1.264% | 1,000 | 20,000 | 12 |"
    assert lines[3].startswith("| Random |") and lines[4] == ""
    assert "population standard deviation over 3 students" in lines[5]


def test_balanced_accuracy_has_a_column_where_it_differs():
    even = dataclasses.replace(make_row().accuracy, balanced_accuracies=[0.8001, 0.81, 0.82])
    assert markdown_table([make_row(accuracy=even)]) == markdown_table([make_row()]), "as printed"
    uneven = dataclasses.replace(even, balanced_accuracies=[0.5, 0.6, 0.7])
    lines = markdown_table([make_row(accuracy=uneven), make_row(system="Older")]).splitlines()
    assert lines[0].startswith("| system | accuracy (%) | balanced (%) | floats |")
    assert lines[2].startswith("| HaBa | 81.0 ± 0.8 | 60.0 ± 8.2 | 809 |")
    assert lines[3].startswith("| Older | 81.0 ± 0.8 | - | 809 |")
    assert len({line.count("|") for line in lines[:4]}) == 1 and "Balanced: the mean over the classes" in lines[6]


def test_results_are_written_in_one_piece(tmp_path, monkeypatch):
    path = tmp_path / "new" / "results.json"
    write_results(path, [make_row()], recipe_hash="abc")
    results = json.loads(path.read_text())
    assert results["recipe_hash"] == "abc"
    assert results["rows"][0]["accuracy"]["accuracies"] == [0.8, 0.81, 0.82]
    assert results["rows"][0]["storage"]["floats"] == 809
    with pytest.raises(ValueError):
        write_json(path, {"mean": float("nan")})

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full_disk)
    with pytest.raises(OSError, match=r"results\.json.*No space left"):
        write_json(path, {"new": 1})
    assert json.loads(path.read_text()) == results
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(tmp_path):
    """Three students on two processes; then a divergence on one process, which both must learn of."""
    lines = launch_processes(
        tmp_path,
        """
        import sys
        sys.path.insert(0, sys.argv[1])
        from accelerate import Accelerator
        import test_students as toy
        from haba_hf.evaluation import protocols

        accelerator = Accelerator(cpu=True)
        assert accelerator.num_processes == 2
        args = toy.make_args(student_epochs=5, evaluation_seeds=3)
        result = toy.evaluate(args=args, split=toy.noisy_test())
        print("RESULT", accelerator.process_index, result.accuracies)

        def diverge(*args, **kwargs):
            if accelerator.process_index == 1:
                raise FloatingPointError("diverged in epoch 3")
            return toy.train_by_sgd(*args, **kwargs)
        protocols.train_by_sgd = diverge
        try:
            toy.evaluate(args=args, split=toy.noisy_test())
        except FloatingPointError as error:
            print("RESULT", accelerator.process_index, error)
        """,
        str(Path(__file__).parent),
    )
    expected = evaluate(args=make_args(student_epochs=5, evaluation_seeds=3), split=noisy_test()).accuracies
    said = (str(expected), "Student 1 of 3: diverged in epoch 3")
    assert lines == sorted(f"RESULT {rank} {words}" for rank in (0, 1) for words in said)
