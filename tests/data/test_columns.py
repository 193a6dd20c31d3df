"""Columns, labels and images of a set that someone else made: what is found, and what is refused by name."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Value
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


def test_classes_of_splits_are_matched_by_name(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", rows_of(2))
    write_parquet(tmp_path / "test-0.parquet", rows_of(2), ClassLabel(names=["dog", "cat", "owl"]))
    data = load(tmp_path, validation_fraction=0)
    assert data.train.labels.tolist() == [0, 1, 2] * 2
    assert data.test.labels.tolist() == [1, 0, 2] * 2, "matched by name"
    write_parquet(tmp_path / "test-0.parquet", rows_of(2), ClassLabel(names=["dog", "cat", "emu"]))
    with pytest.raises(ValueError, match=r"test split has the label 'emu', .* train split \(cat, dog, owl\)"):
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
    data = load(tmp_path, validation_fraction=0)
    assert data.class_names == ["0", "2", "4"]
    assert data.train.labels.tolist() == data.test.labels.tolist() == [0, 1, 2] * 3


@pytest.mark.parametrize(
    ("values", "feature", "names"),
    [
        ([1, 2, 3], Value("int64"), ["1", "2", "3"]),
        ([20_000_000, 20_000_001, 20_000_002], Value("int64"), ["20000000", "20000001", "20000002"]),
        ([-1, 1], Value("int8"), ["-1", "1"]),
        ([False, True], Value("bool"), ["False", "True"]),
    ],
)
def test_values_become_classes(tmp_path, values, feature, names):
    for split in ("train", "test"):
        rows = [{**row, "label": values[row["label"]]} for row in rows_of(3, num_labels=len(values))]
        write_parquet(tmp_path / f"{split}-0.parquet", rows, feature)
    data = load(tmp_path, validation_fraction=0)
    assert data.class_names == names
    assert data.train.labels.tolist() == data.test.labels.tolist() == list(range(len(values))) * 3


def test_a_test_split_that_is_not_needed_is_not_looked_at(tmp_path):
    """Test sets whose labels the Hub keeps back: -1 for each."""
    write_parquet(tmp_path / "train-0.parquet", rows_of(3))
    write_parquet(tmp_path / "test-0.parquet", [{**row, "label": -1} for row in rows_of(3)])
    with pytest.raises(ValueError, match="9 of 9 images of the test split are unlabeled"):
        load(tmp_path)
    assert load(tmp_path, needs_test=False).test is None


def test_files_of_a_split_that_number_classes_otherwise_are_refused(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", rows_of(3))
    write_parquet(tmp_path / "train-1.parquet", rows_of(3), ClassLabel(names=["owl", "dog", "cat"]))
    write_parquet(tmp_path / "test-0.parquet", rows_of(3))
    with pytest.raises(ValueError, match=r"train-1.parquet names the classes .* otherwise than train-0.parquet"):
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
    [(Image.new("RGBA", (5, 6)), "transparent in parts"), (Image.new("LA", (5, 6)), "transparent in parts")],
    ids=["RGBA", "LA"],
)
def test_unfit_image_names_its_row(tmp_path, image, message):
    rows = rows_of(4)
    rows[8]["image"] = encode(image)
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-0.parquet", rows)
    with pytest.raises(ValueError, match=f"row 8 of the train split is unfit: .*{message}"):
        load(tmp_path)


def test_transparency(tmp_path):
    """An opaque alpha channel says nothing; what shows behind another one is for the user to say."""
    opaque = np.dstack([pixels_of(0, 0), np.full((6, 5), 255, np.uint8)])
    clear = opaque.copy()
    clear[0, 0, 3] = 0
    for split in ("train", "test"):
        rows = rows_of(2)
        rows[0]["image"] = encode(opaque)
        write_parquet(tmp_path / f"{split}-0.parquet", rows)
    first = torch.from_numpy(pixels_of(0, 0)).permute(2, 0, 1)
    assert torch.equal(load(tmp_path, validation_fraction=0).train.images[0], first)
    rows[3]["image"] = encode(clear)
    write_parquet(tmp_path / "train-0.parquet", rows)
    data = load(tmp_path, validation_fraction=0, rgba_background=[9, 8, 7])
    assert torch.equal(data.train.images[3, :, 0, 0], torch.tensor([9, 8, 7], dtype=torch.uint8))
    assert torch.equal(data.train.images[3, :, 1:], first[:, 1:])
    assert data.processor.rgba_background == [9, 8, 7], "test images of the artifact go the same way"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_those_that_datasets_decodes(tmp_path, orientation):
    """Cameras write how they were held; `datasets` turns such pictures upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(pixels_of(0, orientation, height=4, width=7))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", exif=exif)
    rows = [{"image": buffer.getvalue(), "label": label} for label in (0, 1, 2)]
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-0.parquet", rows)
    data = load(tmp_path, validation_fraction=0)
    theirs = Dataset.from_parquet(str(tmp_path / "train-0.parquet"))[0]["image"]
    assert theirs.size == ((7, 4) if orientation < 5 else (4, 7))
    assert torch.equal(data.train.images[0], torch.from_numpy(np.array(theirs)).permute(2, 0, 1))
    sideways = Image.open(io.BytesIO(buffer.getvalue()))
    assert torch.equal(data.processor.to_uint8(sideways)[0], data.train.images[0]), "the processor too"


