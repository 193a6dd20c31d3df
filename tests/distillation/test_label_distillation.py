"""Label distillation against autograd of a naive step and finite differences, in float64; its restarts against the
rule written out."""

import random

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from haba_hf.distillation import LabelDistillation
from haba_hf.distillation.experts import flat_parameters
from haba_hf.distillation.objectives.label_distillation import RestartRule, published_window
from haba_hf.networks import build_network
from haba_hf.utils.seeds import derived_seed, seeded_generator
from tiny import (
    NETWORK,
    all_fields,
    assert_directional_derivative,
    gradients,
    tiny_accelerator,
    tiny_data,
    tiny_model,
    tiny_recipe,
)


def base_samples(data):
    return tiny_model(data, num_hallucinators=0, label_kind="soft")


def prepared(data, model, **settings):
    recipe = tiny_recipe(**{"real_batch_size": 9, "dsa": "none"} | settings)
    objective = LabelDistillation(NETWORK, recipe.distillation, recipe.label_distillation)
    objective.prepare(data, model, tiny_accelerator())
    return objective, all_fields(recipe)


def first_network(data, arguments, number=0):
    return build_network(NETWORK, data.image_shape, data.num_labels, derived_seed(arguments.seed, number, 0, 1))


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("settings", [{}, {"student_batch_size": 3, "inner_learning_rate": 0.7, "lambda_dd": 0.5}])
def test_three_steps_equal_a_plain_loop(settings):
    """Gradient, error and the network, which Adam moves on the loss of the base samples."""
    data = tiny_data()
    model = base_samples(data)
    objective, arguments = prepared(data, model, **settings)
    network = first_network(data, arguments)
    names, parameters = zip(*network.named_parameters(), strict=True)
    optimizer = torch.optim.Adam(parameters)
    for step in range(3):
        model.zero_grad()
        logs = objective.backward(model, torch.Generator().manual_seed(step))

        order = torch.randperm(8, generator=seeded_generator(arguments.seed, step, 0, 2))
        rows = order[: settings.get("student_batch_size", 8)]
        labels = torch.stack([model.label_logits[row].exp() / model.label_logits[row].exp().sum() for row in rows])
        loss = -(labels * network(model.bases[rows].detach()).log_softmax(dim=1)).sum(dim=1).mean()
        slopes = torch.autograd.grad(loss, parameters, create_graph=True)
        rate = arguments.inner_learning_rate
        fast = {name: p - rate * slope for name, p, slope in zip(names, parameters, slopes, strict=True)}
        chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(step))[:9]
        logits = functional_call(network, fast, (data.processor.normalize(data.train.images[chosen]),))
        real_loss = F.cross_entropy(logits, data.train.labels[chosen])
        (expected,) = torch.autograd.grad(arguments.lambda_dd * real_loss, model.label_logits)

        torch.testing.assert_close(gradients(model)["label_logits"], expected, rtol=1e-8, atol=1e-12)
        assert expected.abs().max() > 1e-6
        wrong = (logits.argmax(dim=1) != data.train.labels[chosen]).double().mean().item()
        assert logs == {"l_dd": pytest.approx(real_loss.item()), "error": pytest.approx(wrong), "restarts": 0.0}
        for parameter, slope in zip(parameters, slopes, strict=True):
            parameter.grad = slope.detach()
        optimizer.step()
        torch.testing.assert_close(objective.theta.detach(), flat_parameters(network))
        with torch.no_grad():
            model.label_logits.add_(torch.randn_like(model.label_logits))
    others = {name: gradient for name, gradient in gradients(model).items() if name != "label_logits"}
    assert not any(gradient.any() for gradient in others.values())


@pytest.mark.usefixtures("doubles")
def test_gradient_by_finite_differences():
    data = tiny_data()
    model = base_samples(data)
    objective, _ = prepared(data, model, inner_learning_rate=0.5, dsa="color_scale")
    objective.backward(model, torch.Generator().manual_seed(2))
    actual = gradients(model)

    def loss():
        objective.prepare(data, model, tiny_accelerator())  # the same first step
        return objective.backward(model, torch.Generator().manual_seed(2))["l_dd"]

    assert_directional_derivative(model, actual, loss, ["label_logits"], eps=1e-7)


