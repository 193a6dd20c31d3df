"""DC, DSA and IDC against naive loops over classes, images and rows, and against finite differences."""

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from haba_hf.artifact.pairing import paired_batches
from haba_hf.data.augmentation import DsaAugmentation
from haba_hf.data.cutmix import CutMix
from haba_hf.distillation import Distiller, GradientMatching, IdcMatching
from haba_hf.distillation.objectives.gradient_matching import (
    MATCHING,
    TRAINING,
    WEIGHTS,
    loop_counts,
    row_cosine_distance,
)
from haba_hf.distillation.objectives.idc import convolution_distance
from haba_hf.networks import build_network
from haba_hf.utils.seeds import seeded_generator
from tiny import (
    NETWORK,
    all_fields,
    assert_directional_derivative,
    assert_gradients_equal,
    gradients,
    launch_processes,
    tiny_accelerator,
    tiny_data,
    tiny_distiller,
    tiny_model,
    tiny_recipe,
)

IDC = {"objective": "idc", "dsa": "color+crop+cutout", "idc_real_samples": 10}


def make_objective(recipe):
    if recipe.distillation.objective == "idc":
        return IdcMatching(NETWORK, recipe.distillation, recipe.gradient_matching, recipe.idc)
    return GradientMatching(NETWORK, recipe.distillation, recipe.gradient_matching)


def prepared(data, model, **settings):
    recipe = tiny_recipe(**settings)
    objective = make_objective(recipe)
    objective.prepare(data, model, tiny_accelerator())
    return objective, all_fields(recipe)


# ------------------------------------------------------------------------------------------------------- the distance


def layers(seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(5, 3, 2, 3), (5,), (4, 5), (4,)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def naive_distance(real, samples, kind):
    total = 0.0
    for g, h in zip(real, samples, strict=True):
        if kind == "rows":
            if g.dim() == 1:
                continue
            for row in range(len(g)):
                a, b = g[row].reshape(-1), h[row].reshape(-1)
                product = sum(a[i] * b[i] for i in range(len(a)))
                lengths = sum(x * x for x in a) ** 0.5 * sum(x * x for x in b) ** 0.5
                total = total + 1 - product / (lengths + 0.000001)
        elif g.dim() == 4:
            for x, y in zip(g.reshape(-1), h.reshape(-1), strict=True):
                total = total + ((x - y) * (x - y) if kind == "mse" else abs(x - y))
    return total


def test_distances_equal_loops():
    real, samples = layers(0), layers(1)
    rows = row_cosine_distance(real, samples)
    torch.testing.assert_close(rows, naive_distance(real, samples, "rows"))
    assert 0 < rows < 2 * 9
    for kind in ("mse", "l1"):
        torch.testing.assert_close(convolution_distance(real, samples, kind), naive_distance(real, samples, kind))
    assert row_cosine_distance(real, real) == pytest.approx(0, abs=1e-5)
    assert convolution_distance(real, real, "l1") == 0


def test_a_row_without_gradient_counts_one_and_passes_no_nan():
    real, samples = torch.ones(2, 3), torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], requires_grad=True)
    distance = row_cosine_distance([real], [samples])
    assert distance.item() == pytest.approx(1, abs=1e-5)
    (gradient,) = torch.autograd.grad(distance, samples)
    assert gradient.isfinite().all()


# ------------------------------------------------------------------------------------------------------- the gradient


