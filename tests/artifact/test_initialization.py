"""Where bases and hallucinators start."""

import math

import pytest
import torch

from naive_artifact import make_model


def test_default_initialization_is_pytorchs():
    model = make_model(hallucinator_depth=2, hallucinator_channels=16, num_hallucinators=4)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            bound = 1 / math.sqrt(module.in_channels * 9)
            for values in (module.weight, module.bias):
                assert values.abs().max() <= bound
            assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)
    for hallucinator in model.hallucinators:
        assert (hallucinator.scale == 1).all()
        assert (hallucinator.shift == 0).all()
    assert model.bases.mean().abs() < 0.1
    assert model.bases.std().item() == pytest.approx(1, abs=0.1)
    assert model.student_learning_rate.shape == ()
    assert make_model(student_learning_rate=0.5).student_learning_rate == 0.5


@pytest.mark.parametrize("hallucinator_init", ["default", "identity"])
@pytest.mark.parametrize(
    "kwargs",
    [{}, {"hallucinator_depth": 0}, {"share_encoder_decoder": True}, {"sample_channels": 1}],
    ids=["rgb", "depth 0", "shared", "grey"],
)
def test_hallucinators_start_distinct(hallucinator_init, kwargs):
    samples = make_model(hallucinator_init=hallucinator_init, **kwargs)().samples.unflatten(0, (6, 3))
    for j, k in [(0, 1), (0, 2), (1, 2)]:
        assert (samples[:, j] - samples[:, k]).abs().mean() > 0.02


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"hallucinator_depth": 0},
        {"share_encoder_decoder": True},
        {"sample_channels": 1},
        {"basis_channels": 1},
        {"hallucinator_channels": 8},
    ],
    ids=["rgb", "depth 0", "shared", "grey", "one-channel bases", "wide"],
)
def test_identity_initialization_starts_near_the_bases(kwargs):
    model = make_model(hallucinator_init="identity", sample_height=16, sample_width=16, **kwargs)
    with torch.no_grad():
        model.bases.clamp_(-3, 3)
    samples = model().samples.unflatten(0, (6, 3))
    bases = model.bases[:, None].expand_as(samples)
    assert (samples - bases).pow(2).mean().sqrt() < 0.3
    for channel in range(samples.shape[2]):
        pair = torch.stack([samples[:, :, channel].flatten(), bases[:, :, channel].flatten()])
        assert torch.corrcoef(pair)[0, 1] > 0.95


@pytest.mark.parametrize("kwargs", [{}, {"hallucinator_depth": 0}, {"basis_channels": 1}])
def test_how_far_from_the_bases_an_identity_starts_is_a_setting(kwargs):
    """A tenth of a point is little for pixels of deviation 1, and much for whitened ones."""
    far = {}
    for noise in (0.1, 0.01):
        model = make_model(hallucinator_init="identity", hallucinator_noise=noise, **kwargs)
        with torch.no_grad():
            model.bases.clamp_(-3, 3)
        samples = model().samples.unflatten(0, (6, 3))
        far[noise] = (samples - model.bases[:, None]).pow(2).mean().sqrt().item()
    assert far[0.01] < 0.03 and far[0.1] == pytest.approx(10 * far[0.01], rel=0.15)


def test_the_seed_decides_the_model():
    first, again, other = make_model(3), make_model(3), make_model(4)
    for (name, tensor), same, different in zip(
        first.state_dict().items(), again.state_dict().values(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, same), name
        if name == "bases" or name.endswith(("weight", "bias")):
            assert not torch.equal(tensor, different), name