def published_restarts(errors, window):
    """The rule of the released code as its state machine: after which steps it restarts, and what it remembers."""
    restarts, kept, lowest, steps, waited = [], [], None, 0, 0
    for index, error in enumerate(errors):
        steps += 1
        if len(kept) < window:
            kept.append(error)
            if steps == window:
                lowest, waited = sum(kept), 0
            continue
        kept = [*kept[1:], error]
        if sum(kept) < lowest:
            lowest, waited = sum(kept), 0
        elif waited < window:
            waited += 1
        else:
            restarts.append((index, steps - waited - 1))
            kept, lowest, steps, waited = [], None, 0, 0
    return restarts


@pytest.mark.parametrize("window", [1, 2, 5, 20])
def test_the_restart_rule_is_the_published_one(window):
    """On errors in eighths, whose sums are exact, that fall and then stay."""
    numbers = random.Random(window)
    for slope in (0.0, 0.05, 0.5):
        errors = [round(max(64 - slope * i, 20) + numbers.randrange(-8, 9)) / 8 for i in range(600)]
        rule, found = RestartRule(window), []
        for index, error in enumerate(errors):
            if rule.update(error):
                found.append((index, rule.steps - rule.since_lowest))
                rule = RestartRule(window)
        assert found == published_restarts(errors, window)
        assert found or slope


def test_restarts_of_a_scripted_run(monkeypatch):
    """Window 2: sums 1.5, 0.9, then none lower for 3 steps; a new network, and the step of the lowest sum is kept."""
    data = tiny_data()
    model = base_samples(data)
    objective, arguments = prepared(data, model, restart_window=2)
    errors = [0.8, 0.7, 0.2, 0.7, 0.8, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1]
    script = [torch.tensor(error) for error in errors]
    monkeypatch.setattr(objective.network, "error", lambda *_: script.pop(0))
    logs = [objective.backward(model, torch.Generator().manual_seed(step)) for step in range(12)]
    assert [line["restarts"] for line in logs] == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2]
    assert "steps_to_lowest" not in logs[4]
    # 0.2 + 0.7 = 0.7 + 0.2: step 3 was the first of the lowest sums; of the second network it is step 2.
    assert [line["steps_to_lowest"] for line in logs[5:]] == [3, 3, 3, 3, 3, 2.5, 2.5]
    assert objective.rule.steps == 1
    moved = objective.theta.detach() - flat_parameters(first_network(data, arguments, number=2))
    assert 0 < moved.abs().max() <= 1.01e-3, "one step of Adam"


def test_windows():
    assert [published_window(bases, 10) for bases in (10, 100, 200, 500)] == [50, 50, 200, 200]
    assert published_window(100, 100) == published_window(49, 49) == 100
    data = tiny_data()
    assert prepared(data, base_samples(data))[0].rule.window == 50


def test_better_labels_than_those_of_the_start():
    """Uniform labels that are learned lower the real loss of the step they are judged by."""
    data = tiny_data()
    model = base_samples(data)
    with torch.no_grad():
        model.label_logits.zero_()
    objective, _ = prepared(data, model, real_batch_size=100, inner_learning_rate=0.5)
    optimizer = torch.optim.Adam([model.label_logits], lr=0.1)
    losses = []
    for _ in range(15):
        objective.prepare(data, model, tiny_accelerator())
        optimizer.zero_grad()
        losses.append(objective.backward(model, torch.Generator().manual_seed(0))["l_dd"])
        optimizer.step()
    assert losses[-1] < losses[0] - 0.05
    torch.testing.assert_close(model.labels.sum(dim=1), torch.ones(8))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_hallucinators": 0}, "learns soft labels: set label_kind to soft"),
        ({"label_kind": "soft"}, "keeps its base samples: set num_hallucinators to 0"),
    ],
)
def test_what_has_no_labels_to_learn_or_samples_to_keep_is_refused(sizes, message):
    data = tiny_data()
    with pytest.raises(ValueError, match=message):
        prepared(data, tiny_model(data, **sizes))