def naive_loss(data, model, network, arguments, stream):
    """L_DD with one network call for each image; `stream(c)` gives the generator of class c."""
    parameters = list(network.parameters())
    strategy = "none" if arguments.objective == "dc" else arguments.dsa
    augmentation = DsaAugmentation(strategy, per_sample=False)
    everything = model()
    total = 0.0
    for label in range(data.num_labels):
        generator = stream(label)
        drawn = augmentation.draw(1, generator)
        members = [row for row, other in enumerate(data.train.labels.tolist()) if other == label]
        order = torch.randperm(len(members), generator=generator)[: arguments.real_batch_size].tolist()
        losses = []
        for row in [members[position] for position in order]:
            image = data.processor.normalize(data.train.images[row : row + 1])
            logits = network(DsaAugmentation.apply(image, drawn))
            losses.append(-logits.log_softmax(dim=1)[0, label])
        real = [gradient.detach() for gradient in torch.autograd.grad(sum(losses) / len(losses), parameters)]

        ids = [i for i, basis in enumerate(everything.basis_ids.tolist()) if model.class_ids[basis] == label]
        count = arguments.samples_per_class
        draws = [ids]
        if count is not None:
            order = [torch.randperm(len(ids), generator=generator).tolist() for _ in range(2)]
            draws = [[ids[i] for i in order[0][: count - count // 2]], [ids[i] for i in order[1][: count // 2]]]
        gradients = []
        for draw in draws:
            losses = []
            for i in draw:
                logs = network(DsaAugmentation.apply(everything.samples[i : i + 1], drawn)).log_softmax(dim=1)[0]
                target = everything.labels[i]
                losses.append(-(logs * target).sum() if target.dim() else -logs[target])
            gradients.append(torch.autograd.grad(sum(losses) / len(losses), parameters, create_graph=True))
        kind = arguments.idc_distance if arguments.objective == "idc" else "rows"
        both = [sum(of) / len(of) for of in zip(*gradients, strict=True)]
        value = naive_distance(real, both, kind)
        if len(draws) == 2:  # the gradient: the derivative at one draw, times the other
            moved = 0.0
            for at, of in (gradients, gradients[::-1]):
                leaves = [tensor.detach().requires_grad_() for tensor in at]
                slopes = torch.autograd.grad(naive_distance(real, leaves, kind), leaves, allow_unused=True)
                moved = moved + sum((s * g).sum() for s, g in zip(slopes, of, strict=True) if s is not None) / 2
            value = value.detach() + moved - moved.detach()
        total = total + value
    return total


CASES = {
    "dc": ({"objective": "dc"}, {}, 3),
    "dc, plain pixels": ({"objective": "dc", "real_batch_size": 100}, {"num_hallucinators": 0}, 1),
    "dsa, soft labels": ({"objective": "dsa", "lambda_dd": 0.25}, {"label_kind": "soft", "bases_per_class": 1}, 3),
    "dsa, some samples": ({"objective": "dsa", "dsa": "rotate", "samples_per_class": 4}, {}, 1),
    "dsa, formations": ({"objective": "dsa"}, {"formation_factor": 2, "num_hallucinators": 2}, 3),
    "idc, squares": (IDC, {"bases_per_class": 1}, 3),
    "idc, absolute, formations": (
        IDC | {"idc_distance": "l1", "samples_per_class": 5},
        {"formation_factor": 2, "num_hallucinators": 0},
        1,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gradient_equals_a_naive_loop(doubles, name):
    settings, sizes, channels = CASES[name]
    data = tiny_data(channels, num_labels=3)
    model = tiny_model(data, **sizes)
    objective, arguments = prepared(data, model, seed=5, **settings)
    logs = objective.backward(model, torch.Generator())

    seed = seeded_generator(5, 0, 0, WEIGHTS).initial_seed()
    network = build_network(NETWORK, data.image_shape, data.num_labels, seed)
    loss = naive_loss(data, model, network, arguments, lambda label: seeded_generator(5, 0, 0, MATCHING + label))
    assert logs == {"l_dd": pytest.approx(loss.item(), rel=1e-9)}
    assert_gradients_equal(model, arguments.lambda_dd * loss, rtol=1e-6)
    assert gradients(model)["bases"].flatten(1).abs().sum(dim=1).min() > 0 or "some" in name
    assert not gradients(model)["student_learning_rate"].any()
    if sizes.get("label_kind") == "soft":
        assert gradients(model)["label_logits"].abs().max() > 0


@pytest.mark.parametrize("settings", [{"objective": "dc"}, {"objective": "dsa"}, IDC, IDC | {"idc_distance": "l1"}])
def test_gradient_by_finite_differences(doubles, settings):
    data = tiny_data()
    model = tiny_model(data, label_kind="soft", formation_factor=2 if settings["objective"] == "idc" else 1)
    objective, _ = prepared(data, model, outer_steps=3, **settings)
    objective.backward(model, torch.Generator())
    before = objective.state()
    model.zero_grad()
    network_trained_on_samples = objective.inner_epochs
    objective.inner_epochs = 0  # the samples' part in the inner training is no part of the gradient
    objective.backward(model, torch.Generator())
    actual = gradients(model)

    def loss():
        objective.load_state(before)
        return objective.backward(model, torch.Generator())["l_dd"]

    # Second derivatives jump where a ReLU turns: the step is small, and the difference less exact for it.
    for names in (["bases"], [name for name in actual if name.startswith("hallucinators.1")], ["label_logits"]):
        assert_directional_derivative(model, actual, loss, names, eps=1e-8, rel=1e-4)
    assert network_trained_on_samples


def test_gradients_are_added(doubles):
    data = tiny_data()
    model = tiny_model(data)
    objective, _ = prepared(data, model, objective="dsa")
    state = objective.state()
    objective.backward(model, torch.Generator())
    once = gradients(model)
    objective.load_state(state)
    objective.backward(model, torch.Generator().manual_seed(1))  # which is not drawn from
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, 2 * once[name])


@pytest.mark.parametrize("objective", ["dc", "idc"])
def test_descending_the_gradient_lowers_the_distance(objective):
    data = tiny_data(num_labels=2)
    model = tiny_model(data)
    objective, _ = prepared(data, model, objective=objective, dsa="none", real_batch_size=100)
    optimizer, state, losses = torch.optim.Adam(model.parameters(), lr=0.03), objective.state(), []
    for _ in range(25):
        optimizer.zero_grad()
        objective.load_state(state)  # the same network again
        losses.append(objective.backward(model, torch.Generator())["l_dd"])
        optimizer.step()
    assert losses[-1] < 0.4 * losses[0]


def test_siamese_augmentation_makes_equal_sets_match():
    """Bases that are all the real images have no distance, under the same augmentation of both sides."""
    data = tiny_data()
    model = tiny_model(data, num_hallucinators=0, bases_per_class=6)
    order = data.train.labels.argsort(stable=True)
    model.bases.data.copy_(data.processor.normalize(data.train.images[order]))
    for settings in ({"objective": "dc"}, {"objective": "dsa"}, IDC):
        objective, _ = prepared(data, model, real_batch_size=100, outer_steps=4, inner_epochs=1, **settings)
        for _ in range(4):
            assert objective.backward(model, torch.Generator())["l_dd"] < 1e-3


def test_each_class_and_step_has_its_own_augmentation(monkeypatch):
    data = tiny_data()
    model = tiny_model(data)
    objective, _ = prepared(data, model, objective="dsa", outer_steps=3, inner_epochs=0)
    drawn = []
    apply = DsaAugmentation.apply
    monkeypatch.setattr(
        DsaAugmentation, "apply", lambda x, parameters: drawn.append(parameters) or apply(x, parameters)
    )
    for _ in range(6):
        objective.backward(model, torch.Generator())
    keys = [
        (stage.operation, stage.uniforms.flatten().tolist())
        for (stage,) in (parameters.stages for parameters in drawn)
    ]
    assert keys[::2] == keys[1::2], "the same for real images and samples"
    assert all(parameters.stages[0].uniforms.shape == (1, 3) for parameters in drawn)
    assert len({str(key) for key in keys}) == 6 * 4


# -------------------------------------------------------------------------------------------------- the inner network


@pytest.mark.parametrize(
    ("samples_per_class", "expected"),
    [
        (1, (1, 1)),
        (2, (1, 1)),
        (9, (10, 50)),
        (10, (10, 50)),
        (11, (10, 50)),
        (15, (10, 50)),
        (16, (20, 25)),
        (20, (20, 25)),
        (30, (30, 20)),
        (40, (40, 15)),
        (49, (50, 10)),
        (50, (50, 10)),
        (51, (50, 10)),
        (1000, (50, 10)),
    ],
)
def test_published_loop_counts_for_any_number_of_samples(samples_per_class, expected):
    assert loop_counts(samples_per_class) == expected


def test_loops_follow_the_samples_of_an_epoch_and_can_be_set():
    data = tiny_data()

    def loops(model, **settings):
        objective, _ = prepared(data, model, **settings)
        return objective.outer_steps, objective.inner_epochs

    assert loops(tiny_model(data), objective="dc") == (1, 1)
    assert loops(tiny_model(data, bases_per_class=9), objective="dsa") == (10, 50)
    assert loops(tiny_model(data, bases_per_class=5, formation_factor=2), objective="dc") == (20, 25)
    assert loops(tiny_model(data), objective="dc", outer_steps=7) == (7, 1)
    assert loops(tiny_model(data), objective="dc", inner_epochs=0) == (1, 0)
    assert loops(tiny_model(data), **IDC)[0] == 100
    assert loops(tiny_model(data), outer_steps=3, **IDC)[0] == 3


def parameters_of(network):
    return [parameter.detach().clone() for parameter in network.parameters()]


@pytest.mark.parametrize("objective", ["dc", "dsa"])
@pytest.mark.parametrize("label_kind", ["hard", "soft"])
def test_the_inner_network_trains_on_the_samples_as_they_are_after_the_step(objective, label_kind):
    data = tiny_data()
    model = tiny_model(data, label_kind=label_kind)
    objective, arguments = prepared(data, model, objective=objective, outer_steps=2, inner_epochs=3, seed=2)
    first = parameters_of(objective.network)
    objective.backward(model, torch.Generator())
    for before, after in zip(first, objective.network.parameters(), strict=True):
        assert torch.equal(before, after), "it is trained when the samples have been updated"
    with torch.no_grad():
        model.bases.add_(0.5)  # the update

    expected = build_network(NETWORK, data.image_shape, 4, seeded_generator(2, 0, 0, WEIGHTS).initial_seed())
    generator = seeded_generator(2, 0, 1, TRAINING)
    augmentation = DsaAugmentation("none" if arguments.objective == "dc" else arguments.dsa, per_sample=True)
    for _ in range(3):
        for samples, labels in paired_batches(model, 256, generator):
            logs = expected(augmentation(samples, generator)).log_softmax(dim=1)
            targets = labels if label_kind == "soft" else F.one_hot(labels, 4)
            slopes = torch.autograd.grad(-(targets * logs).sum(dim=1).mean(), list(expected.parameters()))
            with torch.no_grad():
                for parameter, slope in zip(expected.parameters(), slopes, strict=True):
                    parameter.sub_(0.01 * slope)
    objective.backward(model, torch.Generator())
    for parameter, other in zip(objective.network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(parameter, other)
    assert any(not torch.equal(a, b) for a, b in zip(first, parameters_of(objective.network), strict=True))
    assert (objective.index, objective.served) == (0, 2)

    objective.backward(model, torch.Generator())  # a new network, which has not been trained
    assert (objective.index, objective.served) == (1, 1)
    fresh = build_network(NETWORK, data.image_shape, 4, seeded_generator(2, 1, 0, WEIGHTS).initial_seed())
    for parameter, other in zip(objective.network.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(parameter, other)


def test_idc_trains_its_network_on_real_images(monkeypatch):
    data = tiny_data()
    model = tiny_model(data)
    settings = IDC | {"idc_real_samples": 20, "inner_learning_rate": 0.05, "seed": 3}
    monkeypatch.setattr("haba_hf.distillation.objectives.idc.BATCH_SIZE", 8)
    objective, _ = prepared(data, model, **settings)
    expected = build_network(NETWORK, data.image_shape, 4, seeded_generator(3, 0, 0, WEIGHTS).initial_seed())
    velocity = [torch.zeros_like(parameter) for parameter in expected.parameters()]
    augmentation, cutmix, mixed = DsaAugmentation("color+crop"), CutMix(0.5), 0
    objective.backward(model, torch.Generator())
    for step in (1, 2, 3):
        generator = seeded_generator(3, 0, step, TRAINING)
        order = torch.randperm(24, generator=generator)[:20]
        for rows in (order[:8], order[8:16], order[16:]):
            images = augmentation(data.processor.normalize(data.train.images[rows]), generator)
            mixture = cutmix.draw(images.shape, generator)
            targets = F.one_hot(data.train.labels[rows], 4).float()
            if mixture is not None:
                mixed += 1
                (top, bottom), (left, right) = mixture.rows, mixture.columns
                other = images[mixture.partners]
                images = images.clone()
                images[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
                share = (bottom - top) * (right - left) / 64
                targets = (1 - share) * targets + share * targets[mixture.partners]
            loss = -(targets * expected(images).log_softmax(dim=1)).sum(dim=1).mean()
            slopes = torch.autograd.grad(loss, list(expected.parameters()))
            with torch.no_grad():
                for parameter, v, slope in zip(expected.parameters(), velocity, slopes, strict=True):
                    v.mul_(0.9).add_(slope + 5e-4 * parameter)  # its momentum lasts from step to step
                    parameter.sub_(0.05 * v)
        objective.backward(model, torch.Generator())
        for parameter, other in zip(objective.network.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(parameter, other, rtol=1e-4, atol=1e-5)
    assert 0 < mixed < 9


def test_clamped_bases_are_pixels_when_a_network_starts():
    data = tiny_data()
    model = tiny_model(data)
    objective, _ = prepared(data, model, outer_steps=2, clamp_bases=True, **IDC)
    low, high = ((value - torch.tensor([0.45, 0.5, 0.55])) / torch.tensor([0.2, 0.25, 0.3]) for value in (0, 1))
    low, high = low.view(3, 1, 1), high.view(3, 1, 1)
    for step in range(4):
        with torch.no_grad():
            model.bases.normal_(std=9, generator=torch.Generator().manual_seed(step))
        before = model.bases.detach().clone()
        objective.backward(model, torch.Generator())
        expected = torch.minimum(torch.maximum(before, low), high) if step in (0, 2) else before
        torch.testing.assert_close(model.bases.detach(), expected)
    with pytest.raises(ValueError, match="clamp_bases needs bases of as many channels as images, 3, not 1"):
        prepared(data, tiny_model(data, basis_channels=1), clamp_bases=True, **IDC)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"outer_steps": 0}, "outer_steps must be at least 1, got 0"),
        ({"samples_per_class": 0}, "samples_per_class must be at least 1"),
        ({"real_batch_size": 0}, "real_batch_size must be at least 1"),
        ({"inner_epochs": -1}, "inner_epochs must be 0 or more, got -1"),
        ({"inner_learning_rate": 0.0}, r"inner_learning_rate must be positive, got 0\.0"),
        ({"idc_real_samples": 0}, "idc_real_samples must be at least 1"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_recipe(**settings)


@pytest.mark.parametrize(
    ("settings", "message"), [({"idc_cutmix": 1.5}, "between 0 and 1"), ({"idc_dsa": "x"}, "'x'")]
)
def test_unfit_augmentation_is_refused_before_anything_is_computed(settings, message):
    with pytest.raises(ValueError, match=message):
        make_objective(tiny_recipe(**IDC | settings))


# ---------------------------------------------------------------------------------------------------------- as a run


def make(recipe, model_seed=0, kind=Distiller, **sizes):
    data = tiny_data(num_labels=2)
    return tiny_distiller(tiny_model(data, seed=model_seed, **sizes), make_objective(recipe), recipe, data, kind)


class Interrupted(Distiller):
    def log(self, logs):
        super().log(logs)
        if self.step_number == 5:
            raise KeyboardInterrupt


RUNS = {
    "dc": ({"objective": "dc", "outer_steps": 4, "inner_epochs": 2}, {}),
    "dc, plain pixels, sgd": ({"objective": "dc", "optimizer": "sgd"}, {"num_hallucinators": 0}),
    "dsa, soft": ({"objective": "dsa", "outer_steps": 9, "inner_epochs": 1}, {"label_kind": "soft"}),
    "idc, formations": (IDC | {"outer_steps": 9, "clamp_bases": True}, {"formation_factor": 2}),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_interrupted_in_an_inner_loop_equals_an_uninterrupted_one_bit_for_bit(tmp_path, name):
    settings, sizes = RUNS[name]
    whole = make(tiny_recipe(output_dir=str(tmp_path / "whole"), **settings), **sizes)
    initial = whole.model.bases.detach().clone()
    whole.run()
    assert not torch.equal(initial, whole.model.bases)

    recipe = tiny_recipe(output_dir=str(tmp_path / "parts"), **settings)
    with pytest.raises(KeyboardInterrupt):
        make(recipe, kind=Interrupted, **sizes).run()
    carried = load_file(tmp_path / "parts" / "checkpoints" / "step-00000004" / "objective.safetensors")
    assert carried["index"] * whole.objective.outer_steps + carried["served"] == 4
    assert any(key.startswith("momentum.") for key in carried) == ("idc" in name)
    torch.manual_seed(123)
    resumed = make(recipe, model_seed=9, **sizes)
    resumed.run()
    for key, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value), key
    state = whole.objective.state()
    assert state.keys() == resumed.objective.state().keys()
    for key, value in resumed.objective.state().items():
        assert torch.equal(state[key], value), key


TWO_PROCESSES = r"""
    import sys

    from safetensors.torch import save_file
    from test_gradient_matching import make_objective
    from tiny import tiny_accelerator, tiny_data, tiny_distiller, tiny_model, tiny_recipe

    (output_dir,) = sys.argv[1:]
    accelerator = tiny_accelerator()
    rank = accelerator.process_index
    assert accelerator.num_processes == 2
    data = tiny_data(num_labels=3)
    settings = {"outer_steps": 3, "inner_epochs": 2, "idc_real_samples": 10, "lambda_cos": 0.0, "lambda_con": 0.0}
    for name in ("dc", "dsa", "idc"):
        recipe = tiny_recipe(output_dir=f"{output_dir}/{name}", objective=name, optimizer="sgd", **settings)
        model = tiny_model(data, seed=rank)
        tiny_distiller(model, make_objective(recipe), recipe, data).run()
        save_file(model.state_dict(), f"{output_dir}/{name}-{rank}.safetensors")
        sys.stdout.write(f"RESULT {name} {rank}\n")
"""


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path, monkeypatch):
    """Three classes on two processes: the first has two of them."""
    monkeypatch.setenv("PYTHONPATH", __file__.rsplit("/", 1)[0])
    assert len(launch_processes(tmp_path, TWO_PROCESSES, str(tmp_path))) == 6
    settings = {"outer_steps": 3, "inner_epochs": 2, "idc_real_samples": 10, "lambda_cos": 0.0, "lambda_con": 0.0}
    data = tiny_data(num_labels=3)
    for name in ("dc", "dsa", "idc"):
        first, second = (load_file(tmp_path / f"{name}-{rank}.safetensors") for rank in (0, 1))
        recipe = tiny_recipe(output_dir=str(tmp_path / f"{name} alone"), objective=name, optimizer="sgd", **settings)
        model = tiny_model(data)
        start = model.bases.detach().clone()
        tiny_distiller(model, make_objective(recipe), recipe, data).run()
        assert (model.bases - start).abs().max() > 1e-3
        for key, value in model.state_dict().items():
            assert torch.equal(first[key], second[key]), key
            torch.testing.assert_close(first[key], value, rtol=1e-4, atol=1e-5)
