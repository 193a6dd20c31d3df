"""Statistics of channels, and the fingerprint of a set."""

import numpy as np
import pytest
import torch

from haba_hf.data import channel_statistics
from haba_hf.data.statistics import IMAGES_AT_ONCE, channel_counts
from image_sets import load, rows_of, write_parquet


def test_counts_are_those_of_numpy():
    shape = (IMAGES_AT_ONCE + 3, 3, 4, 5)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for channel, counts in enumerate(channel_counts(images)):
        values, expected = np.unique(images[:, channel].numpy(), return_counts=True)
        assert counts.nonzero().flatten().tolist() == values.tolist()
        assert counts[counts > 0].tolist() == expected.tolist()


def test_statistics_are_those_of_the_training_images(folder):
    data = load(folder)
    pixels = data.train.images.double() / 255
    mean, std = pixels.mean(dim=(0, 2, 3)), pixels.std(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(torch.tensor(data.processor.image_mean).double(), mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.tensor(data.processor.image_std).double(), std, atol=1e-6, rtol=0)
    normalized = data.processor.normalize(data.train.images)
    assert normalized.mean(dim=(0, 2, 3)).abs().max() < 1e-5


def test_statistics_of_a_large_set_are_exact():
    images = torch.zeros(9000, 1, 2, 2, dtype=torch.uint8)
    images[::2] = 255
    assert channel_statistics(images) == ([0.5], [0.5])


def test_constant_channel_is_an_error():
    images = torch.randint(0, 256, (4, 3, 2, 2), dtype=torch.uint8)
    images[:, 1] = 7
    with pytest.raises(ValueError, match="Channel 1 has the same value in all training images"):
        channel_statistics(images)


def test_fingerprint_follows_images_and_labels(tmp_path):
    def fingerprint(rows):
        for split in ("train", "test"):
            write_parquet(tmp_path / f"{split}-0.parquet", rows)
        return load(tmp_path, validation_fraction=0).fingerprint

    first = fingerprint(rows_of(3))
    assert len(first) == 16 and int(first, 16) >= 0
    assert fingerprint(rows_of(3)) == first
    assert fingerprint(rows_of(3, first=1)) != first
    relabeled = rows_of(3)
    relabeled[0]["label"] = 1
    assert fingerprint(relabeled) != first
