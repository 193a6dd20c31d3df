"""Unrolled training against one autograd graph over all steps, against finite differences, and its adjoint against a
quadratic whose run is known in closed form, in float64."""

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from haba_hf.data.augmentation import DsaAugmentation
from haba_hf.distillation import UnrolledTraining
from haba_hf.distillation.experts import flat_parameters
from haba_hf.distillation.objectives.adjoint import gradients_through, unroll
from haba_hf.distillation.objectives.flat_network import FlatNetwork
from haba_hf.networks import build_network
from tiny import (
    NETWORK,
    assert_directional_derivative,
    assert_gradients_equal,
    formations_of,
    gradients,
    tiny_accelerator,
    tiny_data,
    tiny_model,
    tiny_recipe,
)

pytestmark = pytest.mark.usefixtures("doubles")


def prepared(data, model, **settings):
    arguments = tiny_recipe(**{"real_batch_size": 9} | settings).distillation
    objective = UnrolledTraining(NETWORK, arguments)
    objective.prepare(data, model, tiny_accelerator())
    return objective, arguments


def naive_loss(model, data, arguments, generator):
    """L_DD by one graph over all steps, one hallucinator call a sample, drawing in the order of the objective."""
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    network = build_network(NETWORK, data.image_shape, data.num_labels, seed)
    theta = dict(network.named_parameters())
    per_class = model.config.bases_per_class
    steps, count = model.config.num_step_sizes, model.config.num_hallucinators
    formations, drawn = model.config.num_formations, None
    if count:
        shape = (steps, 1 if arguments.pairing == "step" else data.num_labels * formations)
        drawn = torch.randint(count, shape, generator=generator).expand(steps, data.num_labels * formations)
    augmentation = DsaAugmentation(arguments.dsa)
    augmentations = [augmentation.draw(data.num_labels * formations, generator) for _ in range(steps)]
    for step in range(steps):
        samples, labels = [], []
        for place in range(data.num_labels * formations):
            label, formation = divmod(place, formations)
            basis = label * per_class + step % per_class
            image = model.bases[basis : basis + 1]
            if count:
                image = model.hallucinators[int(drawn[step, place])](image, model.encoder, model.decoder)
            samples.append(formations_of(image, model.config)[formation])
            soft = model.label_logits is not None
            labels.append(model.label_logits[basis].softmax(0) if soft else torch.eye(data.num_labels)[label])
        x = DsaAugmentation.apply(torch.cat(samples), augmentations[step])
        logits = functional_call(network, theta, (x,))
        loss = -(torch.stack(labels) * logits.log_softmax(dim=1)).sum(dim=1).mean()
        slopes = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        step_size = (1 + model.raw_step_sizes[step].exp()).log()
        theta = {name: value - step_size * slope for (name, value), slope in zip(theta.items(), slopes, strict=True)}
    chosen = torch.randperm(len(data.train), generator=generator)[: arguments.real_batch_size]
    logits = functional_call(network, theta, (data.processor.normalize(data.train.images[chosen]),))
    return F.cross_entropy(logits, data.train.labels[chosen])


CASES = {
    "two shares in two passes": ({}, {"num_step_sizes": 4}, 3),
    "soft labels": ({"pairing": "sample", "lambda_dd": 0.5}, {"num_step_sizes": 4, "label_kind": "soft"}, 3),
    "one share in three passes, grey": ({"dsa": "none"}, {"num_step_sizes": 3, "bases_per_class": 1}, 1),
    "plain pixels": ({"real_batch_size": 99}, {"num_step_sizes": 6, "num_hallucinators": 0, "label_kind": "soft"}, 3),
    "formations": ({"pairing": "sample"}, {"num_step_sizes": 2, "formation_factor": 2, "label_kind": "soft"}, 3),
    "formations of plain pixels": (
        {},
        {"num_step_sizes": 2, "formation_factor": 2, "formation_axes": "time", "num_hallucinators": 0},
        3,
    ),
    "a single step": ({"dsa": "crop"}, {"num_step_sizes": 1, "bases_per_class": 1}, 3),
}


@pytest.mark.parametrize("case", CASES)
def test_gradient_equals_one_graph_over_all_steps(case):
    settings, sizes, channels = CASES[case]
    data = tiny_data(channels)
    model = tiny_model(data, student_learning_rate=0.5, **sizes)
    with torch.no_grad():
        model.raw_step_sizes.add_(0.2 * torch.arange(len(model.raw_step_sizes)))
    objective, arguments = prepared(data, model, **settings)
    for seed in (3, 4):
        model.zero_grad()
        logs = objective.backward(model, torch.Generator().manual_seed(seed))
        loss = naive_loss(model, data, arguments, torch.Generator().manual_seed(seed))
        assert logs["l_dd"] == pytest.approx(loss.item(), rel=1e-10)
        assert logs["mean_step_size"] == pytest.approx(model.step_sizes.mean().item())
        assert_gradients_equal(model, arguments.lambda_dd * loss)
        actual = gradients(model)
        assert actual["raw_step_sizes"].all()
        assert not actual["student_learning_rate"].any()
        if "label_logits" in actual:
            assert actual["label_logits"].any()


