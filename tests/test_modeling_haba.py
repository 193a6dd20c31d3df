import copy
import math
import os
import shutil
import subprocess
import sys
import textwrap
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoModel, ResNetConfig, ResNetModel

from haba_hf import HabaConfig, HabaModel

SIZES = {"num_labels": 3, "bases_per_class": 2, "num_hallucinators": 3, "sample_height": 7, "sample_width": 10}

KINDS = {
    "depth 0": {"hallucinator_depth": 0},
    "depth 1": {},
    "depth 2": {"hallucinator_depth": 2},
    "depth 3": {"hallucinator_depth": 3, "hallucinator_channels": 2},
    "shared, depth 0": {"share_encoder_decoder": True, "hallucinator_depth": 0},
    "shared, depth 1": {"share_encoder_decoder": True},
    "shared, depth 3": {"share_encoder_decoder": True, "hallucinator_depth": 3, "hallucinator_channels": 2},
    "one-channel bases": {"basis_channels": 1},
    "wide": {"hallucinator_channels": 5},
    "grey": {"sample_channels": 1},
    "soft labels": {"label_kind": "soft"},
    "one hallucinator": {"num_hallucinators": 1},
    "plain pixels": {"num_hallucinators": 0},
    "plain pixels, soft labels": {"num_hallucinators": 0, "label_kind": "soft"},
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def make_model(seed=0, **kwargs):
    torch.manual_seed(seed)
    return HabaModel(HabaConfig(**{**SIZES, **kwargs}))


def scramble(model):
    """Every parameter random, so that none of them can be left out unnoticed."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def convolutions(model, j, part):
    """Weights and biases of an encoder or decoder, by the names they are saved under."""
    tensors = dict(model.named_parameters())
    prefix = part if model.config.share_encoder_decoder else f"hallucinators.{j}.{part}"
    depth = model.config.hallucinator_depth
    return [[tensors[f"{prefix}.convolutions.{i}.{name}"] for name in ("weight", "bias")] for i in range(depth)]


def upsample_nearest(x, height, width):
    rows = [i * x.shape[2] // height for i in range(height)]
    columns = [i * x.shape[3] // width for i in range(width)]
    return x[:, :, rows][:, :, :, columns]


def restore_naively(model, i, j):
    """Sample of one basis and one hallucinator, written out from the paper: Dec(scale * Enc(basis) + shift)."""
    x = model.bases[i : i + 1]
    sizes = []  # to go back through
    for block, (weight, bias) in enumerate(convolutions(model, j, "encoder")):
        if block:
            sizes.append(x.shape[2:])
        x = F.conv2d(x, weight, bias, stride=2 if block else 1, padding=1).clamp(min=0)
    hallucinator = model.hallucinators[j]
    x = hallucinator.scale[None] * x + hallucinator.shift[None]
    for weight, bias in convolutions(model, j, "decoder"):
        if sizes:
            x = F.conv2d(upsample_nearest(x, *sizes.pop()), weight, bias, padding=1).clamp(min=0)
        else:
            x = F.conv2d(x, weight, bias, padding=1)
    return x[0]


def naive_samples(model, pairs):
    if model.config.num_hallucinators == 0:
        return torch.stack([model.bases[i] for i, _ in pairs])
    return torch.stack([restore_naively(model, i, j) for i, j in pairs])


def all_pairs(model):
    return [(i, j) for i in range(model.config.num_bases) for j in range(max(model.config.num_hallucinators, 1))]


@each_kind
def test_all_samples_equal_the_naive_loop(kind):
    model = scramble(make_model(**KINDS[kind])).double()
    output = model()
    pairs = all_pairs(model)
    expected = naive_samples(model, pairs)
    assert output.samples.shape == (model.config.num_samples, *model.config.sample_shape) == expected.shape
    torch.testing.assert_close(output.samples, expected)
    assert output.basis_ids.tolist() == [i for i, _ in pairs]
    if model.config.num_hallucinators:
        assert output.hallucinator_ids.tolist() == [j for _, j in pairs]
    else:
        assert output.hallucinator_ids is None
        assert "hallucinator_ids" not in output


def test_the_decoder_restores_negative_pixels():
    assert make_model()().samples.min() < 0


@pytest.mark.parametrize(
    "pairs", [[(4, 2), (0, 0), (4, 2), (5, 0), (1, 2), (0, 1)], [(3, 1)], [(2, 0), (2, 0), (2, 0)], []]
)
@pytest.mark.parametrize("dtype", [torch.long, torch.int32, torch.uint8])
def test_aligned_pairs(pairs, dtype):
    model = scramble(make_model()).double()
    basis_ids, hallucinator_ids = (torch.tensor([pair[k] for pair in pairs], dtype=dtype) for k in (0, 1))
    output = model(basis_ids, hallucinator_ids)
    assert output.samples.shape == (len(pairs), 3, 7, 10)
    if pairs:
        torch.testing.assert_close(output.samples, naive_samples(model, pairs))
    assert output.labels.tolist() == [i // 2 for i, _ in pairs]
    assert output.basis_ids.tolist() == [i for i, _ in pairs]
    assert output.hallucinator_ids.tolist() == [j for _, j in pairs]


def test_one_side_given_is_a_product_basis_by_basis():
    model = scramble(make_model())
    everything = model()
    output = model(basis_ids=torch.tensor([5, 1]))
    assert output.basis_ids.tolist() == [5, 5, 5, 1, 1, 1]
    assert output.hallucinator_ids.tolist() == [0, 1, 2, 0, 1, 2]
    rows = output.basis_ids * 3 + output.hallucinator_ids
    torch.testing.assert_close(output.samples, everything.samples[rows])
    output = model(hallucinator_ids=torch.tensor([2, 0]))
    assert output.basis_ids.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert output.hallucinator_ids.tolist() == [2, 0] * 6
    rows = output.basis_ids * 3 + output.hallucinator_ids
    torch.testing.assert_close(output.samples, everything.samples[rows])
    assert output.labels.tolist() == everything.labels[rows].tolist()
    assert model(basis_ids=torch.empty(0, dtype=torch.long)).samples.shape == (0, 3, 7, 10)


@pytest.mark.parametrize("shared", [False, True])
def test_each_hallucinator_is_called_at_most_once(shared):
    model = make_model(share_encoder_decoder=shared)
    calls = Counter()
    for j, hallucinator in enumerate(model.hallucinators):
        hallucinator.register_forward_hook(lambda module, inputs, output, j=j: calls.update([j]))
    model()
    assert calls == {0: 1, 1: 1, 2: 1}
    calls.clear()
    generator = torch.Generator().manual_seed(0)
    basis_ids = torch.randint(6, (200,), generator=generator)
    model(basis_ids, torch.randint(3, (200,), generator=generator))
    assert calls == {0: 1, 1: 1, 2: 1}
    calls.clear()
    model(basis_ids, torch.full((200,), 1))
    assert calls == {1: 1}


@each_kind
def test_gradients_equal_those_of_the_naive_loop(kind):
    model = scramble(make_model(**KINDS[kind])).double()
    other = copy.deepcopy(model)
    count = model.config.num_hallucinators
    pairs = [(5, 0), (0, max(count - 1, 0)), (5, 0), (2, 1 % max(count, 1)), *all_pairs(model)]
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(len(pairs), *model.config.sample_shape, generator=generator, dtype=torch.float64)
    label_weights = torch.randn(len(pairs), 3, generator=generator, dtype=torch.float64)

    basis_ids = torch.tensor([i for i, _ in pairs])
    output = model(basis_ids, torch.tensor([j for _, j in pairs]) if count else None)
    expected = (naive_samples(other, pairs) * weights).sum()
    loss = (output.samples * weights).sum()
    if model.config.label_kind == "soft":
        loss = loss + (output.labels * label_weights).sum()
        shares = torch.stack([other.label_logits[i].exp() / other.label_logits[i].exp().sum() for i, _ in pairs])
        expected = expected + (shares * label_weights).sum()
    loss.backward()
    expected.backward()
    for (name, parameter), (_, reference) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        if name == "student_learning_rate":
            assert parameter.grad is None
        else:
            assert reference.grad.abs().max() > 0, name
            torch.testing.assert_close(parameter.grad, reference.grad, msg=name)


def test_second_derivatives_flow():
    """Trajectory matching differentiates a gradient with respect to the samples."""
    model = make_model(num_hallucinators=1).double()
    samples = model(torch.tensor([0])).samples
    (first,) = torch.autograd.grad(samples.pow(3).sum(), model.bases, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), model.hallucinators[0].scale)
    assert second.abs().max() > 0


def test_hard_labels_follow_the_class_of_the_basis():
    model = make_model(bases_per_class=4)
    assert model.labels.dtype == torch.long
    assert model.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert model().labels.tolist() == [label for label in (0, 1, 2) for _ in range(4 * 3)]


def test_soft_labels_start_at_nine_tenths_and_are_shared_by_the_samples_of_a_basis():
    model = make_model(label_kind="soft")
    expected = torch.full((6, 3), 0.05)
    expected[torch.arange(6), torch.arange(6) // 2] = 0.9
    torch.testing.assert_close(model.labels, expected)
    scramble(model)
    labels = model().labels
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(18))
    assert torch.equal(labels, model.labels.repeat_interleave(3, dim=0))
    assert torch.equal(make_model(label_kind="soft", num_labels=1).labels, torch.ones(2, 1))


def test_materialize_holds_all_samples_without_gradients():
    model = scramble(make_model(label_kind="soft"))
    output = model.materialize()
    assert torch.equal(output.samples, model().samples)
    assert not output.samples.requires_grad
    assert not output.labels.requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0], None), "basis_ids must be a 1-D tensor of integers"),
        ((torch.tensor(0), None), "basis_ids must be a 1-D tensor of integers"),
        ((torch.zeros(2, 2, dtype=torch.long), None), "basis_ids must be a 1-D tensor"),
        ((torch.zeros(2), None), "basis_ids must be a 1-D tensor of integers"),
        ((torch.tensor([True, False]), None), "basis_ids must be a 1-D tensor of integers"),
        ((torch.zeros(2, dtype=torch.complex64), None), "basis_ids must be a 1-D tensor of integers"),
        ((None, torch.tensor([0.0])), "hallucinator_ids must be a 1-D tensor of integers"),
        ((torch.tensor([6]), None), r"basis_ids must lie in 0\.\.5, got 6\.\.6"),
        ((torch.tensor([0, -1]), None), r"basis_ids must lie in 0\.\.5, got -1\.\.0"),
        ((None, torch.tensor([3])), r"hallucinator_ids must lie in 0\.\.2, got 3\.\.3"),
        ((None, torch.tensor([-1])), r"hallucinator_ids must lie in 0\.\.2"),
        ((torch.tensor([0, 1]), torch.tensor([0])), "aligned pairs: got 2 and 1"),
    ],
)
def test_wrong_ids_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_model()(*arguments)


def test_plain_pixels_take_no_hallucinator_ids():
    model = make_model(num_hallucinators=0)
    assert torch.equal(model(torch.tensor([3, 3, 0])).samples, model.bases[[3, 3, 0]])
    with pytest.raises(ValueError, match=r"plain pixels .* pass no hallucinator_ids"):
        model(hallucinator_ids=torch.tensor([0]))
    with pytest.raises(ValueError, match="basis_ids must lie in"):
        model(torch.tensor([6]))


def test_a_sharing_hallucinator_called_alone_says_what_it_lacks():
    model = make_model(share_encoder_decoder=True)
    with pytest.raises(ValueError, match="shares its encoder and decoder"):
        model.hallucinators[0](model.bases)
    model.hallucinators[0](model.bases, model.encoder, model.decoder)


# ------------------------------------------------------------------------------------------------- multi-formation

FORMATIONS = {
    "2x2": {"formation_factor": 2},
    "2x2, plain pixels, soft labels": {"formation_factor": 2, "num_hallucinators": 0, "label_kind": "soft"},
    "1x3": {"formation_factor": 3, "formation_axes": "time"},
    "3x3, one-channel bases": {"formation_factor": 3, "basis_channels": 1},
}
each_formation = pytest.mark.parametrize("kind", FORMATIONS)


def make_formed(kind):
    return scramble(make_model(**FORMATIONS[kind], sample_height=6, sample_width=12)).double()


def resize_by_hand(tiles, height, width):
    """Bilinear: pixels have their values at their centers, and beyond the outermost centers nothing changes."""
    result = torch.zeros(*tiles.shape[:2], height, width, dtype=tiles.dtype)
    rows, columns = tiles.shape[2:]
    for i in range(height):
        for j in range(width):
            y, x = ((k + 0.5) * old / new - 0.5 for k, old, new in ((i, rows, height), (j, columns, width)))
            y, x = min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            above = tiles[..., top, left] * (1 - (x - left)) + tiles[..., top, right] * (x - left)
            below = tiles[..., bottom, left] * (1 - (x - left)) + tiles[..., bottom, right] * (x - left)
            result[..., i, j] = above * (1 - (y - top)) + below * (y - top)
    return result


def naive_formations(model):
    """All samples by hand: basis by basis, hallucinator by hallucinator, tile by tile, row by row."""
    rows, columns = {4: (2, 2), 3: (1, 3), 9: (3, 3)}[model.config.num_formations]
    height, width = 6 // rows, 12 // columns
    images = naive_samples(model, all_pairs(model))
    tiles = [
        resize_by_hand(images[:, :, row : row + height, column : column + width], 6, 12)
        for row in range(0, 6, height)
        for column in range(0, 12, width)
    ]
    return torch.stack(tiles, dim=1).flatten(0, 1)


@each_formation
def test_samples_are_enlarged_tiles(kind):
    model = make_formed(kind)
    output, formations, count = model(), model.config.num_formations, model.config.num_hallucinators
    assert output.samples.shape == (model.config.num_samples, 3, 6, 12)
    torch.testing.assert_close(output.samples, naive_formations(model))
    per_basis = max(count, 1) * formations
    assert output.basis_ids.tolist() == [i for i in range(6) for _ in range(per_basis)]
    assert output.formation_ids.tolist() == list(range(formations)) * (6 * max(count, 1))
    assert torch.equal(output.labels, model.labels.repeat_interleave(per_basis, dim=0))
    if count:
        assert output.hallucinator_ids.tolist() == [j for _, j in all_pairs(model) for _ in range(formations)]


@each_formation
def test_chosen_formations_and_places(kind):
    model = make_formed(kind)
    everything, count = model(), max(model.config.num_hallucinators, 1)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.num_samples, (11,), generator=generator)
    output = model.restore(ids)
    for name in ("samples", "labels", "basis_ids", "formation_ids", *(["hallucinator_ids"] if count > 1 else [])):
        assert torch.equal(output[name], everything[name][ids]), name
    pairs = (output.basis_ids, output.hallucinator_ids)
    assert torch.equal(model(*pairs, output.formation_ids).samples, output.samples)
    all_of_each = model(*pairs).samples.unflatten(0, (11, -1))
    assert torch.equal(all_of_each[torch.arange(11), output.formation_ids], output.samples)
    assert model.restore(torch.empty(0, dtype=torch.long)).samples.shape == (0, 3, 6, 12)
    assert model(torch.empty(0, dtype=torch.long)).samples.shape == (0, 3, 6, 12)


@each_formation
def test_gradients_flow_through_formations(kind):
    model = make_formed(kind)
    other = copy.deepcopy(model)
    weights = torch.randn(model().samples.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (model().samples * weights).sum().backward()
    (naive_formations(other) * weights).sum().backward()
    for (name, parameter), reference in zip(model.named_parameters(), other.parameters(), strict=True):
        if name not in ("student_learning_rate", "label_logits"):
            torch.testing.assert_close(parameter.grad, reference.grad, msg=name)


@pytest.mark.parametrize("kind", ["depth 1", "plain pixels"])
def test_places_without_formations(kind):
    model = make_model(**KINDS[kind])
    everything, ids = model(), torch.tensor([5, 0, 5, model.config.num_samples - 1])
    torch.testing.assert_close(model.restore(ids).samples, everything.samples[ids])
    assert "formation_ids" not in everything
    assert "formation_ids" not in model(formation_ids=torch.zeros(model.config.num_samples, dtype=torch.long))
    with pytest.raises(ValueError, match=rf"sample_ids must lie in 0\.\.{model.config.num_samples - 1}"):
        model.restore(torch.tensor([model.config.num_samples]))


def test_wrong_formations_are_refused():
    model = make_formed("2x2")
    with pytest.raises(ValueError, match=r"formation_ids must lie in 0\.\.3, got 4\.\.4"):
        model(formation_ids=torch.full((18,), 4))
    with pytest.raises(ValueError, match="formation_ids are one for each pair: got 2 for 18"):
        model(formation_ids=torch.tensor([0, 1]))


@each_formation
def test_formations_are_saved_and_converted(kind, tmp_path):
    model = make_formed(kind).float()
    model.save_pretrained(tmp_path)
    loaded, output = HabaModel.from_pretrained(tmp_path), model.materialize()
    assert torch.equal(loaded.materialize().samples, output.samples)
    dataset = loaded.to_dataset().with_format("numpy")
    assert np.array_equal(dataset["sample"][:], output.samples.numpy())
    assert np.array_equal(dataset["formation"][:], output.formation_ids.numpy())

    rows, formations = rows_of(model.to_iterable_dataset(seed=1, epochs=2)), model.config.num_formations
    count = max(model.config.num_hallucinators, 1)
    for epoch in (rows[: 6 * formations], rows[6 * formations :]):
        met = sorted((int(row["basis"]), int(row["formation"])) for row in epoch)
        assert met == [(i, m) for i in range(6) for m in range(formations)]
        for row in epoch:
            place = int(row["basis"]) * count + int(row.get("hallucinator", 0))
            expected = output.samples[place * formations + int(row["formation"])]
            np.testing.assert_allclose(row["sample"], expected.numpy(), rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------------------------------------- initialization


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


def test_the_seed_decides_the_model():
    first, again, other = make_model(3), make_model(3), make_model(4)
    for (name, tensor), same, different in zip(
        first.state_dict().items(), again.state_dict().values(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, same), name
        if name == "bases" or name.endswith(("weight", "bias")):
            assert not torch.equal(tensor, different), name


# --------------------------------------------------------------------------------------------------- saving, loading


@each_kind
def test_save_and_load_are_bit_exact(kind, tmp_path):
    model = scramble(make_model(**KINDS[kind]))
    model.save_pretrained(tmp_path)
    for loaded in (HabaModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert type(loaded) is HabaModel
        assert not loaded.training
        assert loaded.config.to_diff_dict() == model.config.to_diff_dict()
        assert list(loaded.state_dict()) == list(model.state_dict())
        for name, tensor in model.state_dict().items():
            assert loaded.state_dict()[name].dtype == tensor.dtype
            assert torch.equal(loaded.state_dict()[name], tensor), name
        output, expected = loaded(), model()
        assert torch.equal(output.samples, expected.samples)
        assert torch.equal(output.labels, expected.labels)


def test_the_file_holds_the_floats_of_the_report(tmp_path):
    model = make_model(label_kind="soft")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point()) == model.storage().floats
    assert not list(tmp_path.glob("*.bin"))


def test_shards_and_state_dicts(tmp_path):
    model = scramble(make_model())
    model.save_pretrained(tmp_path, max_shard_size="2KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert torch.equal(HabaModel.from_pretrained(tmp_path)().samples, model().samples)
    loaded = HabaModel.from_pretrained(None, config=model.config, state_dict=model.state_dict())
    assert torch.equal(loaded().samples, model().samples)
    shards[-1].write_bytes(shards[-1].read_bytes()[:-20])
    with pytest.raises(ValueError, match="cut off"):
        HabaModel.from_pretrained(tmp_path)


def test_bfloat16(tmp_path):
    model = scramble(make_model(label_kind="soft"))
    model.save_pretrained(tmp_path)
    half = HabaModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert half.class_ids.dtype == torch.long
    assert half.class_ids.tolist() == [0, 0, 1, 1, 2, 2]
    torch.testing.assert_close(half.bases.float(), model.bases, rtol=2**-8, atol=0)
    assert half().samples.dtype == torch.bfloat16
    half.save_pretrained(tmp_path / "half")
    again = HabaModel.from_pretrained(tmp_path / "half")
    assert torch.equal(again.bases, half.bases)
    assert again.bases.dtype == torch.bfloat16
    dataset = again.to_dataset().with_format("numpy")
    assert np.array_equal(dataset["sample"][:], again().samples.detach().float().numpy())
    assert np.array_equal(dataset["label"][:], again().labels.detach().float().numpy())


def test_runs_under_autocast():
    model = make_model()
    with torch.autocast("cpu", torch.bfloat16):
        output = model()
    torch.testing.assert_close(output.samples.float(), model().samples, rtol=0.05, atol=0.05)


REMOTE_PROBE = """
    import importlib.util, sys

    blocked = {"haba_hf", "datasets", "accelerate", "sklearn", "matplotlib", "torchvision", "torchaudio"}

    class Without:
        def __init__(self, finder):
            self.finder = finder

        def find_spec(self, name, path=None, target=None):
            return None if name.split(".")[0] in blocked else self.finder.find_spec(name, path, target)

        def __getattr__(self, name):
            return getattr(self.finder, name)

    sys.meta_path = [Without(finder) for finder in sys.meta_path]
    assert all(importlib.util.find_spec(name) is None for name in blocked)

    from safetensors.torch import save_file
    from transformers import AutoModel

    try:
        AutoModel.from_pretrained("artifact", trust_remote_code=False)
    except ValueError as error:
        print("refused:", "trust_remote_code" in str(error))
    model = AutoModel.from_pretrained("artifact", trust_remote_code=True)
    print("class:", type(model).__module__.split(".")[0], type(model).__name__)
    output = model.materialize()
    save_file({**model.state_dict(), "samples": output.samples, "labels": output.labels}, "loaded.safetensors")
    for convert in (model.to_dataset, model.to_iterable_dataset):
        try:
            convert()
        except ImportError as error:
            print("import error:", error)
    open("cut/model.safetensors", "r+b").truncate(300)
    try:
        AutoModel.from_pretrained("cut", trust_remote_code=True)
    except ValueError as error:
        print("cut:", error)
    model.save_pretrained("again")
    print("leaked:", sorted(blocked & set(sys.modules)))
"""


def test_loads_with_remote_code_where_only_transformers_is_installed(tmp_path):
    model = scramble(make_model(hallucinator_depth=2, label_kind="soft"))
    model.save_pretrained(tmp_path / "artifact")
    shutil.copytree(tmp_path / "artifact", tmp_path / "cut")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    environment["HF_MODULES_CACHE"] = str(tmp_path / "modules")
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(REMOTE_PROBE)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "refused: True" in result.stdout
    assert "class: transformers_modules HabaModel" in result.stdout
    assert result.stdout.count("pip install datasets") == 2
    assert "cut: The safetensors file of cut is cut off" in result.stdout
    assert "leaked: []" in result.stdout
    assert (tmp_path / "again" / "modeling_haba.py").exists()
    loaded = load_file(tmp_path / "loaded.safetensors")
    for name, tensor in {**model.state_dict(), "labels": model().labels}.items():
        assert torch.equal(loaded[name], tensor), name
    torch.testing.assert_close(loaded["samples"], model().samples)


@pytest.fixture
def saved(tmp_path):
    """A scrambled model's folder, and a function that writes other tensors there."""
    model = scramble(make_model(label_kind="soft", share_encoder_decoder=False))
    model.save_pretrained(tmp_path)

    def rewrite(tensors):
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        return tmp_path

    return model, tmp_path, rewrite


def test_what_is_missing_is_refused_or_initialized_on_request(saved):
    model, path, rewrite = saved
    tensors = load_file(path / "model.safetensors")
    fresh = make_model(label_kind="soft")
    bound = 27**-0.5
    for name in list(tensors):
        rewrite({key: value for key, value in tensors.items() if key != name})
        with pytest.raises(ValueError, match=rf"does not hold the weights of this haba config: 1 missing \({name}\)"):
            HabaModel.from_pretrained(path)
        loaded, report = HabaModel.from_pretrained(path, output_loading_info=True)
        assert report["missing_keys"] == {name}
        state = loaded.state_dict()
        if name == "bases":
            assert 0.8 < state[name].std() < 1.2
            assert state[name].abs().max() < 6
        elif name.endswith(("weight", "bias")):
            assert 0 < state[name].abs().max() <= bound, name
        else:
            assert torch.equal(state[name], fresh.state_dict()[name]), name
        for other, value in model.state_dict().items():
            assert other == name or torch.equal(state[other], value), (name, other)


@pytest.mark.parametrize("name", ["bases", "hallucinators.1.scale", "hallucinators.1.encoder.convolutions.0.weight"])
def test_missing_weights_of_an_identity_initialization(tmp_path, name):
    make_model(hallucinator_init="identity").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors")
    loaded, _ = HabaModel.from_pretrained(tmp_path, output_loading_info=True)
    for other, value in tensors.items():
        assert torch.equal(loaded.state_dict()[other], value), other
    samples = loaded().samples.unflatten(0, (6, 3))
    assert (samples - loaded.bases[:, None]).pow(2).mean().sqrt() < 0.5


def test_unexpected_and_mismatched_weights_are_refused(saved):
    model, path, rewrite = saved
    tensors = load_file(path / "model.safetensors")
    rewrite({**tensors, "conv.weight": torch.ones(2)})
    with pytest.raises(ValueError, match=r"1 unexpected \(conv.weight\)"):
        HabaModel.from_pretrained(path)
    rewrite({**tensors, "bases": torch.ones(6, 3, 7, 9)})
    with pytest.raises(ValueError, match=rf"file of {path} .*: 1 of another shape \(bases\)"):
        HabaModel.from_pretrained(path)
    loaded, report = HabaModel.from_pretrained(path, output_loading_info=True)
    assert [key for key, *_ in report["mismatched_keys"]] == ["bases"]
    assert 0.8 < loaded.bases.std() < 1.2
    rewrite(tensors)
    with pytest.raises(ValueError, match=r"unexpected .hallucinators\.2\.decoder"):
        HabaModel.from_pretrained(path, num_hallucinators=2)
    with pytest.raises(ValueError, match=r"of another shape .bases, class_ids, label_logits.\."):
        HabaModel.from_pretrained(path, bases_per_class=1)
    HabaModel.from_pretrained(path, bases_per_class=1, ignore_mismatched_sizes=True)
    with pytest.raises(ValueError, match="hallucinator_depth must be 0, 1, 2 or 3, got 7"):
        HabaModel.from_pretrained(path, hallucinator_depth=7)
    assert torch.equal(HabaModel.from_pretrained(path)().samples, model().samples)


@pytest.mark.parametrize("load", [HabaModel.from_pretrained, AutoModel.from_pretrained])
def test_a_foreign_safetensors_file_is_refused(saved, load):
    _, path, rewrite = saved
    rewrite({"conv.weight": torch.ones(3), "conv.bias": torch.ones(3)})
    with pytest.raises(
        ValueError, match=rf"{path} does not .* missing .*, 2 unexpected .conv.bias, conv.weight."
    ) as raised:
        load(path)
    assert "\n" not in str(raised.value)


def test_another_models_folder_is_refused(tmp_path):
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic")
    ResNetModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the config of a resnet model, not of a haba artifact"):
        HabaModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("load", [HabaModel.from_pretrained, AutoModel.from_pretrained])
@pytest.mark.parametrize("content", ["empty", "half", "header", "text"])
def test_a_damaged_safetensors_file_is_refused(saved, content, load):
    _, path, _ = saved
    file = path / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(
        {"empty": b"", "half": data[: len(data) // 2], "header": data[:100], "text": b"<html>not found</html>"}[
            content
        ]
    )
    with pytest.raises(ValueError, match=f"The safetensors file of {path} is cut off or is none .*download it again"):
        load(path)


@pytest.mark.parametrize("arguments", [{}, {"use_safetensors": False}])
def test_pickled_weights_are_refused(saved, arguments):
    model, path, _ = saved
    (path / "model.safetensors").unlink()
    torch.save(model.state_dict(), path / "pytorch_model.bin")
    with pytest.raises(OSError, match=f"no file named model.safetensors found in directory {path}"):
        HabaModel.from_pretrained(path, **arguments)


# ---------------------------------------------------------------------------------------------------------- datasets


@each_kind
def test_to_dataset_is_bit_equal_to_the_samples(kind):
    model = scramble(make_model(**KINDS[kind], id2label={0: "cat", 1: "dog", 2: "eel"}, label2id={}))
    output = model.materialize()
    dataset = model.to_dataset()
    count = model.config.num_hallucinators
    assert dataset.column_names == ["sample", "label", "basis"] + (["hallucinator"] if count else [])
    assert len(dataset) == model.config.num_samples
    arrays = dataset.with_format("numpy")
    assert arrays["sample"][:].dtype == np.float32
    assert np.array_equal(arrays["sample"][:], output.samples.numpy())
    assert np.array_equal(arrays["label"][:], output.labels.numpy())
    assert np.array_equal(arrays["basis"][:], output.basis_ids.numpy())
    if count:
        assert np.array_equal(arrays["hallucinator"][:], output.hallucinator_ids.numpy())
    if model.config.label_kind == "hard":
        assert dataset.features["label"].names == ["cat", "dog", "eel"]
    assert torch.equal(dataset.with_format("torch")[0]["sample"], output.samples[0])


def rows_of(dataset):
    return list(dataset.with_format("numpy"))


@pytest.mark.parametrize("kwargs", [{}, {"label_kind": "soft"}, {"num_hallucinators": 0}])
def test_to_iterable_dataset_meets_every_basis_once_an_epoch(kwargs):
    model = scramble(make_model(**kwargs))
    output = model.materialize()
    count = model.config.num_hallucinators
    dataset = model.to_iterable_dataset(seed=5, epochs=4)
    assert dataset.num_shards == 4
    rows = rows_of(dataset)
    epochs = [rows[start : start + 6] for start in range(0, len(rows), 6)]
    assert len(epochs) == 4
    orders = [[int(row["basis"]) for row in epoch] for epoch in epochs]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    for row in rows:
        sample = int(row["basis"]) * max(count, 1) + int(row.get("hallucinator", 0))
        np.testing.assert_allclose(row["sample"], output.samples[sample].numpy(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(row["label"], output.labels[sample].numpy(), rtol=1e-6)
    assert "hallucinator" in rows[0] if count else "hallucinator" not in rows[0]
    if count:
        assert {int(row["hallucinator"]) for row in rows} == {0, 1, 2}


def test_to_iterable_dataset_follows_its_seed():
    model = make_model()

    def pairs(**kwargs):
        return [(int(row["basis"]), int(row["hallucinator"])) for row in rows_of(model.to_iterable_dataset(**kwargs))]

    assert pairs() == pairs(seed=0, epochs=1)
    state = torch.get_rng_state()
    assert pairs(seed=1, epochs=3) == pairs(seed=1, epochs=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert pairs(seed=1, epochs=3) != pairs(seed=2, epochs=3)
    assert pairs(seed=1, epochs=3)[:6] == pairs(seed=1, epochs=1)


def test_pairing_is_uniform():
    model = make_model(bases_per_class=200, hallucinator_depth=0, sample_height=2, sample_width=2)
    counts = Counter(int(row["hallucinator"]) for row in rows_of(model.to_iterable_dataset(epochs=2)))
    assert all(335 < counts[j] < 465 for j in range(3))  # 400 expected, four standard deviations


# ----------------------------------------------------------------------------------------------------------- storage


def test_storage_report():
    report = make_model(label_kind="soft", sample_height=8, sample_width=8).storage()
    hallucinators = 3 * (2 * 3 * 64 + 84 + 84)
    assert report.parts == {
        "bases": 6 * 3 * 64,
        "hallucinators": hallucinators,
        "labels": 6 * 3,
        "student_learning_rate": 1,
    }
    assert report.floats == 6 * 192 + hallucinators + 18 + 1
    assert report.bytes == 4 * report.floats
    assert report.images_per_class == pytest.approx(report.floats / (3 * 192))


def test_plain_pixels_store_nothing_else():
    report = make_model(num_hallucinators=0, share_encoder_decoder=True).storage()
    assert report.parts == {"bases": 6 * 210, "hallucinators": 0, "labels": 0, "student_learning_rate": 1}
    assert report.images_per_class == pytest.approx(2, abs=0.01)
