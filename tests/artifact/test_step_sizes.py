"""Step sizes as part of the artifact: stored, counted, saved and loaded with it."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from haba_hf import HabaConfig, HabaModel
from haba_hf.artifact.budget import equal_storage_images_per_class

SIZES = {"num_labels": 3, "bases_per_class": 2, "sample_height": 4, "sample_width": 6}


def test_they_start_at_the_student_learning_rate():
    for alpha in (1e-4, 0.02, 1, 30.0):
        model = HabaModel(HabaConfig(**SIZES, num_step_sizes=4, student_learning_rate=alpha))
        torch.testing.assert_close(model.step_sizes, torch.full((4,), float(alpha)), rtol=1e-5, atol=0)
    assert HabaModel(HabaConfig(**SIZES)).step_sizes is None
    assert "raw_step_sizes" not in HabaModel(HabaConfig(**SIZES)).state_dict()


def test_they_stay_positive():
    model = HabaModel(HabaConfig(**SIZES, num_step_sizes=2, student_learning_rate=0.001))
    model.raw_step_sizes.data.sub_(50)
    assert (model.step_sizes > 0).all()
    model.step_sizes.sum().backward()
    assert model.raw_step_sizes.grad.isfinite().all()


def test_shares_take_turns():
    model = HabaModel(HabaConfig(**SIZES, num_step_sizes=4))
    assert [model.share(step).tolist() for step in range(4)] == [[0, 2, 4], [1, 3, 5], [0, 2, 4], [1, 3, 5]]
    assert model.class_ids[model.share(3)].tolist() == [0, 1, 2]
    formed = HabaModel(HabaConfig(**SIZES, num_step_sizes=4, formation_factor=2, formation_axes="time"))
    assert formed.share(1).tolist() == [2, 3, 6, 7, 10, 11], "both halves of bases 1, 3 and 5"


def test_storage_counts_them():
    plain, scheduled = HabaConfig(**SIZES), HabaConfig(**SIZES, num_step_sizes=6)
    report = HabaModel(scheduled).storage()
    assert report.parts["step_sizes"] == 6
    assert report.floats == scheduled.num_floats == plain.num_floats + 6 == HabaModel(plain).storage().floats + 6
    assert sum(parameter.numel() for parameter in HabaModel(scheduled).parameters()) == report.floats
    assert "step_sizes" not in HabaModel(plain).storage().parts
    pixels = HabaConfig(**SIZES, num_hallucinators=0, num_step_sizes=6)
    assert equal_storage_images_per_class(pixels) == 2


@pytest.mark.parametrize("load", [HabaModel, AutoModel])
def test_saved_and_loaded_bit_for_bit(tmp_path, load):
    model = HabaModel(HabaConfig(**SIZES, num_step_sizes=4))
    model.raw_step_sizes.data.copy_(torch.randn(4))
    model.save_pretrained(tmp_path)
    loaded = load.from_pretrained(tmp_path)
    assert torch.equal(loaded.step_sizes, model.step_sizes)
    assert AutoConfig.from_pretrained(tmp_path).num_step_sizes == 4
    assert loaded.storage() == model.storage()


def test_a_file_without_them_is_refused(tmp_path):
    HabaModel(HabaConfig(**SIZES, num_step_sizes=4)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["raw_step_sizes"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 missing \(raw_step_sizes\)"):
        HabaModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("number", [-2, 3])
def test_whole_passes_over_the_bases(number):
    with pytest.raises(
        ValueError, match=f"multiple of bases_per_class, whole passes over the bases, got {number} for"
    ):
        HabaConfig(**SIZES, num_step_sizes=number)
