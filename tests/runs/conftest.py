"""Pictures of three classes, and recipes that fit them."""

import datasets
import numpy as np
import pytest
from PIL import Image

from haba_hf.recipes import parse_recipe

CLASS_COLORS = {"green tea": (60, 190, 70), "lava": (210, 60, 30), "sky": (70, 120, 230)}


@pytest.fixture
def own_datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def write_pictures(folder, images_per_class, seed):
    """Noisy 12x10 RGB pictures of three classes, told apart by their color."""
    random = np.random.default_rng(seed)
    for name, color in CLASS_COLORS.items():
        (folder / name).mkdir(parents=True)
        for index in range(images_per_class):
            pixels = np.clip(np.array(color) + random.normal(0, 25, size=(12, 10, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")


@pytest.fixture
def recipe_of(tmp_path, own_datasets_cache):
    """Makes the pictures and gives recipes that fit them, with some fields changed."""
    write_pictures(tmp_path / "pictures" / "train", 8, seed=0)
    write_pictures(tmp_path / "pictures" / "test", 5, seed=1)
    fields = {
        "dataset": tmp_path / "pictures",
        "validation_fraction": 0.25,
        "resize": 8,
        "bases_per_class": 1,
        "num_hallucinators": 2,
        "network_depth": 2,
        "network_width": 8,
        "steps": 5,
        "checkpoint_every": 2,
        "real_batch_size": 6,
        "dsa": "color_crop_cutout_scale_rotate",
        "evaluation_dsa": "none",
        "evaluation_seeds": 2,
        "student_epochs": 40,
        "real_student_epochs": 10,
        "report_to": "none",
        "output_dir": tmp_path / "run",
    }

    def recipe(**changes):
        words = [(f"--{name}", str(value)) for name, value in (fields | changes).items()]
        return parse_recipe([word for pair in words for word in pair])

    return recipe
