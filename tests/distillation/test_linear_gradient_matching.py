"""Linear gradient matching against autograd through an explicit classifier, and against finite differences."""

import pytest
import torch
from torch.nn import functional as F

from haba_hf.data.augmentation import DsaAugmentation
from haba_hf.distillation import Distiller
from haba_hf.networks import NetworkArguments, build_network
from haba_hf.runs import build_objective
from tiny import (
    all_fields,
    assert_directional_derivative,
    assert_gradients_equal,
    assert_same,
    gradients,
    launch_processes,
    metrics,
    states,
    tiny_accelerator,
    tiny_data,
    tiny_distiller,
    tiny_model,
    tiny_recipe,
)
from tiny_backbones import resnet, vit


def prepared(backbone, data, model, **settings):
    recipe = tiny_recipe(objective="linear", network=f"probe/{backbone}", **settings)
    objective = build_objective(recipe, data)
    objective.prepare(data, model, tiny_accelerator())
    return objective, all_fields(recipe)


def naive_loss(backbone, data, model, arguments, generator):
    """L_DD by autograd of an explicit classifier, twice; draws in the order of the objective."""
    network = NetworkArguments(f"probe/{backbone}")
    probe = build_network(network, data.image_shape, data.num_labels, 0, data.processor)
    augmentation = DsaAugmentation(arguments.dsa, per_sample=False).draw(1, generator)
    rows = torch.randperm(len(data.train), generator=generator)[: arguments.real_batch_size]
    images = data.processor.normalize(data.train.images[rows])
    width = probe.classifier.in_features
    heads = torch.randn(arguments.linear_heads, data.num_labels, width, generator=generator) / width**0.5
    output = model()
    total = 0.0
    for head in heads:
        found = []
        for x, y in ((images, data.train.labels[rows]), (output.samples, output.labels)):
            classifier = torch.nn.Linear(width, data.num_labels, bias=False)
            classifier.weight.data.copy_(head)
            loss = F.cross_entropy(classifier(probe.features(DsaAugmentation.apply(x, augmentation))), y)
            (gradient,) = torch.autograd.grad(loss, classifier.weight, create_graph=True)
            found.append(gradient.flatten())
        real, samples = found
        total = total + (1 - real @ samples / (real.norm() * samples.norm())) / len(heads)
    return total


CASES = [
    (vit, {}, {}, 3),
    (resnet, {"dsa": "none", "linear_heads": 3}, {"num_hallucinators": 0}, 3),
    (vit, {"lambda_dd": 0.25, "dsa": "rotate"}, {"label_kind": "soft"}, 1),
    (resnet, {"micro_batch_size": 5}, {"label_kind": "soft", "formation_factor": 2}, 3),
    (vit, {"dsa": "crop"}, {"basis_storage": "frequencies", "basis_frequencies": 9, "num_hallucinators": 0}, 1),
]


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize(("backbone", "settings", "sizes", "channels"), CASES)
def test_loss_and_gradient_equal_autograd_through_a_classifier(tmp_path, backbone, settings, sizes, channels):
    data = tiny_data(channels)
    model = tiny_model(data, **sizes)
    objective, arguments = prepared(backbone(tmp_path), data, model, **settings)
    logs = objective.backward(model, torch.Generator().manual_seed(3))
    loss = naive_loss(tmp_path, data, model, arguments, torch.Generator().manual_seed(3))
    assert logs == {"l_dd": pytest.approx(loss.item(), rel=1e-9)}
    assert_gradients_equal(model, arguments.lambda_dd * loss, rtol=1e-6)
    assert (gradients(model).get("label_logits") is None) == (model.config.label_kind == "hard")


@pytest.mark.usefixtures("doubles")
def test_gradient_equals_finite_differences(tmp_path):
    data = tiny_data()
    model = tiny_model(data, label_kind="soft", num_hallucinators=2)
    objective, _ = prepared(vit(tmp_path), data, model)

    def loss():
        return objective.backward(model, torch.Generator().manual_seed(1))["l_dd"]

    loss()
    names = ["bases", "label_logits", "hallucinators.1.scale"]
    assert_directional_derivative(model, gradients(model), loss, names, eps=1e-6)


