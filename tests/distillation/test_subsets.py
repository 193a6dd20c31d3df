"""Some samples of a class a step: the mean over all draws is what all samples give."""

import itertools

import pytest
import torch

from haba_hf.distillation import DistillationArguments, FeatureAlignmentArguments
from haba_hf.distillation.objectives import (
    DistributionMatching,
    DistributionMatchingArguments,
    FeatureAlignment,
    GradientMatchingArguments,
    IdcArguments,
    IdcMatching,
    feature_alignment,
    gradient_matching,
    subsets,
)
from haba_hf.distillation.objectives import distribution_matching as dm
from tiny import NETWORK, tiny_accelerator, tiny_data, tiny_model


@pytest.fixture
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_the_spread_of_a_draw_is_subtracted(doubles):
    features, mean = torch.randn(2, 6, 5, requires_grad=True), torch.randn(2, 5)
    full = subsets.squared_distances(mean, features, 6)
    torch.testing.assert_close(full, (mean - features.mean(dim=1)).square().sum(dim=1))
    for drawn in (2, 3, 5):
        draws = list(itertools.combinations(range(6), drawn))
        total = sum(subsets.squared_distances(mean, features[:, list(rows)], 6) for rows in draws) / len(draws)
        torch.testing.assert_close(total, full)
        (slope,) = torch.autograd.grad(total.sum(), features, retain_graph=True)
        torch.testing.assert_close(slope, torch.autograd.grad(full.sum(), features, retain_graph=True)[0])
        uncorrected = sum((mean - features[:, list(rows)].mean(dim=1)).square().sum() for rows in draws) / len(draws)
        assert uncorrected > full.sum() + 0.01, "what a subset's spread adds"


def test_two_draws_give_the_gradient_of_a_squared_distance(doubles):
    features, mean = torch.randn(5, 4, requires_grad=True), torch.randn(4)

    def distance(means):
        return (means[0] - mean).square().sum()

    (expected,) = torch.autograd.grad(distance([features.mean(dim=0)]), features)
    pairs = list(itertools.product(itertools.combinations(range(5), 2), itertools.combinations(range(5), 1)))
    total = sum(
        subsets.crossed(distance, [features[list(a)].mean(dim=0)], [features[list(b)].mean(dim=0)]) for a, b in pairs
    )
    torch.testing.assert_close(torch.autograd.grad(total / len(pairs), features)[0], expected)


