"""Where real images come from: parquet and image folders, the Hub, scikit-learn."""

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from sklearn.datasets import load_digits
from transformers import HfArgumentParser

from haba_hf.data import NAMED_DATASETS, DataArguments, load_image_data
from image_sets import CLASS_LABEL, encode, load, pixels_of, rows_of, write_parquet

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
    monkeypatch.setattr("haba_hf.data.decoding.DECODE_BATCH_SIZE", 4)
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


@pytest.mark.parametrize("dataset", ["cifar100", "uoft-cs/cifar100"])
def test_cifar100_has_fine_labels_unless_others_are_asked_for(tmp_path, dataset):
    coarse = datasets.ClassLabel(names=["animal", "thing"])
    for split in ("train", "test"):
        rows = rows_of(4)
        more = {"coarse_label": ([row["label"] // 2 for row in rows], coarse)}
        write_parquet(tmp_path / f"{split}-0.parquet", rows, image_column="img", label_column="fine_label", **more)
    fine = load_image_data(DataArguments(dataset, data_dir=str(tmp_path)))
    assert fine.class_names == ["cat", "dog", "owl"]
    other = load_image_data(DataArguments(dataset, data_dir=str(tmp_path), label_column="coarse_label"))
    assert other.class_names == ["animal", "thing"]
    with pytest.raises(ValueError, match="2 label columns; set label_column"):
        load_image_data(DataArguments("pets", data_dir=str(tmp_path)))


def test_a_named_set_with_one_label_column_of_another_name(folder):
    assert load_image_data(DataArguments("cifar100", data_dir=str(folder))).num_labels == 3


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
        ({"resize": 0}, "resize must be at least 1"),
        ({"max_train_samples": 0}, "max_train_samples must be at least 1"),
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
