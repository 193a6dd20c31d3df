"""Splits of a set."""

import pytest
import torch

from haba_hf.data.splits import Split, hold_out, rows_of_classes, subset
from image_sets import load, pixels_of, rows_of, write_parquet

# --- splits ----------------------------------------------------------------------------------------------------------


def test_rows_of_all_classes_are_those_of_each():
    labels = torch.randint(7, (200,), generator=torch.Generator().manual_seed(0))
    labels[labels == 2] = 3
    split = Split(torch.zeros(200, 1, 1, 1), labels)
    found = split.of_classes(9)
    assert len(found) == 9 and [len(found[label]) for label in (2, 7, 8)] == [0, 0, 0]
    for label, rows in enumerate(found):
        assert torch.equal(rows, split.of_class(label))
    assert rows_of_classes(labels[:0]) == []


def test_images_that_are_not_kept_are_of_no_class():
    labels = torch.tensor([0, 1, 0, 2, 1, 0])
    split = Split(torch.zeros(6, 1, 1, 1), labels, kept=torch.tensor([1, 2, 4, 5]))
    assert split.rows.tolist() == [1, 2, 4, 5] and len(split) == 6
    assert [rows.tolist() for rows in split.of_classes(3)] == [[2, 5], [1, 4], []]
    assert [split.of_class(label).tolist() for label in range(3)] == [[2, 5], [1, 4], []]


def test_validation_is_stratified_seeded_and_disjoint(folder):
    def contents(split):
        return {image.numpy().tobytes() for image in split.images}

    first, again, other = load(folder, validation_fraction=0.2), load(folder, validation_fraction=0.2), None
    assert first.validation.labels.bincount().tolist() == [2, 2, 2]
    assert first.train.labels.bincount().tolist() == [8, 8, 8]
    assert not contents(first.train) & contents(first.validation)
    assert len(contents(first.train) | contents(first.validation)) == 30
    assert torch.equal(first.validation.images, again.validation.images)
    assert first.fingerprint == again.fingerprint
    other = load(folder, validation_fraction=0.2, data_seed=1)
    assert not torch.equal(first.validation.images, other.validation.images)
    assert first.fingerprint != other.fingerprint
    assert torch.equal(first.test.images, other.test.images)


@pytest.mark.parametrize("name", ["validation", "valid", "val"])
def test_a_validation_split_of_its_own_is_used(folder, name):
    write_parquet(folder / f"{name}-00000-of-00001.parquet", rows_of(1, first=50))
    data = load(folder)
    assert len(data.train) == 30
    assert torch.equal(data.validation.images[1], torch.from_numpy(pixels_of(1, 50)).permute(2, 0, 1))


def test_max_train_samples_is_stratified_and_leaves_the_other_splits(folder):
    data = load(folder, validation_fraction=0.2, max_train_samples=7)
    assert sorted(data.train.labels.bincount().tolist()) == [2, 2, 3]
    assert (len(data.validation), len(data.test)) == (6, 6)
    assert len(load(folder, validation_fraction=0, max_train_samples=1000).train) == 30
    with pytest.raises(ValueError, match="max_train_samples is 2, but every one of 3 classes needs an image"):
        load(folder, max_train_samples=2)


def test_hold_out_never_takes_a_whole_class():
    labels = torch.tensor([0] * 10 + [1] * 2 + [2])
    kept, held_out = hold_out(labels, 0.9, seed=0)
    assert labels[kept].bincount().tolist() == [1, 1, 1]
    assert torch.equal(torch.cat([kept, held_out]).sort().values, torch.arange(13))
    kept, held_out = hold_out(labels, 0.0, seed=0)
    assert torch.equal(kept, torch.arange(13)) and len(held_out) == 0


def test_subset_keeps_proportions_and_rare_classes():
    labels = torch.tensor([0] * 80 + [1] * 19 + [2])
    chosen = subset(labels, 20, seed=0)
    assert torch.equal(chosen, chosen.sort().values)
    counts = labels[chosen].bincount(minlength=3).tolist()
    assert sum(counts) == 20 and counts[2] == 1 and abs(counts[0] - 16) <= 1
    assert torch.equal(subset(labels, 20, seed=0), chosen)
    assert not torch.equal(subset(labels, 20, seed=1), chosen)
    assert torch.equal(subset(labels, 100, seed=1), torch.arange(100))


def test_no_test_split(folder):
    (folder / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(ValueError, match=r"has no test split \(splits: train\)"):
        load(folder)
    data = load(folder, needs_test=False)
    assert data.test is None
    assert len(data.train) == 27


def test_no_train_split(folder):
    for file in folder.glob("train-*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"has no train split \(splits: test\)"):
        load(folder)


@pytest.mark.parametrize("empty", ["train", "test", "validation"])
def test_empty_split(tmp_path, empty):
    for split in ("train", "test", "validation"):
        write_parquet(tmp_path / f"{split}-0.parquet", [] if split == empty else rows_of(2))
    with pytest.raises(ValueError, match=rf"{empty} split of .* is empty"):
        load(tmp_path)
