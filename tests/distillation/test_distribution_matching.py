"""Distribution matching against a naive loop over classes, images and samples, and against finite differences."""

import itertools

import pytest
import torch

from haba_hf.data.augmentation import DsaAugmentation
from haba_hf.distillation import DistributionMatching
from haba_hf.distillation.objectives import distribution_matching
from haba_hf.evaluation import students
from haba_hf.networks import build_network
from haba_hf.utils.seeds import derived_seed
from tiny import (
    NETWORK,
    all_fields,
    assert_directional_derivative,
    assert_gradients_equal,
    gradients,
    tiny_accelerator,
    tiny_data,
    tiny_model,
    tiny_recipe,
)

pytestmark = pytest.mark.usefixtures("doubles")


def prepared(data, model, **settings):
    recipe = tiny_recipe(**settings)
    objective = DistributionMatching(NETWORK, recipe.distillation, recipe.distribution_matching)
    objective.prepare(data, model, tiny_accelerator())
    return objective, all_fields(recipe)


def naive_sample(model, basis, hallucinator):
    if not model.config.num_hallucinators:
        return model.bases[basis : basis + 1]
    return model.hallucinators[hallucinator](model.bases[basis : basis + 1], model.encoder, model.decoder)


def naive_loss(data, model, network, arguments, generator, augmented=True):
    """L_DD with one network call for each image and each sample; draws in the order of the objective."""
    augmentation = DsaAugmentation(arguments.dsa if augmented else "none", per_sample=False)
    drawn = [augmentation.draw(1, generator) for _ in range(data.num_labels)]
    total = 0.0
    for label in range(data.num_labels):
        members = [row for row, other in enumerate(data.train.labels.tolist()) if other == label]
        order = torch.randperm(len(members), generator=generator)[: arguments.real_batch_size].tolist()
        real = 0.0
        for row in [members[position] for position in order]:
            image = data.processor.normalize(data.train.images[row : row + 1])
            real = real + network.features(DsaAugmentation.apply(image, drawn[label]))[0] / len(order)
        mean, weights = 0.0, 0.0
        for basis, j in itertools.product(
            range(model.config.num_bases), range(max(model.config.num_hallucinators, 1))
        ):
            own = int(model.class_ids[basis])
            weight = model.labels[basis, label] if model.config.label_kind == "soft" else float(own == label)
            sample = DsaAugmentation.apply(naive_sample(model, basis, j), drawn[own])
            mean, weights = mean + weight * network.features(sample)[0], weights + weight
        total = total + ((real - mean / weights) ** 2).sum()
    return total


CASES = [
    ({}, {}, 3),
    ({"dsa": "none"}, {}, 1),
    ({"lambda_dd": 0.25}, {"bases_per_class": 1, "label_kind": "soft"}, 3),
    ({"real_batch_size": 100}, {"num_hallucinators": 0}, 3),
    ({}, {"share_encoder_decoder": True, "hallucinator_depth": 2, "hallucinator_channels": 2}, 3),
    ({"dsa": "rotate"}, {"basis_channels": 1, "num_hallucinators": 2}, 3),
    ({"dsa": "cutout"}, {"hallucinator_depth": 0}, 1),
]


@pytest.mark.parametrize(("settings", "sizes", "channels"), CASES)
def test_gradient_equals_a_naive_loop(settings, sizes, channels):
    data = tiny_data(channels)
    model = tiny_model(data, **sizes)
    objective, arguments = prepared(data, model, **settings)
    logs = objective.backward(model, torch.Generator().manual_seed(3))

    generator = torch.Generator().manual_seed(3)
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    network = build_network(NETWORK, data.image_shape, data.num_labels, seed)
    loss = naive_loss(data, model, network, arguments, generator)
    assert logs == {"l_dd": pytest.approx(loss.item(), rel=1e-10)}
    assert_gradients_equal(model, arguments.lambda_dd * loss)
    assert not gradients(model)["student_learning_rate"].any()


