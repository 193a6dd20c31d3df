"""Sets in the layouts of released code: out and in again bit for bit, and what is refused on the way."""

import json

import numpy as np
import pytest
import torch
import yaml

from haba_hf import published_artifact
from haba_hf.cli import main
from haba_hf.data import DataArguments, load_image_data
from haba_hf.hub import export_artifact, push_artifact, read_artifact, render_model_card
from haba_hf.hub.released import read_released, write_released
from haba_hf.recipes import parse_recipe
from haba_hf.runs import evaluate, import_released
from speech_clips import write_clips
from tiny import tiny_accelerator

DIGITS = published_artifact("digits-dm-1pc")


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The samples of an artifact as others would release them: 50 images, 5 of each class."""
    return write_released(read_artifact(DIGITS), tmp_path_factory.mktemp("released") / "mtt")


def imported(files, folder, **settings):
    return import_released(*files, folder, **{"dataset": "digits"} | settings)


def files_of(folder):
    return folder / "images_best.pt", folder / "labels_best.pt"


def test_out_and_in_again_bit_for_bit(released, tmp_path):
    model = read_artifact(DIGITS).model
    images, labels = map(torch.load, files_of(released))
    output = model.materialize()
    assert torch.equal(images, output["samples"]) and torch.equal(labels, output["labels"])
    assert torch.load(released / "lr_best.pt") == model.student_learning_rate
    about = json.loads((released / "about.json").read_text())
    assert about["class_names"] == list("0123456789") and about["image_mean"] and about["student_training"]

    artifact = read_artifact(imported(files_of(released), tmp_path / "theirs", learning_rate=0.02))
    config, again = artifact.model.config, artifact.model.materialize()
    assert (config.bases_per_class, config.num_hallucinators, config.label_kind) == (5, 0, "hard")
    assert artifact.model.student_learning_rate.item() == pytest.approx(0.02)
    order = labels.argsort(stable=True)
    assert torch.equal(again["samples"], images[order]) and torch.equal(again["labels"], labels[order])


def test_it_is_evaluated_drawn_and_published_as_ours(released, tmp_path):
    path = imported(files_of(released), tmp_path / "theirs")
    words = ["--student_epochs", "60", "--evaluation_seeds", "1", "--references", "none", "--network_width", "32"]
    rows = evaluate(parse_recipe([str(path / "recipe.yaml"), *words]), tiny_accelerator())
    assert rows[0].system == "imported, images_best.pt, labels_best.pt (layout mtt)"
    assert rows[0].accuracy.mean > 0.4, "of ten classes"
    assert (path / "gallery.png").is_file()
    card = render_model_card(read_artifact(path), "me/theirs")
    assert "## Where it is from" in card and "These samples were distilled elsewhere" in card
    assert "| imported from |" in card
    assert "| objective |" not in card and "How it was distilled" not in card
    exported = export_artifact(path, tmp_path / "exported", include_code=False)
    assert read_artifact(exported).rows[0].accuracy == rows[0].accuracy
    assert not [file.name for file in exported.iterdir() if file.suffix == ".pt"]


def test_a_folder_with_pickles_is_not_pushed(released):
    with pytest.raises(ValueError, match="is a pickle"):
        push_artifact(released, "me/pickles")


def test_every_layout_gives_the_same(released, tmp_path):
    images, labels = map(torch.load, files_of(released))
    torch.save({"data": [[images, labels], [images + 1, labels]], "accs": {"ConvNet": [0.5]}}, tmp_path / "dc.pt")
    torch.save([images, labels], tmp_path / "idc.pt")
    np.savez(tmp_path / "set.npz", images=images.numpy(), labels=labels.numpy())
    for layout, name in (("dc", "dc.pt"), ("idc", "idc.pt"), ("npz", "set.npz")):
        found = read_released(tmp_path / name, None, layout)
        assert torch.equal(found.images, images) and torch.equal(found.labels, labels)
        assert found.notes == (["of 2 experiments the first was taken"] if layout == "dc" else [])


def test_spaces_and_orders_lead_to_the_same_artifact(tmp_path):
    """Bytes, pixels in [0, 1], and values normalized otherwise, all with classes in another order."""
    data = load_image_data(DataArguments("digits"))
    pixels = data.train.images[torch.cat([data.train.of_class(label)[:2] for label in range(10)])]
    torch.save(9 - torch.arange(10).repeat_interleave(2), tmp_path / "labels.pt")
    values = {
        "bytes": (pixels, {}),
        "unit": (pixels / 255, {"space": "unit"}),
        "otherwise": ((pixels / 255 - 0.25) / 0.5, {"mean": [0.25], "std": [0.5]}),
    }
    for name, (images, settings) in values.items():
        torch.save(images, tmp_path / f"{name}.pt")
        files = tmp_path / f"{name}.pt", tmp_path / "labels.pt"
        path = imported(files, tmp_path / name, class_names=list("9876543210"), **settings)
        expected = data.processor.normalize(pixels)
        torch.testing.assert_close(read_artifact(path).model.bases.detach(), expected, atol=1e-5, rtol=1e-5)


def test_soft_labels_stay_probabilities(released, tmp_path):
    images, labels = map(torch.load, files_of(released))
    soft = 0.7 * torch.nn.functional.one_hot(labels, 10) + 0.03
    torch.save(soft, tmp_path / "soft.pt")
    model = read_artifact(imported((files_of(released)[0], tmp_path / "soft.pt"), tmp_path / "theirs")).model
    order = labels.argsort(stable=True)
    assert model.config.label_kind == "soft" and torch.equal(model.bases, images[order])
    torch.testing.assert_close(model.labels, soft[order], atol=1e-5, rtol=1e-4)
    assert model.storage().parts["labels"] == 500


class Harmful:
    def __reduce__(self):
        return (print, ("this code was run",))


IMAGES, LABELS = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(10).repeat(2)


@pytest.mark.parametrize(
    ("images", "labels", "settings", "message"),
    [
        (IMAGES.sigmoid(), LABELS, {}, "pixels that are not normalized: is the space unit"),
        (IMAGES, LABELS, {"space": "unit"}, "is the space normalized"),
        (255 * IMAGES.sigmoid(), LABELS, {}, "no normalized pixels are"),
        (IMAGES.expand(-1, 3, -1, -1), LABELS, {}, "3x8x8, those of digits of 1x8x8"),
        (IMAGES * torch.nan, LABELS, {}, "no finite numbers"),
        (IMAGES.flatten(1), LABELS, {}, r"expected images \[N, C, H, W\]"),
        (Harmful(), LABELS, {}, "which is all that is read here"),
        ([1, 2], LABELS, {}, "tensors in every layout"),
        (IMAGES, torch.arange(20), {}, "Labels are from 0 to 19, digits has classes 0 to 9"),
        (IMAGES, torch.zeros(20).long(), {}, "this set 0 to 20: leave some out"),
        (IMAGES, torch.nn.functional.one_hot(LABELS, 10) * 9.0, {}, "apply softmax"),
        (IMAGES, torch.nn.functional.one_hot(LABELS, 12) * 1.0, {}, "Labels are of 12 classes, digits has 10"),
        (IMAGES, torch.full((20,), 0.5), {}, "labels are whole numbers"),
        (IMAGES, torch.arange(19), {}, "expected images"),
        (IMAGES, LABELS, {"class_names": ["a"] * 10}, "those of digits 0, 1, .*: call them alike"),
        (IMAGES, LABELS, {"mean": [0.1, 0.2], "std": [1.0, 1.0]}, "one number for each of 1 channels"),
        (IMAGES, LABELS, {"layout": "zip"}, "There is no layout 'zip'"),
        (IMAGES, LABELS, {"layout": "idc"}, "leave labels out"),
    ],
)
def test_what_is_refused_leaves_nothing(tmp_path, capsys, images, labels, settings, message):
    files = tmp_path / "images.pt", tmp_path / "labels.pt"
    for file, values in zip(files, (images, labels), strict=True):
        torch.save(values, file)
    with pytest.raises(ValueError, match=message):
        imported(files, tmp_path / "theirs", **settings)
    assert not (tmp_path / "theirs" / "artifact").exists()
    assert "this code was run" not in capsys.readouterr().out


def test_from_the_command_line(tmp_path, capsys):
    main(["export", str(DIGITS), str(tmp_path / "out"), "--layout", "mtt"])
    assert "images_best.pt, labels_best.pt, lr_best.pt" in capsys.readouterr().out
    words = ["import", f"{tmp_path}/out/images_best.pt", str(tmp_path / "theirs"), "--dataset", "digits"]
    main([*words, "--labels", f"{tmp_path}/out/labels_best.pt", "--json"])
    assert json.loads(capsys.readouterr().out) == {"artifact": str(tmp_path / "theirs" / "artifact")}
    recipe = yaml.safe_load((tmp_path / "theirs" / "artifact" / "recipe.yaml").read_text())
    assert (recipe["bases_per_class"], recipe["num_hallucinators"]) == (5, 0)
    with pytest.raises(SystemExit):
        main([*words, "--labels", f"{tmp_path}/out/labels_best.pt"])
    assert "is there already: choose another folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["import", str(tmp_path / "nothing.pt"), str(tmp_path / "x"), "--layout", "dc", "--dataset", "digits"])
    assert "There is no file" in capsys.readouterr().err


def test_spectrograms_are_imported_as_they_are_and_never_as_pixels(tmp_path):
    """Two clips of each of two words, in the space of their processor; as bytes they would be pictures."""
    data_dir = write_clips(tmp_path / "clips", range(10))
    data = load_image_data(DataArguments("words", data_dir=str(data_dir)), needs_test=False)
    rows = torch.cat([data.train.of_class(label)[:1] for label in range(data.num_labels)])
    samples = data.processor.normalize(data.train.images[rows])
    torch.save(torch.arange(data.num_labels), tmp_path / "labels.pt")
    for name, images in {"floats": samples, "bytes": samples.to(torch.uint8)}.items():
        torch.save(images, tmp_path / f"{name}.pt")
    settings = {"dataset": "words", "data_dir": str(data_dir)}
    path = imported((tmp_path / "floats.pt", tmp_path / "labels.pt"), tmp_path / "theirs", **settings)
    assert torch.equal(read_artifact(path).model.bases.detach(), samples)
    for name, space in (("bytes", "normalized"), ("floats", "unit")):
        with pytest.raises(ValueError, match="whose spectrograms are no pixels"):
            imported((tmp_path / f"{name}.pt", tmp_path / "labels.pt"), tmp_path / name, space=space, **settings)


def test_the_rate_beside_the_samples_is_that_of_the_students_measured(tmp_path):
    artifact = read_artifact(DIGITS)
    artifact.model.config.student_training["evaluation_learning_rate"] = 0.03
    folder = write_released(artifact, tmp_path / "mtt")
    assert torch.load(folder / "lr_best.pt").item() == pytest.approx(0.03)
