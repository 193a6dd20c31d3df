"""Artifacts of every kind, and their samples written out from the paper, one by one."""

import pytest
import torch
from torch.nn import functional as F

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
        model.student_learning_rate.abs_()
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


def rows_of(dataset):
    return list(dataset.with_format("numpy"))
