import io

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from sklearn.datasets import load_digits
from transformers import HfArgumentParser

from haba_hf.data import NAMED_DATASETS, DataArguments, channel_statistics, load_image_data
from haba_hf.data.splits import hold_out, subset


@pytest.fixture(autouse=True)
def own_datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def pixels_of(label, index, height=6, width=5, channels=3):
    """The pixels of one image, told apart from every other by its label and index."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng([label, index]).integers(0, 256, size=shape, dtype=np.uint8)


def encode(pixels, image_format="PNG"):
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, image_format, **({"lossless": True} if image_format == "WEBP" else {}))
    return buffer.getvalue()


def rows_of(per_class=10, num_labels=3, first=0, **kwargs):
    """Rows in round-robin order of class: label 0, 1, 2, 0, 1, 2, ..."""
    return [
        {"image": encode(pixels_of(label, first + index, **kwargs)), "label": label}
        for index in range(per_class)
        for label in range(num_labels)
    ]


CLASS_LABEL = ClassLabel(names=["cat", "dog", "owl"])


def write_parquet(file, rows, label_feature=CLASS_LABEL, image_column="image", label_column="label", **more):
    """Writes rows as the Hub's parquet files are: encoded bytes, and the features in the file's metadata."""
    columns = {
        image_column: [None if row["image"] is None else {"bytes": row["image"], "path": None} for row in rows],
        label_column: [row["label"] for row in rows],
        **{name: values for name, (values, _) in more.items()},
    }
    features = Features(
        {
            image_column: ImageFeature(),
            label_column: label_feature,
            **{name: feature for name, (_, feature) in more.items()},
        }
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns, features=features).to_parquet(str(file))


@pytest.fixture
def folder(tmp_path):
    """A parquet folder: 30 training images in two files and 6 test images, RGB 6x5."""
    path = tmp_path / "pets"
    rows = rows_of(10)
    write_parquet(path / "train-00000-of-00002.parquet", rows[:17])
    write_parquet(path / "train-00001-of-00002.parquet", rows[17:])
    write_parquet(path / "test-00000-of-00001.parquet", rows_of(2, first=100))
    return path


def load(path, allow_missing_test=False, **kwargs):
    return load_image_data(DataArguments(dataset=str(path), **kwargs), allow_missing_test=allow_missing_test)


# --- parquet folders -------------------------------------------------------------------------------------------------


def test_parquet_folder(folder):
    data = load(folder, validation_fraction=0)
    assert data.name == "pets"
    assert data.class_names == ["cat", "dog", "owl"]
    assert data.num_labels == 3
    assert data.image_shape == (3, 6, 5)
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 0, 6)
    assert data.train.images.dtype == torch.uint8 and data.train.labels.dtype == torch.int64
    assert data.validation.images.shape == (0, 3, 6, 5) and data.validation.labels.dtype == torch.int64
    # Two files, one order, exact pixels.
    assert data.train.labels.tolist() == [0, 1, 2] * 10
    for row in (0, 16, 17, 29):
        expected = torch.from_numpy(pixels_of(row % 3, row // 3)).permute(2, 0, 1)
        assert torch.equal(data.train.images[row], expected)
    assert torch.equal(data.test.images[4], torch.from_numpy(pixels_of(1, 101)).permute(2, 0, 1))
    assert data.train.of_class(2).tolist() == list(range(2, 30, 3))


def test_data_dir_gives_the_data_and_dataset_the_name(folder):
    data = load_image_data(DataArguments(dataset="my-pets", data_dir=str(folder)))
    assert data.name == "my-pets"
    assert len(data.train) == 27


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "BMP"])
def test_lossless_formats_keep_every_pixel(tmp_path, image_format):
    rows = [{"image": encode(pixels_of(label, 0), image_format), "label": label} for label in range(3)]
    write_parquet(tmp_path / "train-0.parquet", rows)
    write_parquet(tmp_path / "test.parquet", rows)
    data = load(tmp_path)
    expected = torch.stack([torch.from_numpy(pixels_of(label, 0)).permute(2, 0, 1) for label in range(3)])
    assert torch.equal(data.train.images, expected)
    assert torch.equal(data.test.images, expected)


def test_grey_images_stay_grey(tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-0.parquet", rows_of(4, channels=1))
    data = load(tmp_path, validation_fraction=0)
    assert data.image_shape == (1, 6, 5)
    assert data.processor.num_channels == 1
    assert torch.equal(data.train.images[4, 0], torch.from_numpy(pixels_of(1, 1, channels=1)))


def test_one_color_image_makes_all_training_images_rgb(tmp_path, monkeypatch):
    monkeypatch.setattr("haba_hf.data.tables.DECODE_BATCH_SIZE", 4)
    rows = rows_of(4, channels=1)
    rows[10]["image"] = encode(pixels_of(1, 3))
    write_parquet(tmp_path / "train-0.parquet", rows)
    write_parquet(tmp_path / "test-0.parquet", rows_of(1, channels=1))
    data = load(tmp_path, validation_fraction=0)
    assert data.image_shape == (3, 6, 5)
    assert data.test.images.shape == (3, 3, 6, 5)
    grey = torch.from_numpy(pixels_of(0, 0, channels=1))
    assert torch.equal(data.train.images[0], grey.expand(3, -1, -1))
    assert torch.equal(data.train.images[10], torch.from_numpy(pixels_of(1, 3)).permute(2, 0, 1))


def test_resize(folder):
    data = load(folder, resize=8, validation_fraction=0)
    assert data.image_shape == (3, 8, 8)
    assert data.test.images.shape == (6, 3, 8, 8)
    assert data.processor.size == {"height": 8, "width": 8}
    expected = np.asarray(Image.fromarray(pixels_of(0, 0)).resize((8, 8), Image.Resampling.BILINEAR)).astype(int)
    assert abs(data.train.images[0].permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


def test_images_of_different_sizes_need_resize(tmp_path):
    rows = rows_of(4)
    rows[7]["image"] = encode(pixels_of(1, 7, height=7))
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-0.parquet", rows)
    with pytest.raises(ValueError, match=r"row 7 of the train split is 7x5 while others are 6x5; set resize"):
        load(tmp_path)
    assert load(tmp_path, resize=6).image_shape == (3, 6, 6)


def test_a_test_split_of_another_size_is_an_error(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", rows_of(4))
    write_parquet(tmp_path / "test-0.parquet", rows_of(4, height=9))
    with pytest.raises(ValueError, match="row 0 of the test split is 9x5 while others are 6x5"):
        load(tmp_path)


# --- image folders ---------------------------------------------------------------------------------------------------


def write_image_folder(path, per_class=4, splits=("train", "test")):
    for split in splits:
        for label, name in enumerate(CLASS_LABEL.names):
            (path / split / name).mkdir(parents=True)
            for index in range(per_class):
                Image.fromarray(pixels_of(label, index)).save(path / split / name / f"{index}.png")
    return path


def test_image_folder(tmp_path):
    path = write_image_folder(tmp_path / "photos")
    data = load(path, validation_fraction=0.25)
    assert data.name == "photos"
    assert data.class_names == ["cat", "dog", "owl"]
    assert (len(data.train), len(data.validation), len(data.test)) == (9, 3, 12)
    images = {pixels.numpy().tobytes() for pixels in data.test.images[data.test.of_class(2)]}
    assert images == {pixels_of(2, index).transpose(2, 0, 1).tobytes() for index in range(4)}


def test_corrupt_file_of_an_image_folder_is_named(tmp_path):
    path = write_image_folder(tmp_path / "photos")
    (path / "train" / "dog" / "2.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"row 6 of the train split \(.*dog.2\.png\) is corrupt"):
        load(path)


def test_folder_without_data(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(ValueError, match=r"holds neither train-\*\.parquet files nor a folder of images"):
        load(tmp_path)


def test_missing_data_dir():
    with pytest.raises(ValueError, match="data_dir no/such/folder is not a folder"):
        load_image_data(DataArguments(dataset="mnist", data_dir="no/such/folder"))


# --- splits ----------------------------------------------------------------------------------------------------------


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
    data = load(folder, allow_missing_test=True)
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


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nearest"), [("fashionmnist", "fashion_mnist"), ("cifar", "cifar10"), ("digit", "digits")]
)
def test_unknown_data_set_names_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"Unknown data set '{name}': .*did you mean '{nearest}'"):
        load_image_data(DataArguments(dataset=name))


@pytest.mark.parametrize("name", ["./no/folder", "/no/folder", "no/such/folder", "~/nobody"])
def test_a_path_that_is_no_folder_is_unknown(name):
    with pytest.raises(ValueError, match=r"Unknown data set .* no folder and no Hub id"):
        load_image_data(DataArguments(dataset=name))


@pytest.mark.parametrize(
    ("dataset", "hub_id"),
    [("mnist", "ylecun/mnist"), ("ylecun/mnist", "ylecun/mnist"), ("me/my-set", "me/my-set")],
)
def test_names_and_hub_ids_are_loaded_from_the_hub(monkeypatch, dataset, hub_id):
    asked = []

    def fake_load_dataset(path):
        asked.append(path)
        rows = rows_of(4, channels=1)
        features = Features({"image": ImageFeature(), "label": CLASS_LABEL})
        columns = {"image": [{"bytes": row["image"], "path": None} for row in rows], "label": [0, 1, 2] * 4}
        table = Dataset.from_dict(columns, features=features)
        return datasets.DatasetDict(train=table, test=table)

    monkeypatch.setattr("haba_hf.data.sources.load_dataset", fake_load_dataset)
    data = load_image_data(DataArguments(dataset=dataset))
    assert asked == [hub_id]
    assert data.name == dataset
    assert (data.processor.image_mean == [0.1307]) == (hub_id == "ylecun/mnist")


def test_a_hub_that_cannot_be_reached_is_a_clear_error(monkeypatch):
    def fail(path):
        raise ConnectionError("no route")

    monkeypatch.setattr("haba_hf.data.sources.load_dataset", fail)
    with pytest.raises(ValueError, match=r"Could not load ylecun/mnist from the Hub; give a folder .* \(no route\)"):
        load_image_data(DataArguments(dataset="mnist"))


def test_published_statistics_belong_to_the_name(folder):
    data = load_image_data(DataArguments(dataset="cifar10", data_dir=str(folder)))
    assert data.processor.image_mean == NAMED_DATASETS["cifar10"].image_mean
    assert data.processor.image_std == NAMED_DATASETS["cifar10"].image_std
    with pytest.raises(ValueError, match="mnist has 1 channels but the images loaded have 3"):
        load_image_data(DataArguments(dataset="mnist", data_dir=str(folder)))


# --- statistics and fingerprint --------------------------------------------------------------------------------------


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


# --- digits ----------------------------------------------------------------------------------------------------------


def test_digits():
    data = load_image_data(DataArguments())
    assert data.name == "digits"
    assert data.class_names == [str(digit) for digit in range(10)]
    assert data.image_shape == (1, 8, 8)
    assert len(data.train) + len(data.validation) + len(data.test) == 1797
    assert abs(len(data.test) - 1797 / 5) < 10 and abs(len(data.validation) - 1438 / 10) < 10
    counts = torch.tensor(np.bincount(load_digits().target))
    assert (data.test.labels.bincount() - counts / 5).abs().max() <= 0.5
    original = {np.round(image * 255 / 16).astype(np.uint8).tobytes() for image in load_digits().images}
    assert {image.numpy().tobytes() for split in (data.train, data.test) for image in split.images} <= original
    assert data.train.images.max() == 255


def test_digits_test_split_is_the_same_for_every_seed():
    first, second = load_image_data(DataArguments()), load_image_data(DataArguments(data_seed=1))
    assert torch.equal(first.test.images, second.test.images)
    assert first.fingerprint != second.fingerprint


def test_digits_resized_and_limited():
    data = load_image_data(DataArguments(resize=16, max_train_samples=50))
    assert data.image_shape == (1, 16, 16)
    assert data.train.labels.bincount().tolist() == [5] * 10


def test_digits_have_no_data_dir(folder):
    with pytest.raises(ValueError, match="digits ship with scikit-learn and have no data_dir"):
        load_image_data(DataArguments(data_dir=str(folder)))


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation_fraction": 1.0}, "validation_fraction must be in"),
        ({"validation_fraction": -0.1}, "validation_fraction must be in"),
        ({"resize": 0}, "resize must be positive"),
        ({"max_train_samples": 0}, "max_train_samples must be positive"),
    ],
)
def test_unfit_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(**arguments)


def test_arguments_are_read_from_the_command_line():
    (args,) = HfArgumentParser(DataArguments).parse_args_into_dataclasses(
        ["--dataset", "cifar10", "--data_dir", "x", "--resize", "16", "--validation_fraction", "0"]
    )
    assert args == DataArguments(dataset="cifar10", data_dir="x", resize=16, validation_fraction=0.0)
    assert DataArguments() == HfArgumentParser(DataArguments).parse_args_into_dataclasses([])[0]
