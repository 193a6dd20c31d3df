"""A distilled set as a folder of pictures: out, read by datasets, in again, and what is refused on the way."""

import csv
import json
import shutil

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from haba_hf import HabaModel, published_artifact
from haba_hf.cli import main
from haba_hf.coresets import plain_artifact, real_images_config
from haba_hf.data import DataArguments, load_image_data
from haba_hf.evaluation import EvaluationArguments, evaluate_artifact
from haba_hf.hub import push_artifact, read_artifact
from haba_hf.hub.pictures import class_folders, read_pictures, write_pictures
from haba_hf.networks import NetworkArguments
from haba_hf.runs import import_released
from tiny import tiny_accelerator, tiny_data, tiny_model

DIGITS = published_artifact("digits-dm-1pc")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The samples of an artifact of 1 basis per class and 5 hallucinators."""
    return write_pictures(read_artifact(DIGITS), tmp_path_factory.mktemp("pictures") / "digits")


def table_of(folder):
    with (folder / "metadata.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_every_picture_is_its_sample_at_8_bits(pictures):
    artifact = read_artifact(DIGITS)
    output, rows = artifact.model.materialize(), table_of(pictures)
    assert list(rows[0]) == ["file_name", "label", "class", "basis", "hallucinator"]
    assert len(rows) == len(list(pictures.rglob("*.png"))) == 50
    mean, std = artifact.processor.image_mean[0], artifact.processor.image_std[0]
    for i, row in enumerate(rows):
        expected = np.rint((output.samples[i, 0].numpy() * std + mean).clip(0, 1) * 255)
        assert np.array_equal(np.asarray(Image.open(pictures / row["file_name"])), expected)
        ids = [output.labels[i], output.basis_ids[i], output.hallucinator_ids[i]]
        assert [int(row[name]) for name in ("label", "basis", "hallucinator")] == [int(of) for of in ids]
        assert row["file_name"] == f"{row['class']}/{1 + i % 5}.png" and row["class"] == row["label"]


def test_datasets_reads_it(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(pictures), split="train")
    assert set(loaded.column_names) == {"image", "label", "class", "basis", "hallucinator"}
    rows = table_of(pictures)
    assert sorted(loaded["basis"][:]) == sorted(int(row["basis"]) for row in rows)
    assert loaded[0]["image"].size == (8, 8)


def test_out_in_and_evaluated_is_as_good_as_the_8_bit_pixels(pictures, tmp_path):
    data, artifact = load_image_data(DataArguments("digits")), read_artifact(DIGITS)
    output = artifact.model.materialize()
    bits = (data.processor.denormalize(output.samples) * 255).round().to(torch.uint8)
    order = output.labels.argsort(stable=True)
    expected = plain_artifact(data.processor.normalize(bits)[order], real_images_config(data, 5))
    with_csv = import_released(pictures, None, tmp_path / "with", dataset="digits", layout="folder")
    plain = shutil.copytree(pictures, tmp_path / "plain", ignore=shutil.ignore_patterns("metadata.csv"))
    without = import_released(plain, None, tmp_path / "without", dataset="digits", layout="folder")
    args = EvaluationArguments(evaluation_seeds=2, student_epochs=60, evaluation_dsa="none")
    common = (data.test, data.processor, NetworkArguments(network_depth=2, network_width=16), args, 0)
    accuracies = [
        evaluate_artifact(model, *common, tiny_accelerator()).accuracies
        for model in (expected, read_artifact(with_csv).model, read_artifact(without).model)
    ]
    assert accuracies[0] == accuracies[1] == accuracies[2] and min(accuracies[0]) > 0.4
    origin = json.loads((with_csv / "distillation.json").read_text())
    assert origin["imported"] == "digits (layout folder)" and len(origin["imported_sha256"]) == 16
    assert origin["imported_sha256"] != json.loads((without / "distillation.json").read_text())["imported_sha256"]


def test_a_folder_of_pictures_is_not_pushed(pictures):
    with pytest.raises(FileNotFoundError, match="is no whole artifact"):
        push_artifact(pictures, "me/pictures")


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["great white shark", "t-shirt/top"], ["great_white_shark", "t-shirt_top"]),
        (["../..", "/etc"], ["_____", "_etc"]),
        (["a/b", "a_b", "0_a_b"], ["0_a_b", "1_a_b", "2_0_a_b"]),
        (["Polish", "polish", "été"], ["0_Polish", "1_polish", "2_été"]),
        (["", "x" * 300], ["_", "x" * 80]),
    ],
)
def test_folders_have_safe_names_that_differ(names, folders):
    assert class_folders(names) == folders


def test_classes_of_any_name_come_back(tmp_path):
    """Through the names themselves in the table, and without it through those of the folders."""
    data = tiny_data(num_labels=3)
    data.class_names = ["b, \n'c'", "../x", "A/1"]
    names = dict(enumerate(data.class_names))
    model = tiny_model(data, id2label=names, label2id={name: label for label, name in names.items()})
    model.save_pretrained(tmp_path / "artifact")
    data.processor.save_pretrained(tmp_path / "artifact")
    folder = write_pictures(read_artifact(tmp_path / "artifact"), tmp_path / "pictures")
    _, labels, _, found = read_pictures(folder)
    assert found == sorted(data.class_names)
    assert [found[label] for label in labels] == [data.class_names[label] for label in model.materialize().labels]
    (folder / "metadata.csv").unlink()
    assert read_pictures(folder)[3] == sorted(class_folders(data.class_names))


def test_grey_pictures_are_of_data_in_color(tmp_path, monkeypatch):
    data = tiny_data(num_labels=2)
    monkeypatch.setattr("haba_hf.runs.importing.training_data", lambda *_, **__: data)
    for name in data.class_names:
        (tmp_path / "grey" / name).mkdir(parents=True)
        Image.new("L", (8, 8), 100).save(tmp_path / "grey" / name / "1.png")
    path = import_released(tmp_path / "grey", None, tmp_path / "out", dataset="tiny", layout="folder")
    expected = data.processor.normalize(torch.full((2, 3, 8, 8), 100, dtype=torch.uint8))
    assert torch.equal(HabaModel.from_pretrained(path).bases, expected)


def test_what_a_folder_has_no_place_for_is_refused(tmp_path):
    data = tiny_data()
    for name, settings, message in (
        ("soft", {"label_kind": "soft"}, "labels are probabilities"),
        ("steps", {"num_step_sizes": 4}, "steps of learned sizes"),
    ):
        tiny_model(data, num_hallucinators=0, **settings).save_pretrained(tmp_path / name)
        data.processor.save_pretrained(tmp_path / name)
        with pytest.raises(ValueError, match=message):
            write_pictures(read_artifact(tmp_path / name), tmp_path / "out")
    with pytest.raises(ValueError, match="haba listen writes them"):
        write_pictures(read_artifact(published_artifact("speech_commands-dm-9pc")), tmp_path / "out")
    with pytest.raises(ValueError, match="is not empty"):
        write_pictures(read_artifact(DIGITS), tmp_path)
    assert not (tmp_path / "out").exists()


def picture(folder, name, side=8):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (side, side)).save(folder / name)


def test_folders_that_are_none_are_refused(tmp_path):
    def importing(folder, **settings):
        import_released(folder, None, tmp_path / "x", **{"dataset": "digits", "layout": "folder"} | settings)

    with pytest.raises(ValueError, match="There is no folder"):
        importing(tmp_path / "nothing")
    picture(tmp_path / "words", "zero/1.png")
    with pytest.raises(ValueError, match=r"The classes are zero, those of digits 0, 1, .*: call them alike"):
        importing(tmp_path / "words")
    picture(tmp_path / "sizes", "0/1.png")
    picture(tmp_path / "sizes", "0/2.png", side=9)
    with pytest.raises(ValueError, match="9x9 while others are 8x8; set resize, or bring them to one size"):
        importing(tmp_path / "sizes")
    for split in ("train", "test"):
        picture(tmp_path / "splits", f"{split}/0/1.png")
    with pytest.raises(ValueError, match="of one split: name the folder of those"):
        importing(tmp_path / "splits")
    picture(tmp_path / "table", "1.png")
    (tmp_path / "table" / "metadata.csv").write_text("file_name,text\n1.png,a\n")
    with pytest.raises(ValueError, match="neither a column class nor label"):
        importing(tmp_path / "table")
    with pytest.raises(ValueError, match="leave labels out"):
        import_released(tmp_path / "words", "labels.pt", tmp_path / "x", dataset="digits", layout="folder")
    assert not (tmp_path / "x").exists()


def test_from_the_command_line(tmp_path, capsys):
    main(["export", str(DIGITS), str(tmp_path / "out"), "--layout", "folder"])
    assert "is written: 0, 1, 2, 3, 4, and 6 more" in capsys.readouterr().out
    main(["import", str(tmp_path / "out"), str(tmp_path / "theirs"), "--layout", "folder", "--dataset", "digits"])
    assert read_artifact(tmp_path / "theirs" / "artifact").model.config.bases_per_class == 5
