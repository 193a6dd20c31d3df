"""Multi-formation against tiles enlarged by hand."""

import copy

import numpy as np
import pytest
import torch

from haba_hf import HabaModel
from naive_artifact import KINDS, all_pairs, make_model, naive_samples, rows_of, scramble

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
    assert np.array_equal(dataset["pixel_values"][:], output.samples.numpy())
    assert np.array_equal(dataset["formation"][:], output.formation_ids.numpy())

    rows, formations = rows_of(model.to_iterable_dataset(seed=1, epochs=2)), model.config.num_formations
    count = max(model.config.num_hallucinators, 1)
    for epoch in (rows[: 6 * formations], rows[6 * formations :]):
        met = sorted((int(row["basis"]), int(row["formation"])) for row in epoch)
        assert met == [(i, m) for i in range(6) for m in range(formations)]
        for row in epoch:
            place = int(row["basis"]) * count + int(row.get("hallucinator", 0))
            expected = output.samples[place * formations + int(row["formation"])]
            np.testing.assert_allclose(row["pixel_values"], expected.numpy(), rtol=1e-4, atol=1e-4)
