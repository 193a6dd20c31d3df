"""To a folder and back: bit for bit, in other types, by remote code, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, ResNetConfig, ResNetModel

from haba_hf import HabaModel
from naive_artifact import KINDS, each_kind, make_model, scramble


@each_kind
def test_save_and_load_are_bit_exact(kind, tmp_path):
    model = scramble(make_model(**KINDS[kind]))
    model.save_pretrained(tmp_path)
    for loaded in (HabaModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert type(loaded) is HabaModel
        assert not loaded.training
        assert loaded.config.to_diff_dict() == model.config.to_diff_dict()
        assert list(loaded.state_dict()) == list(model.state_dict())
        for name, tensor in model.state_dict().items():
            assert loaded.state_dict()[name].dtype == tensor.dtype
            assert torch.equal(loaded.state_dict()[name], tensor), name
        output, expected = loaded(), model()
        assert torch.equal(output.samples, expected.samples)
        assert torch.equal(output.labels, expected.labels)


def test_the_file_holds_the_floats_of_the_report(tmp_path):
    model = make_model(label_kind="soft")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point()) == model.storage().floats
    assert not list(tmp_path.glob("*.bin"))


def test_one_file_and_state_dicts(tmp_path):
    model = scramble(make_model())
    model.save_pretrained(tmp_path, max_shard_size="2KB")
    assert not list(tmp_path.glob("model-*")) and not list(tmp_path.glob("*index*"))
    assert torch.equal(HabaModel.from_pretrained(tmp_path)().samples, model().samples)
    loaded = HabaModel.from_pretrained(None, config=model.config, state_dict=model.state_dict())
    assert torch.equal(loaded().samples, model().samples)


def test_bfloat16(tmp_path):
    model = scramble(make_model(label_kind="soft"))
    model.save_pretrained(tmp_path)
    half = HabaModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert half.class_ids.dtype == torch.long
    assert half.class_ids.tolist() == [0, 0, 1, 1, 2, 2]
    torch.testing.assert_close(half.bases.float(), model.bases, rtol=2**-8, atol=0)
    assert half().samples.dtype == torch.bfloat16
    half.save_pretrained(tmp_path / "half")
    again = HabaModel.from_pretrained(tmp_path / "half")
    assert torch.equal(again.bases, half.bases)
    assert again.bases.dtype == torch.bfloat16
    dataset = again.to_dataset().with_format("numpy")
    assert np.array_equal(dataset["pixel_values"][:], again().samples.detach().float().numpy())
    assert np.array_equal(dataset["labels"][:], again().labels.detach().float().numpy())


def test_runs_under_autocast():
    model = make_model()
    with torch.autocast("cpu", torch.bfloat16):
        output = model()
    torch.testing.assert_close(output.samples.float(), model().samples, rtol=0.05, atol=0.05)


REMOTE_PROBE = """
    import importlib.util, sys

    blocked = {"haba_hf", "datasets", "accelerate", "sklearn", "matplotlib", "torchvision", "torchaudio"}

    class Without:
        def __init__(self, finder):
            self.finder = finder

        def find_spec(self, name, path=None, target=None):
            return None if name.split(".")[0] in blocked else self.finder.find_spec(name, path, target)

        def __getattr__(self, name):
            return getattr(self.finder, name)

    sys.meta_path = [Without(finder) for finder in sys.meta_path]
    assert all(importlib.util.find_spec(name) is None for name in blocked)

    from safetensors.torch import save_file
    from transformers import AutoModel

    try:
        AutoModel.from_pretrained("artifact", trust_remote_code=False)
    except ValueError as error:
        print("refused:", "trust_remote_code" in str(error))
    model = AutoModel.from_pretrained("artifact", trust_remote_code=True)
    print("class:", type(model).__module__.split(".")[0], type(model).__name__)
    output = model.materialize()
    save_file({**model.state_dict(), "samples": output.samples, "labels": output.labels}, "loaded.safetensors")
    for convert in (model.to_dataset, model.to_iterable_dataset):
        try:
            convert()
        except ImportError as error:
            print("import error:", error)
    open("cut/model.safetensors", "r+b").truncate(300)
    try:
        AutoModel.from_pretrained("cut", trust_remote_code=True)
    except ValueError as error:
        print("cut:", error)
    model.save_pretrained("again")
    print("leaked:", sorted(blocked & set(sys.modules)))