def test_formations_count_like_samples():
    """The loss of an artifact is that of plain pixels which are its samples."""
    data = tiny_data()
    model = tiny_model(data, formation_factor=2)
    plain = tiny_model(data, num_hallucinators=0, bases_per_class=2 * 3 * 4)
    plain.bases.data.copy_(model.materialize().samples)
    losses = [
        prepared(data, each)[0].backward(each, torch.Generator().manual_seed(3))["l_dd"] for each in (model, plain)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    assert gradients(model)["bases"].abs().max() > 1e-6


def test_soft_labels_are_learned_in_one_chunk(monkeypatch):
    """Every sample counts in the means of all classes, so that no class can be taken alone."""
    monkeypatch.setattr(distribution_matching, "SAMPLES_AT_ONCE", 1)
    data = tiny_data()
    model = tiny_model(data, label_kind="soft")
    objective, _ = prepared(data, model)
    objective.backward(model, torch.Generator().manual_seed(1))
    actual = gradients(model)
    assert actual["label_logits"].abs().max() > 1e-6

    def loss():
        return objective.backward(model, torch.Generator().manual_seed(1))["l_dd"]

    assert_directional_derivative(model, actual, loss, ["label_logits"])


def test_evaluated_students_start_elsewhere_than_the_bank():
    data = tiny_data()
    objective, arguments = prepared(data, tiny_model(data), network_bank=2)
    for index in range(2):
        seed = derived_seed(arguments.seed, index, students.WEIGHTS)
        student = build_network(NETWORK, data.image_shape, data.num_labels, seed)
        banked, _ = objective._banked(index)
        assert not torch.equal(next(student.parameters()), next(banked.parameters()))


@pytest.mark.parametrize("operation", ["none", "color", "crop", "cutout", "flip", "scale", "rotate"])
def test_gradient_by_finite_differences(operation):
    data = tiny_data()
    model = tiny_model(data)
    objective, _ = prepared(data, model, dsa=operation)
    objective.backward(model, torch.Generator().manual_seed(1))
    actual = gradients(model)

    def loss():
        return objective.backward(model, torch.Generator().manual_seed(1))["l_dd"]

    assert_directional_derivative(model, actual, loss, ["bases"])
    assert_directional_derivative(model, actual, loss, [name for name in actual if name.startswith("hallucinators.1")])


def test_chunks_add_up(monkeypatch):
    """A class is never split, but few classes at once give the same gradient as all."""
    data = tiny_data()
    model = tiny_model(data)
    objective, _ = prepared(data, model)
    whole = objective.backward(model, torch.Generator().manual_seed(1))
    expected = gradients(model)
    for at_once in (1, 13):  # one class at a time; two classes of 6 samples
        monkeypatch.setattr(distribution_matching, "SAMPLES_AT_ONCE", at_once)
        model.zero_grad()
        assert objective.backward(model, torch.Generator().manual_seed(1)) == pytest.approx(whole, rel=1e-12)
        for name, gradient in gradients(model).items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-14)


def test_bank_equals_the_uncached_computation():
    data = tiny_data()
    model = tiny_model(data)
    # All images of a class, so that the mean does not depend on which are drawn.
    objective, arguments = prepared(data, model, network_bank=2, seed=5, real_batch_size=100)
    seeds = [derived_seed(5, index, 0, distribution_matching.NETWORKS) for index in (0, 1)]
    networks = [build_network(NETWORK, data.image_shape, data.num_labels, seed) for seed in seeds]
    met = set()
    for step in range(8):
        model.zero_grad()
        logs = objective.backward(model, torch.Generator().manual_seed(step))
        generator = torch.Generator().manual_seed(step)
        index = int(torch.randint(2, (), generator=generator))
        met.add(index)
        loss = naive_loss(data, model, networks[index], arguments, generator, augmented=False)
        assert logs["l_dd"] == pytest.approx(loss.item(), rel=1e-10)
        assert_gradients_equal(model, loss)
    assert met == {0, 1}


def test_bank_computes_real_means_once(monkeypatch):
    data = tiny_data()
    model = tiny_model(data)
    objective, _ = prepared(data, model, network_bank=2)
    calls = []
    real_means = objective._real_means
    monkeypatch.setattr(objective, "_real_means", lambda *arguments: calls.append(0) or real_means(*arguments))
    first = {}
    for step in range(10):
        model.zero_grad()
        first.setdefault(step % 3, objective.backward(model, torch.Generator().manual_seed(step % 3)))
        assert objective.backward(model, torch.Generator().manual_seed(step % 3)) == first[step % 3]
    assert len(calls) == 2


def test_every_step_draws_its_own_network():
    data = tiny_data()
    model = tiny_model(data)
    objective, _ = prepared(data, model, dsa="none", real_batch_size=100)
    losses = [objective.backward(model, torch.Generator().manual_seed(step))["l_dd"] for step in range(3)]
    assert len(set(losses)) == 3
    assert losses[0] == objective.backward(model, torch.Generator().manual_seed(0))["l_dd"]


def test_gradients_are_added_and_networks_get_none():
    data = tiny_data()
    model = tiny_model(data)
    objective, _ = prepared(data, model, network_bank=1)
    objective.backward(model, torch.Generator().manual_seed(0))
    once = gradients(model)
    objective.backward(model, torch.Generator().manual_seed(0))
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, 2 * once[name])
    assert all(parameter.grad is None for parameter in objective.bank[0][0].parameters())


def test_descending_the_gradient_lowers_the_loss():
    data = tiny_data()
    model = tiny_model(data)
    objective, _ = prepared(data, model, dsa="none", real_batch_size=100, network_bank=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(objective.backward(model, torch.Generator().manual_seed(0))["l_dd"])
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]
