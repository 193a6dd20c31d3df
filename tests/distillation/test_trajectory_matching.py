"""Trajectory matching against a naive unroll (own student, one graph, one hallucinator call a sample) and against
finite differences of L_DD, in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from haba_hf.data.augmentation import DsaAugmentation
from haba_hf.distillation import TrajectoryMatching
from haba_hf.distillation.experts import flat_parameters
from haba_hf.distillation.objectives.trajectory_matching import TrajectoryMatchingArguments, draw_pairs
from haba_hf.networks import build_network
from tiny import (
    NETWORK,
    all_fields,
    assert_directional_derivative,
    assert_gradients_equal,
    formations_of,
    gradients,
    tiny_accelerator,
    tiny_data,
    tiny_model,
    tiny_recipe,
)

UNROLLS = {"graph": {"unroll": "graph"}, "adjoint": {}, "micro-batches": {"micro_batch_size": 2}}


class FewExperts:
    """Stands in for the store: any expert at any moment, with parameters of the default precision."""

    num_snapshots = 9

    def __init__(self, data):
        self.data = data
        self.drawn = []

    def snapshot(self, expert, moment):
        network = build_network(NETWORK, self.data.image_shape, self.data.num_labels, seed=100 * expert)
        later = build_network(NETWORK, self.data.image_shape, self.data.num_labels, seed=100 * expert + moment)
        return 0.8 * flat_parameters(network) + 0.2 * flat_parameters(later)

    def draw(self, max_start, span, generator):
        expert = int(torch.randint(2, (), generator=generator))
        start = int(torch.randint(max_start, (), generator=generator))
        self.drawn.append((expert, start, start + span))
        return self.snapshot(expert, start), self.snapshot(expert, start + span)


class Student(nn.Module):
    """The ConvNet written down again; an SGD step replaces its parameters by tensors of the graph."""

    def __init__(self, flat, data):
        super().__init__()
        channels, height, _ = data.image_shape
        width, depth = NETWORK.network_width, NETWORK.network_depth
        self.paddings = [3 if channels == 1 else 1, *[1] * (depth - 1)]
        side = (height + (4 if channels == 1 else 0)) // 2**depth
        shapes = []
        for block in range(depth):
            shapes += [(width, channels if block == 0 else width, 3, 3), (width,), (width,), (width,)]
        shapes += [(data.num_labels, width * side * side), (data.num_labels,)]
        self.tensors = []
        for shape in shapes:
            size = torch.Size(shape).numel()
            self.tensors.append(flat[:size].reshape(shape))
            flat = flat[size:]
        assert len(flat) == 0

    def forward(self, x):
        for block, padding in enumerate(self.paddings):
            weight, bias, scale, shift = self.tensors[4 * block : 4 * block + 4]
            x = F.conv2d(x, weight, bias, padding=padding)
            mean = x.mean(dim=(2, 3), keepdim=True)
            variance = ((x - mean) ** 2).mean(dim=(2, 3), keepdim=True)
            x = (x - mean) / (variance + 1e-5).sqrt() * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
            x = F.avg_pool2d(x.clamp(min=0), 2)
        return x.flatten(1) @ self.tensors[-2].T + self.tensors[-1]

    def sgd_step(self, loss, learning_rate):
        gradients_of_loss = torch.autograd.grad(loss, self.tensors, create_graph=True)
        self.tensors = [
            tensor - learning_rate * gradient for tensor, gradient in zip(self.tensors, gradients_of_loss, strict=True)
        ]


def naive_loss(model, data, experts, arguments, generator):
    """L_DD as its definition reads, drawing in the order of the objective."""
    start, target = experts.draw(arguments.max_start, arguments.expert_span, generator)
    steps, batch_size = arguments.student_steps, arguments.student_batch_size
    pairs_SB = draw_pairs(model, steps, batch_size, arguments.pairing, generator)
    augmentation = DsaAugmentation(arguments.dsa)
    augmentations = [augmentation.draw(pairs_SB.shape[1], generator) for _ in pairs_SB]
    student = Student(start.clone().requires_grad_(), data)
    hallucinators = model.config.num_hallucinators
    for pairs, parameters in zip(pairs_SB.tolist(), augmentations, strict=True):
        samples, labels = [], []
        for place in pairs:
            pair, formation = divmod(place, model.config.num_formations)
            basis = pair // max(hallucinators, 1)
            image = model.bases[basis : basis + 1]
            if hallucinators:
                image = model.hallucinators[pair % hallucinators](image, model.encoder, model.decoder)
            samples.append(formations_of(image, model.config)[formation])
            target_label = model.labels[basis]
            labels.append(target_label if target_label.ndim else torch.eye(data.num_labels)[target_label])
        logits = student(DsaAugmentation.apply(torch.cat(samples), parameters))
        loss = -(torch.stack(labels) * logits.log_softmax(dim=1)).sum(dim=1).mean()
        student.sgd_step(loss, model.student_learning_rate)
    reached = torch.cat([tensor.reshape(-1) for tensor in student.tensors])
    return ((reached - target) ** 2).sum() / ((start - target) ** 2).sum()


def prepared(data, model, **settings):
    recipe = tiny_recipe(**settings)
    experts = FewExperts(data)
    objective = TrajectoryMatching(experts, NETWORK, recipe.distillation, recipe.trajectory_matching)
    objective.prepare(data, model, tiny_accelerator())
    return objective, experts, all_fields(recipe)


CASES = {
    "default": ({}, {}, 3),
    "sample pairing": ({"pairing": "sample", "student_steps": 4}, {}, 3),
    "soft labels": ({"pairing": "sample", "lambda_dd": 0.5}, {"label_kind": "soft"}, 3),
    "grey": ({"dsa": "crop_cutout_flip_scale_rotate"}, {}, 1),
    "small batches": ({"student_batch_size": 3, "student_steps": 5, "pairing": "sample"}, {}, 3),
    "formations": ({"pairing": "sample"}, {"formation_factor": 2, "bases_per_class": 1}, 3),
    "formations in time, plain pixels": (
        {"student_batch_size": 5},
        {"formation_factor": 2, "formation_axes": "time", "num_hallucinators": 0},
        1,
    ),
    "plain pixels": ({"student_batch_size": 5}, {"num_hallucinators": 0, "label_kind": "soft"}, 3),
    "shared encoder": (
        {"dsa": "color", "pairing": "sample"},
        {"share_encoder_decoder": True, "hallucinator_depth": 2, "hallucinator_channels": 2, "basis_channels": 1},
        3,
    ),
    "depth 0": ({"dsa": "none", "student_steps": 1}, {"hallucinator_depth": 0, "bases_per_class": 1}, 1),
}


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("unroll", UNROLLS)
@pytest.mark.parametrize("case", CASES)
def test_gradient_equals_a_naive_unroll(case, unroll):
    settings, sizes, channels = CASES[case]
    data = tiny_data(channels)
    model = tiny_model(data, student_learning_rate=0.5, **sizes)
    objective, experts, arguments = prepared(data, model, **UNROLLS[unroll], **settings)
    for seed in (3, 4):
        model.zero_grad()
        logs = objective.backward(model, torch.Generator().manual_seed(seed))
        loss = naive_loss(model, data, experts, arguments, torch.Generator().manual_seed(seed))
        assert logs == {"l_dd": pytest.approx(loss.item(), rel=1e-10), "student_learning_rate": 0.5}
        assert_gradients_equal(model, arguments.lambda_dd * loss)
        actual = gradients(model)
        assert actual["student_learning_rate"] != 0
        if "label_logits" in actual:
            assert actual["label_logits"].any()
    assert experts.drawn[0] == experts.drawn[1]


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("unroll", UNROLLS)
@pytest.mark.parametrize("operation", ["none", "color", "crop", "cutout", "flip", "scale", "rotate"])
def test_gradient_by_finite_differences(operation, unroll):
    """L_DD, of which all ways give the same value, is computed by the fastest of them here."""
    data = tiny_data()
    model = tiny_model(data, label_kind="soft", student_learning_rate=0.5)
    objective, fastest = (
        prepared(data, model, **UNROLLS[way], dsa=operation, pairing="sample")[0] for way in (unroll, "graph")
    )
    logs = objective.backward(model, torch.Generator().manual_seed(2))
    actual = gradients(model)

    def loss():
        return fastest.backward(model, torch.Generator().manual_seed(2))["l_dd"]

    assert logs["l_dd"] == pytest.approx(loss(), rel=1e-10)

    hallucinator = [name for name in actual if name.startswith("hallucinators.")]
    for names in (["bases"], hallucinator, ["label_logits"], ["student_learning_rate"]):
        assert_directional_derivative(model, actual, loss, names)


@pytest.mark.usefixtures("doubles")
def test_all_unrolls_agree_over_many_steps():
    data = tiny_data()
    found = []
    for unroll in UNROLLS:
        model = tiny_model(data, label_kind="soft", student_learning_rate=0.2)
        objective, _, _ = prepared(data, model, **UNROLLS[unroll], student_steps=25, student_batch_size=4)
        logs = objective.backward(model, torch.Generator().manual_seed(2))
        found.append((logs, gradients(model)))
    (graph_logs, graph), *others = found
    for logs, by_adjoint in others:
        assert graph_logs == pytest.approx(logs, rel=1e-10)
        for name in graph:
            torch.testing.assert_close(graph[name], by_adjoint[name], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("unroll", UNROLLS)
def test_float32_is_near_float64(unroll):
    """What runs use; the float64 objective is the measure."""
    results = {}
    for dtype in (torch.float32, torch.float64):
        data = tiny_data()
        model = tiny_model(data, student_learning_rate=0.05).to(dtype)
        objective, experts, _ = prepared(data, model, **UNROLLS[unroll], dsa="flip")
        objective.student.network.to(dtype)
        draw = experts.draw
        experts.draw = lambda *arguments, draw=draw, dtype=dtype: tuple(part.to(dtype) for part in draw(*arguments))
        objective.backward(model, torch.Generator().manual_seed(0))
        results[dtype] = gradients(model)
    for name, gradient in results[torch.float32].items():
        torch.testing.assert_close(gradient.double(), results[torch.float64][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("unroll", UNROLLS)
def test_gradients_are_added_and_the_student_gets_none(unroll):
    data = tiny_data()
    model = tiny_model(data)
    objective, _, _ = prepared(data, model, **UNROLLS[unroll])
    objective.backward(model, torch.Generator().manual_seed(0))
    once = gradients(model)
    objective.backward(model, torch.Generator().manual_seed(0))
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, 2 * once[name])
    assert all(parameter.grad is None for parameter in objective.student.network.parameters())


@pytest.mark.parametrize("unroll", UNROLLS)
def test_a_student_that_does_not_learn_scores_one(unroll):
    data = tiny_data()
    model = tiny_model(data, student_learning_rate=1e-30)
    objective, _, _ = prepared(data, model, **UNROLLS[unroll])
    assert objective.backward(model, torch.Generator().manual_seed(0))["l_dd"] == pytest.approx(1)


def test_each_hallucinator_is_called_at_most_once():
    data = tiny_data()
    model = tiny_model(data)
    objective, _, _ = prepared(data, model, pairing="sample", student_steps=9)
    calls = []
    for index, hallucinator in enumerate(model.hallucinators):
        hallucinator.register_forward_hook(lambda *_, index=index: calls.append(index))
    objective.backward(model, torch.Generator().manual_seed(0))
    assert sorted(calls) == [0, 1, 2]


class TestDrawPairs:
    def drawn(self, steps, batch_size=None, pairing="step", **sizes):
        model = tiny_model(tiny_data(), **sizes)
        return draw_pairs(model, steps, batch_size, pairing, torch.Generator().manual_seed(0))

    def test_bases_are_dealt_evenly(self):
        pairs_SB = self.drawn(8, batch_size=3)
        assert pairs_SB.shape == (8, 3)
        bases = (pairs_SB // 3).flatten()
        for part in bases.split(8):
            assert part.sort().values.tolist() == list(range(8))

    def test_whole_batches(self):
        for batch_size in (None, 8, 99):
            pairs_SB = self.drawn(5, batch_size)
            assert ((pairs_SB // 3).sort(dim=1).values == torch.arange(8)).all()

    def test_one_hallucinator_a_step(self):
        hallucinators = self.drawn(60) % 3
        assert (hallucinators == hallucinators[:, :1]).all()
        assert min(hallucinators[:, 0].bincount()) > 10

    def test_one_hallucinator_a_sample(self):
        hallucinators = self.drawn(60, pairing="sample") % 3
        assert not (hallucinators == hallucinators[:, :1]).all(dim=1).any()
        assert min(hallucinators.flatten().bincount()) > 120

    def test_formations_are_dealt_like_bases(self):
        ids_SB = self.drawn(6, pairing="sample", formation_factor=2)
        assert ((ids_SB // 12 * 4 + ids_SB % 4).sort(dim=1).values == torch.arange(32)).all()
        assert min((ids_SB // 4 % 3).flatten().bincount()) > 40

    def test_plain_pixels(self):
        pairs_SB = self.drawn(2, num_hallucinators=0)
        assert (pairs_SB.sort(dim=1).values == torch.arange(8)).all()


def test_experts_too_short():
    data, recipe = tiny_data(), tiny_recipe(max_start=9, expert_span=2)
    with pytest.raises(
        ValueError, match=r"hold 9 snapshots, but max_start \+ expert_span = 11: record longer experts"
    ):
        TrajectoryMatching(FewExperts(data), NETWORK, recipe.distillation, recipe.trajectory_matching)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"kept_megabytes": -1}, "kept_megabytes must be 0 or more, got -1"),
        ({"student_steps": 0}, "student_steps must be at least 1, got 0"),
    ],
)
def test_settings_that_make_no_sense(settings, problem):
    with pytest.raises(ValueError, match=problem):
        TrajectoryMatchingArguments(**settings)


def test_micro_batches_are_the_adjoints():
    recipe = tiny_recipe(micro_batch_size=2, unroll="graph")
    with pytest.raises(ValueError, match="micro_batch_size needs unroll: adjoint"):
        TrajectoryMatching(FewExperts(tiny_data()), NETWORK, recipe.distillation, recipe.trajectory_matching)
    with pytest.raises(ValueError, match="micro_batch_size must be at least 1, got 0"):
        tiny_recipe(micro_batch_size=0)