"""


def test_loads_with_remote_code_where_only_transformers_is_installed(tmp_path):
    model = scramble(make_model(hallucinator_depth=2, label_kind="soft"))
    model.save_pretrained(tmp_path / "artifact")
    shutil.copytree(tmp_path / "artifact", tmp_path / "cut")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    environment["HF_MODULES_CACHE"] = str(tmp_path / "modules")
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(REMOTE_PROBE)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "refused: True" in result.stdout
    assert "class: transformers_modules HabaModel" in result.stdout
    assert result.stdout.count("pip install datasets") == 2
    assert "cut: The safetensors file of cut is cut off" in result.stdout
    assert "leaked: []" in result.stdout
    assert (tmp_path / "again" / "modeling_haba.py").exists()
    loaded = load_file(tmp_path / "loaded.safetensors")
    for name, tensor in {**model.state_dict(), "labels": model().labels}.items():
        assert torch.equal(loaded[name], tensor), name
    torch.testing.assert_close(loaded["samples"], model().samples)


@pytest.fixture
def saved(tmp_path):
    """A scrambled model's folder, and a function that writes other tensors there."""
    model = scramble(make_model(label_kind="soft", share_encoder_decoder=False))
    model.save_pretrained(tmp_path)

    def rewrite(tensors):
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        return tmp_path

    return model, tmp_path, rewrite


def test_what_is_missing_is_refused_or_initialized_on_request(saved):
    model, path, rewrite = saved
    tensors = load_file(path / "model.safetensors")
    fresh = make_model(label_kind="soft")
    bound = 27**-0.5
    for name in list(tensors):
        rewrite({key: value for key, value in tensors.items() if key != name})
        with pytest.raises(ValueError, match=rf"does not hold the weights of this haba config: 1 missing \({name}\)"):
            HabaModel.from_pretrained(path)
        loaded, report = HabaModel.from_pretrained(path, output_loading_info=True)
        assert report["missing_keys"] == {name}
        state = loaded.state_dict()
        if name == "bases":
            assert 0.8 < state[name].std() < 1.2
            assert state[name].abs().max() < 6
        elif name.endswith(("weight", "bias")):
            assert 0 < state[name].abs().max() <= bound, name
        else:
            assert torch.equal(state[name], fresh.state_dict()[name]), name
        for other, value in model.state_dict().items():
            assert other == name or torch.equal(state[other], value), (name, other)


@pytest.mark.parametrize("name", ["bases", "hallucinators.1.scale", "hallucinators.1.encoder.convolutions.0.weight"])
def test_missing_weights_of_an_identity_initialization(tmp_path, name):
    make_model(hallucinator_init="identity").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors")
    loaded, _ = HabaModel.from_pretrained(tmp_path, output_loading_info=True)
    for other, value in tensors.items():
        assert torch.equal(loaded.state_dict()[other], value), other
    samples = loaded().samples.unflatten(0, (6, 3))
    assert (samples - loaded.bases[:, None]).pow(2).mean().sqrt() < 0.5


def test_unexpected_and_mismatched_weights_are_refused(saved):
    model, path, rewrite = saved
    tensors = load_file(path / "model.safetensors")
    rewrite({**tensors, "conv.weight": torch.ones(2)})
    with pytest.raises(ValueError, match=r"1 unexpected \(conv.weight\)"):
        HabaModel.from_pretrained(path)
    rewrite({**tensors, "bases": torch.ones(6, 3, 7, 9)})
    with pytest.raises(ValueError, match=rf"file of {path} .*: 1 of another shape \(bases\)"):
        HabaModel.from_pretrained(path)
    loaded, report = HabaModel.from_pretrained(path, output_loading_info=True)
    assert [key for key, *_ in report["mismatched_keys"]] == ["bases"]
    assert 0.8 < loaded.bases.std() < 1.2
    rewrite(tensors)
    with pytest.raises(ValueError, match=r"unexpected .hallucinators\.2\.decoder"):
        HabaModel.from_pretrained(path, num_hallucinators=2)
    with pytest.raises(ValueError, match=r"of another shape .bases, class_ids, label_logits.\."):
        HabaModel.from_pretrained(path, bases_per_class=1)
    HabaModel.from_pretrained(path, bases_per_class=1, ignore_mismatched_sizes=True)
    with pytest.raises(ValueError, match="hallucinator_depth must be 0, 1, 2 or 3, got 7"):
        HabaModel.from_pretrained(path, hallucinator_depth=7)
    assert torch.equal(HabaModel.from_pretrained(path)().samples, model().samples)