def test_micro_batches_and_draws(tmp_path):
    """In micro-batches the same, up to rounding; some samples of a class a step leave the others without gradient."""
    data = tiny_data()
    vit(tmp_path)
    found = []
    for settings in ({}, {"micro_batch_size": 3}, {"samples_per_class": 2}):
        model = tiny_model(data, bases_per_class=5, num_hallucinators=0)
        objective, _ = prepared(tmp_path, data, model, **settings)
        objective.backward(model, torch.Generator().manual_seed(2))
        found.append(model.bases.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-7)
    moved = found[2].flatten(1).abs().amax(dim=1).view(4, 5) > 0
    assert (moved.sum(dim=1) <= 2).all() and moved.any(dim=1).all()


def make(backbone, output_dir, model_seed=0, kind=Distiller, **settings):
    settings = {"objective": "linear", "network": f"probe/{backbone}", "output_dir": str(output_dir)} | settings
    recipe, data = tiny_recipe(**settings), tiny_data()
    model = tiny_model(data, seed=model_seed)  # three hallucinators: the adversary plays, in the backbone's features
    return tiny_distiller(model, build_objective(recipe, data), recipe, data, kind)


class Interrupted(Distiller):
    def save(self):
        super().save()
        if self.step_number == 2:
            raise KeyboardInterrupt


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path):
    folder = resnet(tmp_path / "backbone")
    whole = make(folder, tmp_path / "whole", steps=4)
    before = states(whole)
    whole.run()
    expected = states(whole)
    changed = {name for name, value in expected.items() if not value.equal(before[name])}
    assert "model.bases" in changed
    assert {name for name in changed if name.startswith("adversary")} == {
        "adversary.classifier.weight",
        "adversary.classifier.bias",
    }
    with pytest.raises(KeyboardInterrupt):
        make(folder, tmp_path / "parts", kind=Interrupted, steps=4).run()
    torch.manual_seed(5)
    resumed = make(folder, tmp_path / "parts", model_seed=9, steps=4)
    resumed.run()
    assert_same(states(resumed), expected)
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    resnet(folder, seed=1)  # other weights under the same name
    with pytest.raises(ValueError, match="is of another backbone than probe/"):
        make(folder, tmp_path / "parts", steps=4).run()


def test_what_it_cannot_do_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match="is for probes, and convnet is none: set network to probe/"):
        make(tmp_path, tmp_path / "run", network="convnet")
    with pytest.raises(FileNotFoundError, match="There is no backbone"):
        make(tmp_path / "none", tmp_path / "run")
    with pytest.raises(ValueError, match="samples_per_class must be at least 2"):
        make(vit(tmp_path / "backbone"), tmp_path / "run", samples_per_class=1)
    with pytest.raises(ValueError, match="linear_heads must be at least 1"):
        tiny_recipe(linear_heads=0)
    with pytest.raises(ValueError, match="is a probe, whose backbone needs the processor"):
        make(tmp_path / "backbone", tmp_path / "run", objective="dm")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_draw_on_their_own_and_stay_the_same(tmp_path):
    results = launch_processes(
        tmp_path,
        """
        import sys, torch
        from haba_hf.runs import build_objective
        from tiny import states, tiny_data, tiny_distiller, tiny_model, tiny_recipe

        recipe = tiny_recipe(objective="linear", network=f"probe/{sys.argv[1]}", output_dir=sys.argv[2])
        data = tiny_data()
        distiller = tiny_distiller(tiny_model(data), build_objective(recipe, data), recipe, data)
        logs = [distiller.step()["l_dd"] for _ in range(2)]
        rank = distiller.accelerator.process_index
        print("RESULT", rank, logs[0], *(value.double().sum().item() for value in states(distiller).values()))
        """,
        str(vit(tmp_path / "backbone")),
        str(tmp_path / "run"),
    )
    first, second = (line.split()[2:] for line in results)
    assert first[0] != second[0] and first[1:] == second[1:]