def in_format(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


COLORS = Image.fromarray(pixels_of(1, 1, height=8, width=8))
GREYS = Image.fromarray(pixels_of(1, 1, height=8, width=8, channels=1))
DEEP = Image.fromarray((np.arange(64, dtype=np.uint16) * 1040).reshape(8, 8))
FORMATS = {
    "png 1 bit": in_format(GREYS.convert("1"), "PNG"),
    "png grey": in_format(GREYS, "PNG"),
    "png 16 bit": in_format(DEEP, "PNG"),
    "png palette": in_format(COLORS.quantize(16), "PNG"),
    "png grey and alpha": in_format(Image.merge("LA", (GREYS, Image.new("L", (8, 8), 255))), "PNG"),
    "jpeg": in_format(COLORS, "JPEG"),
    "jpeg grey": in_format(GREYS, "JPEG"),
    "jpeg cmyk": in_format(COLORS.convert("CMYK"), "JPEG"),
    "webp": in_format(COLORS, "WEBP"),
    "gif of two frames": in_format(COLORS, "GIF", save_all=True, append_images=[GREYS.convert("RGB")]),
    "tiff": in_format(COLORS, "TIFF"),
    "bmp": in_format(COLORS, "BMP"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_give_the_pixels_that_datasets_decodes(tmp_path, name):
    rows = [{"image": FORMATS[name], "label": label} for label in (0, 1, 2)]
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-0.parquet", rows)
    data = load(tmp_path, validation_fraction=0)
    theirs = Dataset.from_parquet(str(tmp_path / "train-0.parquet"))[0]["image"]
    if theirs.mode == "I;16":
        expected = (np.asarray(theirs) >> 8).astype(np.uint8)
        assert any("upper 8 bits" in note for note in data.notes)
    else:
        grey = theirs.mode in ("1", "L", "LA")
        expected = np.asarray(theirs.convert("L" if grey else "RGB"))
    expected = np.atleast_3d(expected).transpose(2, 0, 1)
    assert torch.equal(data.train.images[0], torch.from_numpy(expected.copy()))
    assert any("several frames" in note for note in data.notes) == (name == "gif of two frames")


def test_16_bit_images_whose_upper_bits_are_empty_are_refused(tmp_path):
    twelve_bits = in_format(Image.fromarray(np.asarray(DEEP) // 16), "PNG")
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-0.parquet", [{"image": twelve_bits, "label": label} for label in (0, 1, 2)])
    with pytest.raises(ValueError, match="16-bit images of the train split have no value above 4095 of 65535"):
        load(tmp_path)


@pytest.mark.parametrize(
    "image",
    [in_format(Image.new("1", (20_000, 20_000)), "PNG"), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\n"],
    ids=["a bomb", "a program"],
)
def test_images_that_would_harm_name_their_row(tmp_path, image):
    rows = rows_of(2)
    rows[4]["image"] = image
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-0.parquet", rows)
    with pytest.raises(ValueError, match="row 4 of the train split is corrupt"):
        load(tmp_path)


def test_stretching_is_said(tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-0.parquet", rows_of(4))
    assert load(tmp_path, resize=6).notes == [
        "images that are not square are stretched, e.g. row 0 of the train split by 1.20; center_crop keeps their "
        "proportions"
    ]
    assert not load(tmp_path, resize=6, center_crop=True).notes


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
