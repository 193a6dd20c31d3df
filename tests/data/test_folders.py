"""Folders as users have them: what is a split, what is a class, and that nothing is passed over unsaid."""

import csv
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, load_dataset
from datasets import Image as ImageFeature
from PIL import Image

from haba_hf.data import DataArguments, load_image_data, pixel_store
from haba_hf.data.folders import open_folder
from image_sets import CLASS_LABEL, load, pixels_of, rows_of, write_parquet
from speech_clips import write_clips


def put(folder, classes, count, first=0):
    """`count` pictures in a folder of each class."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(pixels_of(label, first + index)).save(folder / name / f"{index}.png")


def counts(data):
    return [len(split) for split in (data.train, data.validation, data.test) if split is not None]


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "Test"), ("TRAINING", "Testing")])
def test_splits_are_folders_in_any_case(tmp_path, names):
    for name, count in zip(names, (12, 6), strict=True):
        put(tmp_path / "cap" / name, ["cat", "dog"], count)
    data = load(tmp_path / "cap", validation_fraction=0.25)
    assert counts(data) == [18, 6, 12]
    assert not data.notes


@pytest.mark.parametrize("third", ["train", "test", "val"])
def test_a_class_may_bear_the_name_of_a_split(tmp_path, third):
    """Vehicles: bus, car and train. No test image of trains may join the training set."""
    put(tmp_path / "leak" / "train", ["bus", "car", third], 12)
    put(tmp_path / "leak" / "test", ["bus", "car", third], 6, first=100)
    data = load(tmp_path / "leak", validation_fraction=0)
    assert data.class_names == sorted(["bus", "car", third])
    assert counts(data) == [36, 0, 18]
    seen = {image.numpy().tobytes() for image in data.train.images}
    assert not seen & {image.numpy().tobytes() for image in data.test.images}
    put(tmp_path / "flat", ["bus", "car", third], 4)
    assert load(tmp_path / "flat", needs_test=False).class_names == sorted(["bus", "car", third])


def test_names_of_files_say_nothing_of_splits(tmp_path):
    put(tmp_path / "flat", ["cat", "dog"], 12)
    for name in ("cat", "dog"):
        os.rename(tmp_path / "flat" / name / "0.png", tmp_path / "flat" / name / "train-0.png")
    assert counts(load(tmp_path / "flat", needs_test=False, validation_fraction=0)) == [24, 0]


def test_a_folder_whose_path_looks_like_a_pattern(tmp_path):
    put(tmp_path / "a [v1] *" / "train", ["cat", "dog"], 3)
    put(tmp_path / "a [v1] *" / "test", ["cat", "dog"], 2)
    assert counts(load(tmp_path / "a [v1] *", validation_fraction=0)) == [6, 0, 4]


def test_every_folder_is_a_class(tmp_path):
    put(tmp_path / "elsewhere", ["owl"], 3)
    put(tmp_path / "set", ["cat", "__background__"], 3)
    os.symlink(tmp_path / "elsewhere" / "owl", tmp_path / "set" / "owl")
    (tmp_path / "set" / ".cache").mkdir()
    assert load(tmp_path / "set", needs_test=False).class_names == ["__background__", "cat", "owl"]
    (tmp_path / "set" / "emu").mkdir()
    with pytest.raises(ValueError, match=r"emu holds no picture or clip that can be read \(it holds nothing\)"):
        load(tmp_path / "set", needs_test=False)
    (tmp_path / "set" / "emu" / "0.heicx").write_bytes(b"?")
    with pytest.raises(ValueError, match=r"emu holds no picture .* \(it holds \.heicx\): every folder is a class"):
        load(tmp_path / "set", needs_test=False)


def test_what_is_left_out_is_named(tmp_path):
    put(tmp_path / "set" / "train", ["cat", "dog"], 3)
    put(tmp_path / "set" / "test", ["cat"], 3)
    (tmp_path / "set" / "train" / "cat" / "about.txt").write_text("cats")
    (tmp_path / "set" / "train" / "dog" / "puppies").mkdir()
    Image.fromarray(pixels_of(0, 0)).save(tmp_path / "set" / "train" / "stray.png")
    (tmp_path / "set" / "docs").mkdir()
    data = load(tmp_path / "set")
    said = "\n".join(data.notes)
    for part in (
        "docs, which holds",
        "1 files of",
        "(.txt)",
        "the folders inside",
        "1 files that lie in",
        "no class dog",
    ):
        assert part in said, part
    assert all(note in data.summary() for note in data.notes)


def test_pictures_beside_splits_are_refused(tmp_path):
    put(tmp_path / "set" / "train", ["cat", "dog"], 3)
    put(tmp_path / "set", ["extra"], 3)
    with pytest.raises(ValueError, match=r"holds folders of splits \(train\) and beside them extra with files in it"):
        load(tmp_path / "set", needs_test=False)


def test_a_class_of_the_test_split_alone_is_refused(tmp_path):
    put(tmp_path / "set" / "train", ["cat", "dog"], 3)
    put(tmp_path / "set" / "test", ["Cat", "dog"], 3)
    with pytest.raises(ValueError, match=r"test has the class 'Cat', which the training split lacks: .* cat, dog"):
        load(tmp_path / "set")


def test_two_splits_of_one_meaning_are_refused_until_one_is_chosen(tmp_path):
    for name, count in (("train", 3), ("training", 4), ("test", 2)):
        put(tmp_path / "set" / name, ["cat", "dog"], count)
    with pytest.raises(ValueError, match="has the splits train, training: set train_split"):
        load(tmp_path / "set")
    data = load(tmp_path / "set", train_split="training", validation_fraction=0)
    assert counts(data) == [8, 0, 4]
    assert data.notes == ["left out: the splits train"]


def test_archives_and_mixtures_are_told(tmp_path):
    (tmp_path / "zips").mkdir()
    (tmp_path / "zips" / "train.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"holds neither .* \(unpack train\.zip first\)"):
        load(tmp_path / "zips")
    write_clips(tmp_path / "mixed", range(4))
    put(tmp_path / "mixed", ["cat"], 2)
    with pytest.raises(ValueError, match="mixes pictures and sounds"):
        load(tmp_path / "mixed")


# --- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ("Train.parquet", "Test.parquet"),
        ("train_0.parquet", "test_0.parquet"),
        ("train/0000.parquet", "test/0000.parquet"),
        ("plain/train/0000.parquet", "plain/test/0000.parquet"),
        ("training.parquet", "eval.parquet"),
    ],
)
def test_parquet_as_clones_and_exports_have_it(tmp_path, train, test):
    write_parquet(tmp_path / train, rows_of(4))
    write_parquet(tmp_path / test, rows_of(2))
    assert counts(load(tmp_path, validation_fraction=0)) == [12, 0, 6]


def test_configurations_of_a_clone(tmp_path):
    for config, count in (("small", 2), ("large", 4)):
        for split in ("train", "test"):
            write_parquet(tmp_path / config / f"{split}-00000-of-00001.parquet", rows_of(count))
    with pytest.raises(ValueError, match="holds 2 configurations: set dataset_config to one of large, small"):
        load(tmp_path)
    assert counts(load(tmp_path, dataset_config="large", validation_fraction=0)) == [12, 0, 12]
    with pytest.raises(ValueError, match="no configuration 'huge'; it has large, small"):
        load(tmp_path, dataset_config="huge")


def test_other_splits_are_left_out_and_named(tmp_path):
    """SVHN has a split `extra`; a file `train_extra` is not of `train`."""
    for split in ("train", "test", "train_extra", "unlabeled"):
        write_parquet(tmp_path / f"{split}-00000-of-00001.parquet", rows_of(3))
    data = load(tmp_path, validation_fraction=0)
    assert counts(data) == [9, 0, 9]
    assert data.notes == ["left out: the splits train_extra, unlabeled"]
    data = load(tmp_path, train_split="train_extra", test_split="train", validation_fraction=0)
    assert counts(data) == [9, 0, 9]
    with pytest.raises(ValueError, match="no split 'trian' for train_split; its splits are test, train"):
        load(tmp_path, train_split="trian")


def test_what_save_to_disk_wrote(tmp_path):
    columns = {"image": [Image.fromarray(pixels_of(label, 0)) for label in range(3)] * 2, "label": [0, 1, 2] * 2}
    table = Dataset.from_dict(columns, features=Features({"image": ImageFeature(), "label": CLASS_LABEL}))
    DatasetDict(train=table, test=table).save_to_disk(tmp_path / "both")
    data = load(tmp_path / "both", validation_fraction=0)
    assert counts(data) == [6, 0, 6]
    assert torch.equal(data.train.images[1], torch.from_numpy(pixels_of(1, 0)).permute(2, 0, 1))
    table.save_to_disk(tmp_path / "one")
    assert counts(load(tmp_path / "one", needs_test=False, validation_fraction=0)) == [6, 0]
    (tmp_path / "both" / "train" / "state.json").write_text("[]")
    with pytest.raises(ValueError, match="was written by save_to_disk but cannot be read"):
        load(tmp_path / "both")


@pytest.mark.parametrize("layout", ["csv of each split", "jsonl of all"])
def test_metadata_beside_pictures(tmp_path, layout):
    frames = {}
    for split, count in (("train", 4), ("test", 2)):
        put(tmp_path / "made" / split, ["cat", "dog", "owl"], count)
        (tmp_path / "set" / split).mkdir(parents=True)
        rows = []
        for name in CLASS_LABEL.names:
            for index in range(count):
                file = f"{name}{index}.png"
                shutil.copy(tmp_path / "made" / split / name / f"{index}.png", tmp_path / "set" / split / file)
                rows.append({"file_name": file, "label": name})
        frames[split] = rows
    if layout == "csv of each split":
        for split, rows in frames.items():
            with (tmp_path / "set" / split / "metadata.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, ["file_name", "label"])
                writer.writeheader()
                writer.writerows(rows)
    else:
        rows = [{**row, "file_name": f"{split}/{row['file_name']}"} for split in frames for row in frames[split]]
        (tmp_path / "set" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load(tmp_path / "set", validation_fraction=0)
    assert counts(data) == [12, 0, 6]
    assert data.class_names == CLASS_LABEL.names
    theirs = load_dataset("imagefolder", data_dir=str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(table) for split, table in theirs.items()} == {"train": 12, "test": 6}
    pixels = {np.asarray(image.convert("RGB")).tobytes() for image in theirs["train"]["image"]}
    assert pixels == {image.permute(1, 2, 0).numpy().tobytes() for image in data.train.images}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("file_name,label\n../secret.png,cat\n", r"metadata\.csv, row 0: \.\./secret\.png lies outside"),
        ("file_name,label\nnone.png,cat\n", r"metadata\.csv, row 0: there is no file none\.png"),
        ("name,label\nx.png,cat\n", r"metadata\.csv has no column file_name; its columns are name, label"),
        ("", r"metadata\.csv has no column file_name; its columns are none"),
    ],
)
def test_unfit_metadata(tmp_path, content, says):
    (tmp_path / "set").mkdir()
    Image.fromarray(pixels_of(0, 0)).save(tmp_path / "secret.png")
    (tmp_path / "set" / "metadata.csv").write_text(content)
    with pytest.raises(ValueError, match=says):
        load(tmp_path / "set")


@pytest.fixture
def mapped(monkeypatch):
    monkeypatch.setattr(pixel_store, "MOST_BYTES_IN_MEMORY", 0)


def test_large_parquet_files_are_mapped_from_the_cache(tmp_path, mapped):
    """Their folder looks like a pattern."""
    folder = tmp_path / "a [v1] *"
    for number, first in ((0, 0), (1, 3)):
        write_parquet(folder / f"train-{number}.parquet", rows_of(3, first=first))
    table = open_folder(folder).splits["train"]
    assert table.cache_files and table.features["label"] == CLASS_LABEL
    assert table["label"][:] == [0, 1, 2] * 6
    again = open_folder(folder).splits["train"]
    assert (again.cache_files, again._fingerprint) == (table.cache_files, table._fingerprint)
    write_parquet(folder / "train-1.parquet", rows_of(4, first=3))
    assert len(open_folder(folder).splits["train"]) == 21


def test_large_parquet_files_that_do_not_fit_together(tmp_path, mapped):
    write_parquet(tmp_path / "train-0.parquet", rows_of(3))
    write_parquet(tmp_path / "train-1.parquet", rows_of(3), image_column="picture")
    with pytest.raises(
        ValueError, match=r"train-1.parquet has the columns picture, label, and train-0.parquet has image"
    ):
        open_folder(tmp_path)
    Dataset.from_dict({"image": [1.5], "label": [0]}).to_parquet(str(tmp_path / "train-1.parquet"))
    with pytest.raises(ValueError, match=r"the parquet files of .* cannot be read as one table: "):
        open_folder(tmp_path)


def test_large_parquet_files_need_room_once(tmp_path, mapped, monkeypatch):
    write_parquet(tmp_path / "train-0.parquet", rows_of(3))
    free = [100, 10**9, 100]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free[0]))
    with pytest.raises(OSError, match=r"parquet files of .* unpacked, take .*; set HF_DATASETS_CACHE"):
        open_folder(tmp_path)
    for _ in range(2):  # the second time it is there
        free.pop(0)
        open_folder(tmp_path)


def test_a_file_that_is_no_parquet(tmp_path):
    (tmp_path / "train-0.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(ValueError, match=r"train-0\.parquet cannot be read as parquet"):
        load(tmp_path)


def test_a_named_subset_from_parquet(tmp_path):
    """ImageNette as tables whose ClassLabel has the names in another order."""
    names = ["tench", "church", "parachute"]
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-0.parquet", rows_of(3), ClassLabel(names=names))
    data = load_image_data(DataArguments("imagenette", data_dir=str(tmp_path)))
    assert data.class_names == names


# --- what a user is told ---------------------------------------------------------------------------------------------


def test_summary(tmp_path):
    put(tmp_path / "pets" / "train", ["cat", "dog"], 4)
    put(tmp_path / "pets" / "test", ["cat", "dog"], 3)
    assert load(tmp_path / "pets", validation_fraction=0.25).summary() == (
        "pets: 6 training, 2 validation, 6 test images of 3x6x5, 2 classes\n"
        "  of each (training / validation / test): cat 3/1/3, dog 3/1/3"
    )
    put(tmp_path / "many" / "train", [f"c{i}" for i in range(21)], 2)
    assert load(tmp_path / "many", needs_test=False, validation_fraction=0).summary() == (
        "many: 42 training images of 3x6x5, 21 classes\n  of each class 2 to 2 training images"
    )


def test_classes_of_an_artifact_are_matched_by_name(tmp_path):
    put(tmp_path / "pets" / "train", ["cat", "dog", "owl"], 4)
    put(tmp_path / "pets" / "test", ["cat", "dog", "owl"], 3)
    data = load(tmp_path / "pets")
    assert data.with_classes_of(["cat", "dog", "owl"], "it") is data
    turned = data.with_classes_of(["owl", "cat", "dog"], "it")
    assert turned.class_names == ["owl", "cat", "dog"]
    for split, other in ((data.train, turned.train), (data.test, turned.test)):
        assert other.images is split.images
        names = [data.class_names[label] for label in split.labels]
        assert [turned.class_names[label] for label in other.labels] == names
    unnamed = data.with_classes_of(["LABEL_0", "LABEL_1", "LABEL_2"], "it")
    assert torch.equal(unnamed.test.labels, data.test.labels)
    assert unnamed.notes == ["it does not name its classes: they are taken in the order of pets"]
    with pytest.raises(ValueError, match=r"classes of it \(3\) and of pets \(3\) .* pets lacks z_cat; it lacks cat\."):
        data.with_classes_of(["dog", "owl", "z_cat"], "it")
    with pytest.raises(ValueError, match=r"classes of it \(2\) and of pets \(3\) are not the same: it lacks owl"):
        data.with_classes_of(["cat", "dog"], "it")
