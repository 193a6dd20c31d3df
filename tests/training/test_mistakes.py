"""A mistake in a script's settings is told in one line, before any work."""

import datasets
import pytest
from PIL import Image

from haba_hf import HabaImageProcessor, HabaModel
from training_scripts import DM, MTT, NETWORK, TO


def test_hallucinators_in_a_coreset(error_of, tmp_path):
    line = error_of("select_coreset.py", "--coreset", "herding", "--output_dir", tmp_path / "run")
    assert "A coreset is real images with their labels" in line
    assert "set num_hallucinators to 0" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["record_experts.py", "select_coreset.py", "distill.py", "evaluate.py", "train_student.py"]
)
def test_unknown_field_names_the_nearest(name, error_of, tmp_path):
    line = error_of(name, "--basis_per_class", "1")
    assert line == "error: command line: unknown field 'basis_per_class'; did you mean 'bases_per_class'?"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("objectiv: dm\n")
    line = error_of(name, recipe)
    assert line == f"error: {recipe}: unknown field 'objectiv'; did you mean 'objective'?"


@pytest.mark.parametrize("name", ["record_experts.py", "distill.py"])
def test_unknown_data_set_names_the_nearest(name, error_of, tmp_path):
    line = error_of(name, "--dataset", "fashion-mnist", "--experts_dir", tmp_path / "experts", *TO, tmp_path / "run")
    assert "Unknown data set 'fashion-mnist'" in line
    assert "did you mean 'fashion_mnist'?" in line
    assert list(tmp_path.iterdir()) == []


def test_data_without_a_label_column(error_of, tmp_path):
    folder = tmp_path / "data"
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.Value("int64")})
    rows = datasets.Dataset.from_dict({"picture": [Image.new("L", (8, 8))], "kind": [0]}, features=features)
    folder.mkdir()
    for split in ("train", "test"):
        rows.to_parquet(folder / f"{split}.parquet")
    line = error_of("distill.py", "--dataset", folder, *TO, tmp_path / "run")
    assert "set label_column to one of its columns picture (Image), kind (Value)" in line
    line = error_of("distill.py", "--dataset", folder, "--label_column", "class", *TO, tmp_path / "run")
    assert "no column 'class'" in line
    assert "kind (Value)" in line


def test_experts_missing_of_another_network_or_too_short(run_here, error_of, tmp_path):
    shared = [*NETWORK, *MTT, "--experts_dir", tmp_path / "experts", "--num_experts", "1"]
    line = error_of("distill.py", *shared, *TO, tmp_path / "run")
    assert f"{tmp_path / 'experts'} holds 0 of the 1 experts (num_experts): record them" in line

    run_here("record_experts.py", *shared)
    for script in ("distill.py", "record_experts.py"):
        line = error_of(script, *shared, "--network_width", "8", *TO, tmp_path / "run")
        assert "recorded with another network" in line
        assert "choose another experts_dir" in line
        line = error_of(script, *shared, "--data_seed", "1", *TO, tmp_path / "run")
        assert "recorded with another data" in line
    line = error_of("distill.py", *shared, "--max_start", "3", *TO, tmp_path / "run")
    assert "The experts hold 3 snapshots, but max_start + expert_span = 4" in line
    expert = tmp_path / "experts" / "expert-0000.safetensors"
    expert.write_bytes(expert.read_bytes()[:-8])
    line = error_of("distill.py", *shared, *TO, tmp_path / "run")
    assert f"{expert} is damaged" in line
    assert not (tmp_path / "run").exists()


def test_too_few_images_for_the_bases(error_of, tmp_path):
    line = error_of("distill.py", *DM, "--bases_per_class", "200", *TO, tmp_path / "run")
    assert "Class '0' has 128 training images, fewer than the 200 asked for: lower bases_per_class" in line


@pytest.mark.parametrize("num_hallucinators", [0, 5])
def test_images_too_small_for_the_network(num_hallucinators, error_of, tmp_path):
    options = [*DM, "--network_depth", "4", "--num_hallucinators", num_hallucinators]
    line = error_of("distill.py", *options, *TO, tmp_path / "run")
    assert "too often for 8x8 images: use network_depth 3 or less, or resize the images" in line


@pytest.mark.parametrize("name", ["evaluate.py", "train_student.py"])
def test_artifact_missing_damaged_or_of_other_data(name, error_of, tmp_path):
    line = error_of(name, *DM, *TO, tmp_path)
    assert f"There is no artifact in {tmp_path}: run haba distill with the same recipe" in line

    config = HabaModel.config_class(num_labels=10, sample_channels=1, sample_height=8, sample_width=8)
    artifact = tmp_path / "artifact"
    HabaModel(config).save_pretrained(artifact)
    size = {"height": 8, "width": 8}
    HabaImageProcessor(size, num_channels=1, image_mean=[0.3], image_std=[0.4]).save_pretrained(artifact)
    line = error_of(name, *DM, "--resize", "16", *TO, tmp_path)
    assert "is of samples [1, 8, 8] (C, H, W), but digits has images [1, 16, 16]" in line
    weights = artifact / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    line = error_of(name, *DM, *TO, tmp_path)
    assert f"The safetensors file of {artifact} is cut off" in line


@pytest.mark.parametrize("name", ["record_experts.py", "select_coreset.py", "distill.py"])
def test_unwritable_output(name, error_of, tmp_path):
    (tmp_path / "file").write_text("in the way")
    place = tmp_path / "file" / "run"
    line = error_of(name, *DM, "--num_hallucinators", "0", "--experts_dir", place, *TO, place)
    assert f"Cannot write {place}" in line
