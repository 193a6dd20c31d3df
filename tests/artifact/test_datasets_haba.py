"""Samples and pairings as objects of the datasets library."""

from collections import Counter

import numpy as np
import pytest
import torch

from naive_artifact import KINDS, each_kind, make_model, rows_of, scramble


@each_kind
def test_to_dataset_is_bit_equal_to_the_samples(kind):
    model = scramble(make_model(**KINDS[kind], id2label={0: "cat", 1: "dog", 2: "eel"}, label2id={}))
    output = model.materialize()
    dataset = model.to_dataset()
    count = model.config.num_hallucinators
    assert dataset.column_names == ["pixel_values", "labels", "basis"] + (["hallucinator"] if count else [])
    assert len(dataset) == model.config.num_samples
    arrays = dataset.with_format("numpy")
    assert arrays["pixel_values"][:].dtype == np.float32
    assert np.array_equal(arrays["pixel_values"][:], output.samples.numpy())
    assert np.array_equal(arrays["labels"][:], output.labels.numpy())
    assert np.array_equal(arrays["basis"][:], output.basis_ids.numpy())
    if count:
        assert np.array_equal(arrays["hallucinator"][:], output.hallucinator_ids.numpy())
    if model.config.label_kind == "hard":
        assert dataset.features["labels"].names == ["cat", "dog", "eel"]
    assert torch.equal(dataset.with_format("torch")[0]["pixel_values"], output.samples[0])


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
        np.testing.assert_allclose(row["pixel_values"], output.samples[sample].numpy(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(row["labels"], output.labels[sample].numpy(), rtol=1e-6)
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
