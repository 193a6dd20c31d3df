"""Feature alignment against a loop over the formula, image by image and layer by layer, and against finite
differences, in float64; its two loops against a plain loop and scripted accuracies."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from haba_hf.artifact.pairing import paired_batches
from haba_hf.data.augmentation import DsaAugmentation
from haba_hf.distillation import FeatureAlignment
from haba_hf.distillation.objectives.feature_alignment import layer_weights
from haba_hf.networks import NetworkArguments, build_network
from haba_hf.utils.seeds import derived_seed, seeded_generator
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


def prepared(data, model, network=NETWORK, **settings):
    loops = {"steps_per_network": None, "epochs_per_step": None}  # those of the paper, that accuracies end
    loops |= {"query_batch_size": 3, "accuracy_window": 3, "max_inner_epochs": 4}
    recipe = tiny_recipe(**loops | settings)
    objective = FeatureAlignment(network, recipe.distillation, recipe.feature_alignment)
    objective.prepare(data, model, tiny_accelerator())
    return objective, all_fields(recipe)


def first_network(data, arguments, network=NETWORK, number=0):
    seed = derived_seed(arguments.seed, number, 0, 1)
    return build_network(network, data.image_shape, data.num_labels, seed)


def layers_of(network, image):
    """What each ReLU gives for one image, and what the classifier is given, flattened."""
    seen = []
    watched = [module for module in network.blocks if isinstance(module, nn.ReLU)] + [network.blocks[-1]]
    hooks = [module.register_forward_hook(lambda *arguments: seen.append(arguments[-1][0])) for module in watched]
    network.blocks(image)
    for hook in hooks:
        hook.remove()
    return [layer.flatten() for layer in seen]


def naive_loss(data, model, network, arguments, generator):
    """L_DD with one network call for each image and each sample; draws in the order of the objective."""
    augmentation = DsaAugmentation(arguments.dsa, per_sample=False)
    drawn = [augmentation.draw(1, generator) for _ in range(data.num_labels)]
    real = []
    for label in range(data.num_labels):
        members = [row for row, other in enumerate(data.train.labels.tolist()) if other == label]
        order = torch.randperm(len(members), generator=generator)[: arguments.real_batch_size].tolist()
        images = [data.processor.normalize(data.train.images[members[i] : members[i] + 1]) for i in order]
        with torch.no_grad():
            real.append([layers_of(network, DsaAugmentation.apply(image, drawn[label])) for image in images])
    samples = []  # layers and label weights of each
    for basis in range(model.config.num_bases):
        for j in range(max(model.config.num_hallucinators, 1)):
            image = model.bases[basis : basis + 1]
            if model.config.num_hallucinators:
                image = model.hallucinators[j](image, model.encoder, model.decoder)
            label = int(model.class_ids[basis])
            weights = torch.eye(data.num_labels)[label]
            if model.label_logits is not None:
                weights = model.label_logits[basis].exp() / model.label_logits[basis].exp().sum()
            samples.append((layers_of(network, DsaAugmentation.apply(image, drawn[label])), weights))

    depth = len(samples[0][0]) - 1
    scales = [0.1] * (depth - 1) + [1.0, 2.0]
    total, last_means = 0.0, []
    for label in range(data.num_labels):
        for layer, scale in enumerate(scales):
            mean = sum(weights[label] * layers[layer] for layers, weights in samples)
            mean = mean / sum(weights[label] for _, weights in samples)
            real_mean = sum(layers[layer] for layers in real[label]) / len(real[label])
            total = total + scale * ((real_mean - mean) ** 2).sum()
        last_means.append(mean)
    for label in range(data.num_labels):
        for layers in real[label]:
            logits = torch.stack([(layers[-1] * mean).sum() for mean in last_means])
            total = total - arguments.discrimination_weight * (logits[label] - logits.exp().sum().log())
    return total


DEEP = NetworkArguments(network_depth=3, network_width=3)
CASES = {
    "default": ({}, {}, 3, NETWORK),
    "no augmentation, grey": ({"dsa": "none"}, {}, 1, NETWORK),
    "soft labels": ({"lambda_dd": 0.25}, {"label_kind": "soft"}, 3, NETWORK),
    "plain pixels, soft": ({"discrimination_weight": 0.5}, {"num_hallucinators": 0, "label_kind": "soft"}, 3, NETWORK),
    "all real images, three blocks": ({"real_batch_size": 100}, {"bases_per_class": 1}, 1, DEEP),
    "one block": ({"dsa": "rotate"}, {"num_hallucinators": 2}, 3, NetworkArguments("convnet", 1, 4)),
}


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("case", CASES)
def test_gradient_equals_a_loop_over_the_formula(case):
    settings, sizes, channels, network_arguments = CASES[case]
    data = tiny_data(channels)
    model = tiny_model(data, **sizes)
    objective, arguments = prepared(data, model, network_arguments, **settings)
    logs = objective.backward(model, torch.Generator().manual_seed(3))
    network = first_network(data, arguments, network_arguments)
    loss = naive_loss(data, model, network, arguments, torch.Generator().manual_seed(3))
    assert logs["l_dd"] == pytest.approx(loss.item(), rel=1e-10)
    assert logs["inner_epochs"] == 0
    assert_gradients_equal(model, arguments.lambda_dd * loss)
    actual = gradients(model)
    assert not actual["student_learning_rate"].any()
    if "label_logits" in actual:
        assert actual["label_logits"].any()


@pytest.mark.usefixtures("doubles")
def test_gradient_by_finite_differences():
    data = tiny_data()
    model = tiny_model(data, label_kind="soft")
    objective, _ = prepared(data, model)
    objective.backward(model, torch.Generator().manual_seed(1))
    actual = gradients(model)

    def loss():
        objective.prepare(data, model, tiny_accelerator())  # the same first network
        return objective.backward(model, torch.Generator().manual_seed(1))["l_dd"]

    for names in (["bases"], ["label_logits"], [name for name in actual if name.startswith("hallucinators.1")]):
        assert_directional_derivative(model, actual, loss, names, eps=1e-7)


def test_layer_weights():
    assert layer_weights(3) == [0.1, 0.1, 1.0, 2.0], "as published for three blocks"
    assert layer_weights(1) == [1.0, 2.0]
    assert layer_weights(5) == [0.1, 0.1, 0.1, 0.1, 1.0, 2.0]


def test_the_inner_loop_and_the_accuracy_by_hand():
    """The second step: epochs of SGD on the samples as they are then, each followed by the accuracy."""
    data = tiny_data()
    model = tiny_model(data)
    settings = {"inner_learning_rate": 0.5, "student_batch_size": 3, "inner_range": 2.0, "dsa": "crop_flip"}
    objective, arguments = prepared(data, model, **settings)
    objective.backward(model, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.bases.add_(0.1)
    model.zero_grad()
    logs = objective.backward(model, torch.Generator().manual_seed(1))

    network, shared = first_network(data, arguments), seeded_generator(arguments.seed, 1, 0, 2)
    augmentation = DsaAugmentation("crop_flip", per_sample=True)

    def accuracy():
        found = []
        for label in range(data.num_labels):
            members = (data.train.labels == label).nonzero().flatten()
            chosen = members[torch.randperm(len(members), generator=shared)[:3]]
            predicted = network(data.processor.normalize(data.train.images[chosen])).argmax(dim=1)
            found.append(sum(int(guess) == label for guess in predicted) / 3)
        return sum(found) / len(found)

    for _ in range(4):
        for samples, labels in paired_batches(model, 3, shared):
            loss = F.cross_entropy(network(augmentation(samples, shared)), labels)
            for parameter, gradient in zip(
                network.parameters(), torch.autograd.grad(loss, list(network.parameters())), strict=True
            ):
                parameter.data -= 0.5 * gradient
        accuracy()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(objective.network.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    loss = naive_loss(data, model, network, arguments, torch.Generator().manual_seed(1))
    assert logs["l_dd"] == pytest.approx(loss.item(), rel=1e-4)
    assert logs["inner_accuracy"] == pytest.approx(accuracy())
    assert logs["inner_epochs"] == 4
    (expected,) = torch.autograd.grad(loss, model.bases)
    torch.testing.assert_close(gradients(model)["bases"], expected, rtol=1e-3, atol=1e-4)


def test_loops_of_fixed_numbers_ask_for_no_accuracy(monkeypatch):
    data = tiny_data()
    model = tiny_model(data)
    objective, arguments = prepared(data, model, steps_per_network=3, epochs_per_step=2)
    monkeypatch.setattr(objective, "_accuracy", lambda network, generator: pytest.fail("a query pass"))
    for step in range(1, 8):
        logs = objective.backward(model, torch.Generator().manual_seed(step))
        assert logs["inner_epochs"] == (0 if step in (1, 4, 7) else 2)
        assert objective.networks == (step + 2) // 3
        assert (objective.network is None) == (step in (3, 6))
    assert logs.keys() == {"l_dd", "inner_epochs"}
    for name, value in first_network(data, arguments, number=2).state_dict().items():
        assert torch.equal(objective.network.state_dict()[name], value)


def test_the_two_loops_follow_the_accuracies(monkeypatch):
    """Window 3, outer range 0.04, inner range 0.03, at most 5 inner epochs."""
    data = tiny_data()
    model = tiny_model(data)
    objective, arguments = prepared(data, model, max_inner_epochs=5)
    inner = {
        1: [],  # a new network: the first step comes before any training
        2: [0.1, 0.1, 0.1, 0.2],  # the last three spread by 0.1
        3: [0.2, 0.3, 0.3],  # not before there are three
        4: [0.3, 0.31, 0.32, 0.33, 0.34],  # stands still: the bound
        5: [0.2, 0.2, 0.25],
        6: [0.2, 0.2, 0.25],
        7: [],  # a new network
        8: [0.2, 0.2, 0.25],
    }
    outer = {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.25, 5: 0.28, 6: 0.26, 7: 0.11, 8: 0.1}
    script = [accuracy for step in inner for accuracy in (*inner[step], outer[step])]
    monkeypatch.setattr(objective, "_accuracy", lambda network, generator: script.pop(0))
    networks = {1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 7: 2, 8: 2}
    kept = {1: [0.1], 2: [0.1, 0.2], 3: [0.2, 0.3], 4: [0.3, 0.25], 5: [0.25, 0.28], 6: [], 7: [0.11], 8: [0.11, 0.1]}
    for step in inner:
        logs = objective.backward(model, torch.Generator().manual_seed(step))
        assert (logs["inner_epochs"], logs["inner_accuracy"]) == (len(inner[step]), outer[step])
        assert (objective.networks, objective.accuracies) == (networks[step], kept[step])
        assert (objective.network is None) == (step == 6)
        if step in (1, 7):
            for name, value in first_network(data, arguments, number=step // 7).state_dict().items():
                assert torch.equal(objective.network.state_dict()[name], value)
    assert script == []


def test_gradients_are_added_and_the_network_gets_none():
    data = tiny_data()
    model = tiny_model(data)
    objective, _ = prepared(data, model)
    objective.backward(model, torch.Generator().manual_seed(0))
    once = gradients(model)
    assert all(parameter.grad is None for parameter in objective.network.parameters())
    objective.prepare(data, model, tiny_accelerator())
    objective.backward(model, torch.Generator().manual_seed(0))
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, 2 * once[name])


def test_descending_the_gradient_lowers_the_loss():
    data = tiny_data()
    model = tiny_model(data)
    objective, _ = prepared(data, model, dsa="none", real_batch_size=100)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(20):
        objective.prepare(data, model, tiny_accelerator())
        optimizer.zero_grad()
        losses.append(objective.backward(model, torch.Generator().manual_seed(0))["l_dd"])
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
