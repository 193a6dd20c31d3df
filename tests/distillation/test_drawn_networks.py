"""Several architectures in one run: drawn by seed, known before the first step, the same after an interruption."""

import pytest
import torch

from haba_hf.distillation import Distiller, DistributionMatching, GradientMatching
from haba_hf.distillation.objectives.drawn_networks import DrawnNetworks
from haba_hf.networks import ConvNet, LeNet, build_feature_network
from tiny import NETWORK, gradients, tiny_accelerator, tiny_data, tiny_distiller, tiny_model, tiny_recipe

MANY = ["convnet", "lenet"]


def objective_of(recipe):
    if recipe.distillation.objective == "dm":
        return DistributionMatching(NETWORK, recipe.distillation, recipe.distribution_matching)
    return GradientMatching(NETWORK, recipe.distillation, recipe.gradient_matching)


def test_the_seed_decides_among_architectures_and_weights():
    data, recipe = tiny_data(side=16), tiny_recipe(networks=MANY)
    drawn = DrawnNetworks(NETWORK, recipe.distillation, data.image_shape, data.num_labels)
    kinds = {seed: type(drawn(seed)) for seed in range(6)}
    assert kinds == {seed: [ConvNet, LeNet][seed % 2] for seed in range(6)}
    for first, again in zip(drawn(5).parameters(), drawn(5).parameters(), strict=True):
        assert torch.equal(first, again)


def test_without_a_list_the_network_is_the_recipe_s():
    data, recipe = tiny_data(), tiny_recipe()
    drawn = DrawnNetworks(NETWORK, recipe.distillation, data.image_shape, data.num_labels)
    for seed in (3, 4):
        expected = build_feature_network(NETWORK, data.image_shape, data.num_labels, seed).state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in drawn(seed).state_dict().items())


def test_a_step_of_distribution_matching_is_that_of_the_network_drawn(doubles):
    """By a run of one architecture each, with the generators that lead to it."""
    data, model = tiny_data(side=16), tiny_model(tiny_data(side=16))
    seeds = {}
    for start in range(8):  # the objective's first draw is the seed of its network
        seed = int(torch.randint(2**31 - 1, (), generator=torch.Generator().manual_seed(start)))
        seeds.setdefault(MANY[seed % 2], start)
    assert len(seeds) == 2
    for name, start in seeds.items():
        found = []
        for networks in (MANY, [name]):
            objective = objective_of(tiny_recipe(networks=networks))
            objective.prepare(data, model, tiny_accelerator())
            model.zero_grad()
            logs = objective.backward(model, torch.Generator().manual_seed(start))
            found.append((logs, {key: value.clone() for key, value in gradients(model).items()}))
        assert found[0][0] == found[1][0]
        assert all(torch.equal(value, found[1][1][key]) for key, value in found[0][1].items())


@pytest.mark.parametrize("objective", ["dm", "dsa"])
def test_a_run_goes_on_with_the_architecture_it_had(tmp_path, objective):
    class Interrupted(Distiller):
        def log(self, logs):
            super().log(logs)
            if self.step_number == 3:
                raise KeyboardInterrupt

    def distiller(folder, kind=Distiller, seed=0):
        settings = {"objective": objective, "networks": MANY, "seed": 3, "outer_steps": 2, "steps": 5}
        recipe = tiny_recipe(**settings, output_dir=str(tmp_path / folder))
        data = tiny_data(num_labels=2, side=16)
        return tiny_distiller(tiny_model(data, seed=seed), objective_of(recipe), recipe, data, kind)

    whole = distiller("whole")
    kinds = set()
    build = DrawnNetworks.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DrawnNetworks, "__call__", lambda self, seed: kinds.add(seed % 2) or build(self, seed))
        whole.run()
    assert kinds == {0, 1}
    with pytest.raises(KeyboardInterrupt):
        distiller("parts", Interrupted).run()
    resumed = distiller("parts", seed=9)
    resumed.run()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"networks": ["convnett"]}, "There is no network 'convnett'"),
        ({"objective": "mtt", "networks": MANY}, "mtt has one architecture: name it by network"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_recipe(**settings)


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        (["convnet", "transformers/resnet"], "transformers/resnet has no features"),
        (["convnet", "resnet18"], "ResNet18 needs images of 9x9 pixels or more"),
    ],
)
def test_an_architecture_that_cannot_be_used_is_told_before_the_first_step(networks, message):
    data = tiny_data()
    objective = objective_of(tiny_recipe(networks=networks))
    with pytest.raises(ValueError, match=message):
        objective.prepare(data, tiny_model(data), tiny_accelerator())
