"""Columns, labels and images of a set that someone else made: what is found, and what is refused by name."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Value
from datasets import Image as ImageFeature
from PIL import Image

from image_sets import CLASS_LABEL, encode, load, pixels_of, rows_of, write_parquet

# --- columns and labels ----------------------------------------------------------------------------------------------


def test_columns_of_other_names_are_found_by_their_features(tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-0.parquet", rows_of(2), image_column="img", label_column="animal")
    assert load(tmp_path, validation_fraction=0).train.labels.tolist() == [0, 1, 2] * 2


def test_two_image_columns_are_ambiguous(tmp_path):
    rows = rows_of(2)
    depth = [{"bytes": encode(pixels_of(9, index, channels=1)), "path": None} for index in range(6)]
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-0.parquet", rows, depth=(depth, ImageFeature()))
    with pytest.raises(ValueError, match=r"2 image columns; set image_column .* image \(Image\), .*depth \(Image\)"):
        load(tmp_path)
    assert load(tmp_path, image_column="depth").image_shape == (1, 6, 5)
    with pytest.raises(ValueError, match=r"no column 'dept'; its columns are image"):
        load(tmp_path, image_column="dept")
    with pytest.raises(ValueError, match="Column 'label' of the train split holds no images"):
        load(tmp_path, image_column="label")


def test_missing_label_column(tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-0.parquet", rows_of(2), Value("int64"), label_column="animal")
    with pytest.raises(ValueError, match=r"0 label columns; set label_column .* image \(Image\), animal \(Value\)"):
        load(tmp_path)
    assert load(tmp_path, label_column="animal").class_names == ["0", "1", "2"]
    with pytest.raises(ValueError, match=r"no column 'animals'"):
        load(tmp_path, label_column="animals")
    with pytest.raises(ValueError, match="'image' holds no labels"):
        load(tmp_path, label_column="image")


def test_two_class_labels_are_ambiguous(tmp_path):
    kind = ([0, 1] * 3, ClassLabel(names=["wild", "tame"]))
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-0.parquet", rows_of(2), kind=kind)
    with pytest.raises(ValueError, match="2 label columns; set label_column"):
        load(tmp_path)
    assert load(tmp_path, label_column="kind").class_names == ["wild", "tame"]


@pytest.mark.parametrize("column", ["label", "labels", "fine_label"])
def test_integer_labels_without_names(tmp_path, column):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-0.parquet", rows_of(2), Value("int32"), label_column=column)
    data = load(tmp_path, validation_fraction=0)
    assert data.class_names == ["0", "1", "2"]
    assert data.train.labels.tolist() == [0, 1, 2] * 2


def test_string_labels_are_numbered_in_sorted_order(tmp_path):
    names = ["zebra", "ant", "10"]
    for split in ("train", "test"):
        rows = [{**row, "label": names[row["label"]]} for row in rows_of(2)]
        write_parquet(tmp_path / f"{split}-0.parquet", rows, Value("string"))
    data = load(tmp_path, validation_fraction=0)
    assert data.class_names == ["10", "ant", "zebra"]
    assert data.train.labels.tolist() == [2, 1, 0] * 2


@pytest.mark.parametrize("label_feature", [CLASS_LABEL, Value("int64")], ids=["ClassLabel", "int64"])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("unlabeled", [-1, None])
def test_unlabeled_images_are_an_error(tmp_path, label_feature, split, unlabeled):
    for each in ("train", "test"):
        rows = rows_of(2)
        if each == split:
            rows[0]["label"] = rows[5]["label"] = unlabeled
        write_parquet(tmp_path / f"{each}-0.parquet", rows, label_feature)
    with pytest.raises(ValueError, match=f"2 of 6 images of the {split} split are unlabeled"):
        load(tmp_path)


def test_labels_unknown_to_the_train_split_are_an_error(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", rows_of(2), Value("int64"))
    write_parquet(tmp_path / "test-0.parquet", rows_of(2, num_labels=4), Value("int64"))
    with pytest.raises(ValueError, match="test split has the label 3, which is none of the 3 classes"):
        load(tmp_path)


def test_other_negative_labels_are_an_error(tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-0.parquet", [*rows_of(2), {**rows_of(1)[0], "label": -2}], Value("int64"))
    with pytest.raises(ValueError, match="the label -2, which is none of"):
        load(tmp_path)


def test_splits_with_other_class_names_are_an_error(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", rows_of(2))
    write_parquet(tmp_path / "test-0.parquet", rows_of(2), ClassLabel(names=["dog", "cat", "owl"]))
    with pytest.raises(ValueError, match=r"test split names its classes otherwise .*'dog', 'cat'"):
        load(tmp_path)


def test_splits_with_other_columns_are_an_error(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", rows_of(2))
    write_parquet(tmp_path / "test-0.parquet", rows_of(2), label_column="target")
    with pytest.raises(ValueError, match="test split has no column 'label'"):
        load(tmp_path)
    write_parquet(tmp_path / "test-0.parquet", rows_of(2), image_column="picture")
    with pytest.raises(ValueError, match="test split has no column 'image'"):
        load(tmp_path)


def test_class_without_training_images(tmp_path):
    for split in ("train", "test"):
        rows = [row for row in rows_of(3) if row["label"] != 1]
        write_parquet(tmp_path / f"{split}-0.parquet", rows)
    with pytest.raises(ValueError, match="no training images of class dog"):
        load(tmp_path)


def test_integer_labels_with_a_gap(tmp_path):
    for split in ("train", "test"):
        rows = [{**row, "label": row["label"] * 2} for row in rows_of(3)]
        write_parquet(tmp_path / f"{split}-0.parquet", rows, Value("int64"))
    with pytest.raises(ValueError, match="no training images of class 1, 3"):
        load(tmp_path)


# --- images that cannot be used --------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [lambda png: b"no image", lambda png: png[: len(png) // 2], lambda png: b""])
@pytest.mark.parametrize("split", ["train", "test"])
def test_corrupt_image_names_its_row(tmp_path, split, damage):
    for each in ("train", "test"):
        rows = rows_of(4)
        if each == split:
            rows[7]["image"] = damage(rows[7]["image"])
        write_parquet(tmp_path / f"{each}-0.parquet", rows)
    with pytest.raises(ValueError, match=f"row 7 of the {split} split is corrupt"):
        load(tmp_path)


def test_missing_image_names_its_row(tmp_path):
    rows = rows_of(4)
    rows[5]["image"] = None
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-0.parquet", rows)
    with pytest.raises(ValueError, match="Row 5 of the train split has no image"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("image", "message"),
    [(Image.new("RGBA", (5, 6)), "alpha channel"), (Image.new("LA", (5, 6)), "alpha channel")],
    ids=["RGBA", "LA"],
)
def test_unfit_image_names_its_row(tmp_path, image, message):
    rows = rows_of(4)
    rows[8]["image"] = encode(image)
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-0.parquet", rows)
    with pytest.raises(ValueError, match=f"row 8 of the train split is unfit: .*{message}"):
        load(tmp_path)


def test_image_bytes_without_feature_metadata(tmp_path):
    """Parquet files that were not written by `datasets` do not say that a column holds images."""
    rows = rows_of(2)
    table = pa.table({"image": [row["image"] for row in rows], "label": [row["label"] for row in rows]})
    for split in ("train", "test"):
        pq.write_table(table, tmp_path / f"{split}-0.parquet")
    with pytest.raises(ValueError, match=r"0 image columns; set image_column .* image \(Value\), label \(Value\)"):
        load(tmp_path)
    data = load(tmp_path, image_column="image", validation_fraction=0)
    assert torch.equal(data.train.images[1], torch.from_numpy(pixels_of(1, 0)).permute(2, 0, 1))