@pytest.mark.parametrize("load", [HabaModel.from_pretrained, AutoModel.from_pretrained])
def test_a_foreign_safetensors_file_is_refused(saved, load):
    _, path, rewrite = saved
    rewrite({"conv.weight": torch.ones(3), "conv.bias": torch.ones(3)})
    with pytest.raises(
        ValueError, match=rf"{path} does not .* missing .*, 2 unexpected .conv.bias, conv.weight."
    ) as raised:
        load(path)
    assert "\n" not in str(raised.value)


def test_another_models_folder_is_refused(tmp_path):
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic")
    ResNetModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the config of a resnet model, not of a haba artifact"):
        HabaModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("load", [HabaModel.from_pretrained, AutoModel.from_pretrained])
@pytest.mark.parametrize("content", ["empty", "half", "header", "text"])
def test_a_damaged_safetensors_file_is_refused(saved, content, load):
    _, path, _ = saved
    file = path / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(
        {"empty": b"", "half": data[: len(data) // 2], "header": data[:100], "text": b"<html>not found</html>"}[
            content
        ]
    )
    with pytest.raises(ValueError, match=f"The safetensors file of {path} is cut off or is none .*download it again"):
        load(path)


@pytest.mark.parametrize("arguments", [{}, {"use_safetensors": False}])
def test_pickled_weights_are_refused(saved, arguments):
    model, path, _ = saved
    (path / "model.safetensors").unlink()
    torch.save(model.state_dict(), path / "pytorch_model.bin")
    with pytest.raises(OSError, match=f"There is no file model.safetensors in {path}"):
        HabaModel.from_pretrained(path, **arguments)


# --- what a config or a file would put in the place of the artifact's own --------------------------------------------


@pytest.fixture
def folder(saved):
    return saved[1]


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder, **changes):
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, **changes}, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("transformers_weights", "adapter_model.bin"),
        ("transformers_weights", "other.safetensors"),
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
        ("fusion_config", {}),
        ("attn_implementation", "somebody/kernels"),
        ("to_dict", "x"),
    ],
)
def test_a_key_that_no_artifact_has_is_refused(folder, key, value):
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    torch.save(load_file(folder / "model.safetensors"), folder / "adapter_model.bin")
    (folder / "model.safetensors").write_bytes(b"junk")
    change_config(folder, **{key: value})
    for load in (HabaModel.from_pretrained, AutoModel.from_pretrained):
        with pytest.raises(ValueError, match=f"The config has {key}, which no haba artifact has"):
            load(folder)


def test_another_dtype_is_refused(folder):
    change_config(folder, dtype="float16")
    with pytest.raises(ValueError, match="The config asks for float16, but an artifact is"):
        HabaModel.from_pretrained(folder)


def test_weights_elsewhere_are_refused(folder, tmp_path):
    """An index would name any file."""
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    names = load_file(tmp_path / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../elsewhere.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(OSError, match=r"model\.safetensors"):
        HabaModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors: {"bases": tensors["bases"] / 0}, r"holds NaN or infinite numbers \(bases\)"),
        (lambda tensors: {"bases": tensors["bases"].to(torch.int32)}, "bases of .* is saved as I32"),
        (lambda tensors: {"class_ids": tensors["class_ids"].flip(0)}, "class_ids of .* are not those of its bases"),
        (lambda tensors: {"class_ids": tensors["class_ids"] + 99}, "class_ids of .* are not those of its bases"),
        (lambda tensors: {"class_ids": tensors["class_ids"].float()}, "class_ids of .* is saved as F32"),
        (lambda tensors: {"student_learning_rate": torch.tensor(float("nan"))}, "NaN or infinite"),
        (lambda tensors: {"student_learning_rate": torch.tensor(-1.0)}, "student_learning_rate of .* is not positive"),
    ],
)
def test_values_that_no_training_gives_are_refused(folder, change, says):
    change_weights(folder, **change(load_file(folder / "model.safetensors")))
    with pytest.raises(ValueError, match=says):
        HabaModel.from_pretrained(folder)


@pytest.mark.parametrize(("name", "value"), [("num_hallucinators", 10**7), ("num_step_sizes", 10**9)])
def test_a_config_that_asks_for_millions_of_modules_is_refused_at_once(folder, name, value):
    change_config(folder, **{name: value})
    started = time.perf_counter()
    with pytest.raises(ValueError, match=f"{name} must be at most"):
        HabaModel.from_pretrained(folder)
    assert time.perf_counter() - started < 5