def test_draws_are_without_replacement_and_by_class():
    ids = torch.arange(12).view(3, 4)
    generator = torch.Generator().manual_seed(0)
    assert subsets.draw_samples(ids, None, generator) is ids and subsets.draw_samples(ids, 4, generator) is ids
    assert subsets.draw_halves(ids, 4, generator) is None and subsets.draw_halves(ids, None, generator) is None
    seen = set()
    for _ in range(60):
        drawn = subsets.draw_samples(ids, 2, generator)
        assert drawn.shape == (3, 2) and (drawn // 4 == torch.arange(3)[:, None]).all()
        assert (drawn[:, 0] != drawn[:, 1]).all()
        seen |= set(drawn.flatten().tolist())
        first, second = subsets.draw_halves(ids, 3, generator)
        assert first.shape == (3, 2) and second.shape == (3, 1)
    assert seen == set(range(12))


def gradient_of(objective, model, data):
    model.zero_grad()
    objective.prepare(data, model, tiny_accelerator())
    objective.backward(model, torch.Generator().manual_seed(0))
    return model.bases.grad.clone()


def mean_over(draws, module, name, monkeypatch, gradient):
    total = 0.0
    for draw in draws:
        monkeypatch.setattr(module, name, lambda ids, count, generator, draw=draw: draw)
        total = total + gradient()
    return total / len(draws)


def test_distribution_matching_by_draws_is_distribution_matching(doubles, monkeypatch):
    data = tiny_data(num_labels=2, images_per_class=5)
    model = tiny_model(data, bases_per_class=4, num_hallucinators=0)
    arguments = DistillationArguments(dsa="none", real_batch_size=5)
    whole = gradient_of(DistributionMatching(NETWORK, arguments, DistributionMatchingArguments(1)), model, data)
    some = DistillationArguments(dsa="none", real_batch_size=5, samples_per_class=2)
    objective = DistributionMatching(NETWORK, some, DistributionMatchingArguments(1))
    pairs = list(itertools.combinations(range(4), 2))
    draws = [torch.tensor([a, [4 + row for row in b]]) for a, b in itertools.product(pairs, pairs)]
    mean = mean_over(draws, dm, "draw_samples", monkeypatch, lambda: gradient_of(objective, model, data))
    torch.testing.assert_close(mean, whole)


def test_idc_by_draws_is_idc(doubles, monkeypatch):
    data = tiny_data(num_labels=1, images_per_class=4)
    model = tiny_model(data, bases_per_class=3, num_hallucinators=0)
    settings = GradientMatchingArguments(), IdcArguments(idc_distance="mse")
    common = {"objective": "idc", "dsa": "none", "real_batch_size": 4}
    whole = gradient_of(IdcMatching(NETWORK, DistillationArguments(**common), *settings), model, data)
    objective = IdcMatching(NETWORK, DistillationArguments(**common, samples_per_class=2), *settings)
    draws = [(torch.tensor([[a]]), torch.tensor([[b]])) for a, b in itertools.product(range(3), range(3))]
    gradient = lambda: gradient_of(objective, model, data)  # noqa: E731
    torch.testing.assert_close(mean_over(draws, gradient_matching, "draw_halves", monkeypatch, gradient), whole)


def test_feature_alignment_by_draws_is_feature_alignment(doubles, monkeypatch):
    data = tiny_data(num_labels=1, images_per_class=4)
    model = tiny_model(data, bases_per_class=3, num_hallucinators=0)
    settings = FeatureAlignmentArguments(discrimination_weight=0.0)
    common = {"objective": "cafe", "dsa": "none", "real_batch_size": 4}
    whole = gradient_of(FeatureAlignment(NETWORK, DistillationArguments(**common), settings), model, data)
    objective = FeatureAlignment(NETWORK, DistillationArguments(**common, samples_per_class=2), settings)
    draws = [(torch.tensor([[a]]), torch.tensor([[b]])) for a, b in itertools.product(range(3), range(3))]
    gradient = lambda: gradient_of(objective, model, data)  # noqa: E731
    torch.testing.assert_close(mean_over(draws, feature_alignment, "draw_halves", monkeypatch, gradient), whole)


@pytest.mark.parametrize("objective", ["dm", "idc", "cafe"])
def test_a_step_costs_what_its_samples_do(objective, monkeypatch):
    """Of 24 samples a class through 3 hallucinators a step restores 4."""
    data = tiny_data()
    model = tiny_model(data, bases_per_class=8, num_hallucinators=3)
    arguments = DistillationArguments(objective=objective, samples_per_class=4, real_batch_size=3)
    made = {
        "dm": lambda: DistributionMatching(NETWORK, arguments, DistributionMatchingArguments()),
        "idc": lambda: IdcMatching(NETWORK, arguments, GradientMatchingArguments(), IdcArguments()),
        "cafe": lambda: FeatureAlignment(NETWORK, arguments, FeatureAlignmentArguments()),
    }[objective]()
    restored = []
    forward = type(model).forward
    monkeypatch.setattr(
        type(model),
        "forward",
        lambda self, *ids: (restored.append(len(ids[0]) if ids else None), forward(self, *ids))[1],
    )
    made.prepare(data, model, tiny_accelerator())
    made.backward(model, torch.Generator().manual_seed(0))
    assert sum(restored) == 4 * data.num_labels
    assert model.bases.grad.abs().sum() > 0 and all(h.scale.grad is not None for h in model.hallucinators)


def test_draws_that_make_no_sense_are_refused():
    data = tiny_data()
    arguments = DistillationArguments(samples_per_class=1)
    objective = DistributionMatching(NETWORK, arguments, DistributionMatchingArguments())
    with pytest.raises(ValueError, match="samples_per_class must be at least 2 of the 6 samples of a class"):
        objective.prepare(data, tiny_model(data, bases_per_class=2, num_hallucinators=3), tiny_accelerator())
    objective.prepare(data, tiny_model(data, bases_per_class=1, num_hallucinators=0), tiny_accelerator())
    arguments.samples_per_class = 2
    with pytest.raises(ValueError, match="samples_per_class draws by class: set label_kind to hard"):
        objective.prepare(data, tiny_model(data, bases_per_class=3, label_kind="soft"), tiny_accelerator())
