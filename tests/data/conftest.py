"""What the tests of several sources share."""

import datasets
import pytest

from image_sets import rows_of, write_parquet


@pytest.fixture(autouse=True)
def own_datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


@pytest.fixture
def folder(tmp_path):
    """A parquet folder: 30 training images in two files and 6 test images, RGB 6x5."""
    path = tmp_path / "pets"
    rows = rows_of(10)
    write_parquet(path / "train-00000-of-00002.parquet", rows[:17])
    write_parquet(path / "train-00001-of-00002.parquet", rows[17:])
    write_parquet(path / "test-00000-of-00001.parquet", rows_of(2, first=100))
    return path
