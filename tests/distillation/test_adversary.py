"""The adversary's losses against plain Python loops over the printed formulas, and who gets which gradient."""

import math

import pytest
import torch

from haba_hf.data.augmentation import DsaAugmentation
from haba_hf.distillation.adversary import (
    Adversary,
    AdversaryArguments,
    contrastive_loss,
    cosine_loss,
    supervised_contrastive_loss,
)
from tiny import NETWORK, all_fields, formations_of, gradients, tiny_accelerator, tiny_data, tiny_model, tiny_recipe


def random_features(views=3, bases=4, size=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(views, bases, size, generator=generator, dtype=torch.float64, requires_grad=True)


def cosine(a, b):
    return (a * b).sum() / ((a * a).sum().sqrt() * (b * b).sum().sqrt())


def looped_cosine_loss(features):
    """Eq. 5, term by term."""
    views, bases, _ = features.shape
    total = 0.0
    for j in range(views):
        for k in range(views):
            if j != k:
                for i in range(bases):
                    total = total + cosine(features[j, i], features[k, i])
    return total / views**2 / bases


def looped_contrastive_loss(features, temperature):
    """Eq. 3, term by term, with features of unit length."""
    views, bases, _ = features.shape
    total = 0.0
    for j in range(views):
        for k in range(views):
            if j != k:
                for i in range(bases):
                    positive = (cosine(features[j, i], features[k, i]) / temperature).exp()
                    every = sum((cosine(features[j, i], features[k, u]) / temperature).exp() for u in range(bases))
                    total = total + (positive / every).log()
    return -total / views**2 / bases


def looped_supervised_loss(features, classes, temperature):
    """Khosla et al. (2020), Eq. 2, with anchors (view, basis) and every other (view, basis) as a contrast."""
    views, bases, _ = features.shape
    anchors = [(j, i) for j in range(views) for i in range(bases)]
    total = 0.0
    for anchor in anchors:
        others = [other for other in anchors if other != anchor]
        scores = {other: (cosine(features[anchor], features[other]) / temperature).exp() for other in others}
        positives = [other for other in others if classes[other[1]] == classes[anchor[1]]]
        total = total - sum((scores[other] / sum(scores.values())).log() for other in positives) / len(positives)
    return total / len(anchors)


CLASSES = torch.tensor([0, 1, 1, 2])
LOSSES = {
    "cosine": (cosine_loss, looped_cosine_loss),
    "contrastive": (lambda z: contrastive_loss(z, 0.07), lambda z: looped_contrastive_loss(z, 0.07)),
    "warm contrastive": (lambda z: contrastive_loss(z, 2.0), lambda z: looped_contrastive_loss(z, 2.0)),
    "supervised": (
        lambda z: supervised_contrastive_loss(z, CLASSES, 0.5),
        lambda z: looped_supervised_loss(z, CLASSES, 0.5),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("views", [2, 3])
def test_losses_and_gradients_equal_loops_over_the_formulas(name, views):
    loss, looped = LOSSES[name]
    features = random_features(views)
    value, expected = loss(features), looped(features)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(value, features)
    (expected_gradient,) = torch.autograd.grad(expected, features)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("name", LOSSES)
def test_losses_by_finite_differences(name):
    assert torch.autograd.gradcheck(LOSSES[name][0], random_features(2, 4, 3))


@pytest.mark.parametrize("scale", [1e-3, 1e3])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_do_not_see_the_length_of_features(name, scale):
    loss = LOSSES[name][0]
    features = random_features().detach()
    torch.testing.assert_close(loss(features * scale), loss(features))


def test_known_values():
    one_view = torch.eye(3)[None]
    same = one_view.repeat(2, 1, 1)
    # Two of the four ordered pairs of views differ, so views that agree give 1/2 and opposite ones -1/2.
    assert cosine_loss(same).item() == pytest.approx(0.5)
    assert cosine_loss(torch.cat([one_view, -one_view])).item() == pytest.approx(-0.5)
    assert cosine_loss(same.repeat(2, 1, 1)).item() == pytest.approx(12 / 16)
    # Three orthogonal bases: a cosine of 1 with itself, 0 with the two others.
    expected = 0.5 * math.log(1 + 2 * math.exp(-1 / 0.5))
    assert contrastive_loss(same, 0.5).item() == pytest.approx(expected)
    # Indistinguishable bases: chance.
    assert contrastive_loss(torch.ones(2, 3, 4), 0.07).item() == pytest.approx(0.5 * math.log(3))
    assert contrastive_loss(torch.ones(2, 1, 4), 0.07).item() == 0


def test_supervised_loss_of_one_basis_per_class():
    """Then only the other views of the same basis are positives."""
    features = random_features(2, 3).detach()
    expected = looped_supervised_loss(features, torch.arange(3), 0.07)
    torch.testing.assert_close(supervised_contrastive_loss(features, torch.arange(3), 0.07), expected)


def double_adversary(data, recipe):
    adversary = Adversary(NETWORK, recipe.distillation, recipe.adversary, data, tiny_accelerator())
    adversary.network.double()
    return adversary


def naive_losses(adversary, arguments, model, generator):
    """The three losses with one hallucinator call a sample and loops over the formulas, from the same draws."""
    num_views = min(arguments.adversary_hallucinators, model.config.num_hallucinators)
    num_bases = min(arguments.adversary_bases or model.config.num_bases, model.config.num_bases)
    views = torch.randperm(model.config.num_hallucinators, generator=generator)[:num_views].tolist()
    bases = torch.randperm(model.config.num_bases, generator=generator)[:num_bases].tolist()
    images = torch.cat([model.hallucinators[j](model.bases[i : i + 1]) for j in views for i in bases])
    samples = torch.stack(formations_of(images, model.config), dim=1).flatten(0, 1)
    bases = [i for i in bases for _ in range(model.config.num_formations)]
    parameters = DsaAugmentation(arguments.dsa).draw(len(samples), generator)
    features = adversary.network.features(DsaAugmentation.apply(samples, parameters))
    labels = [model.labels[i] for i in bases] * num_views
    l_task = 0.0
    for feature, label in zip(features, labels, strict=True):
        log_probabilities = adversary.network.classifier(feature).log_softmax(dim=0)
        weights = label.detach() if label.ndim else torch.eye(len(log_probabilities), dtype=torch.float64)[label]
        l_task = l_task - (weights * log_probabilities).sum() / len(labels)
    features = features.unflatten(0, (num_views, len(bases)))
    if arguments.contrast == "instance":
        l_con = looped_contrastive_loss(features, arguments.temperature)
    else:
        l_con = looped_supervised_loss(features, model.class_ids[bases].tolist(), arguments.temperature)
    return looped_cosine_loss(features), l_con, l_task


@pytest.mark.parametrize(
    ("settings", "label_kind", "formation_factor"),
    [
        ({}, "hard", 1),
        ({}, "soft", 2),
        ({"contrast": "supervised", "temperature": 0.5, "adversary_bases": 3}, "hard", 2),
        ({"contrast": "supervised", "temperature": 0.5}, "hard", 1),
        ({"adversary_hallucinators": 3, "adversary_bases": 5, "lambda_cos": 0.7, "lambda_con": 0.3}, "soft", 1),
        ({"adversary_hallucinators": 9, "adversary_bases": 99, "lambda_task": 0.2}, "hard", 1),
        ({"dsa": "none"}, "hard", 1),
        ({"micro_batch_size": 5}, "soft", 2),
        ({"micro_batch_size": 1, "adversary_bases": 3}, "hard", 2),
        ({"micro_batch_size": 7, "contrast": "supervised", "temperature": 0.5, "lambda_task": 0.2}, "hard", 2),
    ],
)
def test_gradients_of_both_players(settings, label_kind, formation_factor):
    """S gets lambda_cos L_cos and nothing else, F gets lambda_con L_con + lambda_task L_task and nothing else."""
    data = tiny_data()
    recipe = tiny_recipe(**settings)
    adversary, arguments = double_adversary(data, recipe), all_fields(recipe)
    model = tiny_model(data, label_kind=label_kind, formation_factor=formation_factor).double()

    logs = adversary.backward(model, torch.Generator().manual_seed(5))
    l_cos, l_con, l_task = naive_losses(adversary, arguments, model, torch.Generator().manual_seed(5))
    expected_logs = {"l_cos": l_cos.item(), "l_con": l_con.item(), "l_task": l_task.item()}
    assert logs == pytest.approx(expected_logs, rel=1e-10)

    names = [name for name, _ in model.named_parameters()]
    expected = torch.autograd.grad(
        arguments.lambda_cos * l_cos, list(model.parameters()), retain_graph=True, materialize_grads=True
    )
    actual = gradients(model)
    for name, gradient in zip(names, expected, strict=True):
        torch.testing.assert_close(
            actual[name], gradient, rtol=1e-8, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}"
        )
    assert actual["bases"].abs().max() > 0
    assert actual["student_learning_rate"] == 0
    if label_kind == "soft":
        assert not actual["label_logits"].any()

    loss = arguments.lambda_con * l_con + arguments.lambda_task * l_task
    expected = torch.autograd.grad(loss, list(adversary.network.parameters()))
    for parameter, gradient in zip(adversary.network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-8, atol=1e-12)


def test_what_fits_into_one_pass_is_computed_once(monkeypatch):
    data = tiny_data()
    adversary = double_adversary(data, tiny_recipe(micro_batch_size=16))
    features, passes = adversary.network.features, []
    monkeypatch.setattr(adversary.network, "features", lambda x: passes.append(len(x)) or features(x))
    adversary.backward(tiny_model(data).double(), torch.Generator().manual_seed(0))
    assert passes == [16]


def test_gradients_are_added():
    data = tiny_data()
    adversary = double_adversary(data, tiny_recipe())
    model = tiny_model(data).double()
    adversary.backward(model, torch.Generator().manual_seed(0))
    once = gradients(model) | gradients(adversary.network)
    adversary.backward(model, torch.Generator().manual_seed(0))
    for name, gradient in (gradients(model) | gradients(adversary.network)).items():
        torch.testing.assert_close(gradient, 2 * once[name])


@pytest.mark.parametrize("contrast", ["instance", "supervised"])
@pytest.mark.parametrize(
    ("micro_batch_size", "expected_passes"),
    [(None, [40, 24] * 2), (64, [40, 24] * 2), (30, [30, 30, 4] * 2), (1, [1] * 128)],
)
def test_a_pass_takes_no_more_samples_than_it_may(monkeypatch, contrast, micro_batch_size, expected_passes):
    """And the two players get, to the last digits, the gradients of one pass over all samples."""
    data = tiny_data()
    recipe = tiny_recipe(micro_batch_size=micro_batch_size, contrast=contrast)
    model = tiny_model(data, formation_factor=2).double()
    together, apart = double_adversary(data, tiny_recipe(contrast=contrast)), double_adversary(data, recipe)
    expected = together.backward(model, torch.Generator().manual_seed(3))
    of_samples = gradients(model)
    model.zero_grad()

    passes = []
    features = apart.network.features
    monkeypatch.setattr(apart.network, "features", lambda x: passes.append(len(x)) or features(x))
    monkeypatch.setattr("haba_hf.data.splits.PIXELS_AT_ONCE", 40 * 8 * 8)  # 2 views of 8 bases, in 4 tiles each: 64
    assert apart.backward(model, torch.Generator().manual_seed(3)) == pytest.approx(expected, rel=1e-12)
    assert passes == expected_passes
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, of_samples[name], rtol=1e-10, atol=1e-14)
    for parameter, expected in zip(apart.network.parameters(), together.network.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-10, atol=1e-14)


def test_the_game_is_played():
    """One step of F brings views together, one step of S takes them apart."""
    data = tiny_data()
    adversary = double_adversary(data, tiny_recipe(dsa="none", lambda_task=0.0, lambda_con=1.0, lambda_cos=1.0))
    model = tiny_model(data).double()
    before = adversary.backward(model, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(1e-2 * parameter.grad)
    apart = adversary.backward(model, torch.Generator().manual_seed(0))
    assert apart["l_cos"] < before["l_cos"]
    adversary.network.zero_grad()
    before = adversary.backward(model, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in adversary.network.parameters():
            if parameter.grad is not None:
                parameter.sub_(1e-2 * parameter.grad)
    assert adversary.backward(model, torch.Generator().manual_seed(0))["l_con"] < before["l_con"]


def test_one_hallucinator_cannot_be_compared():
    with pytest.raises(ValueError, match="adversary_hallucinators must be at least 2"):
        AdversaryArguments(adversary_hallucinators=1)