def test_gradient_by_finite_differences():
    data = tiny_data()
    model = tiny_model(data, label_kind="soft", student_learning_rate=0.5, num_step_sizes=4)
    objective, _ = prepared(data, model, pairing="sample", dsa="scale")
    objective.backward(model, torch.Generator().manual_seed(2))
    actual = gradients(model)

    def loss():
        return objective.backward(model, torch.Generator().manual_seed(2))["l_dd"]

    hallucinators = [name for name in actual if name.startswith("hallucinators.")]
    for names in (["bases"], hallucinators, ["label_logits"], ["raw_step_sizes"]):
        assert_directional_derivative(model, actual, loss, names, eps=1e-8)


def test_the_adjoint_of_a_quadratic_in_closed_form():
    """loss = |theta - x|^2 / 2 y makes theta_S a product: each x weighs eta y times what later steps leave of it."""
    theta, x = torch.randn(5), torch.randn(3, 5)
    y, eta = torch.tensor([[0.3], [0.9], [0.5]]), torch.tensor([0.2, 0.7, 0.4, 0.1])
    positions = torch.tensor([[2], [0], [1], [0]])

    def step_loss(theta, samples, labels, step, rows):
        return labels[0, 0] * (theta - samples[0]).square().sum() / 2

    run = x, y, eta, positions
    thetas = unroll(step_loss, theta, *run)
    expected = [theta]
    for step, (row,) in enumerate(positions.tolist()):
        expected.append(expected[-1] * (1 - eta[step] * y[row]) + eta[step] * y[row] * x[row])
    torch.testing.assert_close(torch.stack(list(thetas)), torch.stack(expected))

    wanted = torch.randn(5)
    found = gradients_through(step_loss, thetas, wanted, *run)
    d_x, d_y, d_eta = torch.zeros_like(x), torch.zeros_like(y), torch.zeros_like(eta)
    for step, (row,) in enumerate(positions.tolist()):
        left = 1.0
        for later in range(step + 1, 4):
            left = left * (1 - eta[later] * y[positions[later, 0], 0])
        pull = left * (wanted @ (x[row] - expected[step]))
        d_x[row] += left * eta[step] * y[row, 0] * wanted
        d_y[row] += eta[step] * pull
        d_eta[step] = y[row, 0] * pull
    torch.testing.assert_close(found.samples, d_x)
    torch.testing.assert_close(found.labels, d_y)
    torch.testing.assert_close(found.step_sizes, d_eta)


def test_a_flat_network_is_the_network():
    network = build_network(NETWORK, (3, 8, 8), 4, seed=5)
    images, labels = torch.randn(6, 3, 8, 8), torch.arange(6) % 4
    flat = FlatNetwork(build_network(NETWORK, (3, 8, 8), 4, seed=0))
    torch.testing.assert_close(flat(flat_parameters(network), images), network(images))
    wrong = sum(int(guess) != int(label) for guess, label in zip(network(images).argmax(1), labels, strict=True))
    assert flat.error(flat_parameters(network), images, labels).item() == pytest.approx(wrong / 6)


def test_gradients_are_added():
    data = tiny_data()
    model = tiny_model(data, num_step_sizes=2)
    objective, _ = prepared(data, model)
    objective.backward(model, torch.Generator().manual_seed(0))
    once = gradients(model)
    objective.backward(model, torch.Generator().manual_seed(0))
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, 2 * once[name])
    assert all(parameter.grad is None for parameter in objective.network.network.parameters())


def test_every_step_draws_its_own_network():
    data = tiny_data()
    model = tiny_model(data, num_step_sizes=2, num_hallucinators=0, student_learning_rate=1e-30)
    objective, _ = prepared(data, model, real_batch_size=100)
    losses = [objective.backward(model, torch.Generator().manual_seed(step))["l_dd"] for step in range(3)]
    assert len(set(losses)) == 3, "the loss of untrained networks on all images"


def test_a_model_without_step_sizes_is_refused():
    data = tiny_data()
    with pytest.raises(ValueError, match="learns step sizes: set num_step_sizes"):
        prepared(data, tiny_model(data))
