import json
import os

import pytest
import torch
from torch import nn

from haba_hf.distillation import checkpoints
from haba_hf.distillation.checkpoints import clean_checkpoints, latest_checkpoint, load_checkpoint, save_checkpoint
from tiny import files_of_at_most

OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "plain sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),  # has no state
}


def make(kind="adam", seed=0):
    generator = torch.Generator().manual_seed(seed)
    module = nn.Linear(3, 2)
    module.register_buffer("ids", torch.arange(4) + seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return {"model": module}, {"optimizer": OPTIMIZERS[kind](module.parameters())}


def train(modules, optimizers, steps=3):
    for step in range(steps):
        optimizers["optimizer"].zero_grad()
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        modules["model"](x).square().sum().backward()
        optimizers["optimizer"].step()


def save(output_dir, step, kind="adam", **extra):
    modules, optimizers = make(kind, seed=step)
    train(modules, optimizers)
    state = {"step": step, "settings": {"seed": 1}, "best": None, **extra}
    carried = {"inner.weight": torch.arange(6.0).view(2, 3).T, "updates": torch.tensor(7)}
    return save_checkpoint(output_dir, state, modules, optimizers, carried), modules, optimizers


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_bit_for_bit(tmp_path, kind):
    path, modules, optimizers = save(tmp_path, 7, kind, best={"step": 5, "validation_accuracy": 61.25})
    again, optimizers_again = make(kind, seed=99)
    state, carried = load_checkpoint(path, {"seed": 1}, again, optimizers_again)
    assert carried["updates"] == 7 and torch.equal(carried["inner.weight"], torch.arange(6.0).view(2, 3).T)
    assert len(state.pop("sha256")) == 3
    assert state == {"step": 7, "settings": {"seed": 1}, "best": {"step": 5, "validation_accuracy": 61.25}}
    train(modules, optimizers)
    train(again, optimizers_again)
    for name, value in modules["model"].state_dict().items():
        assert torch.equal(again["model"].state_dict()[name], value)


def test_no_pickle_is_written(tmp_path):
    path, *_ = save(tmp_path, 7)
    assert path == tmp_path / "checkpoints" / "step-00000007"
    assert sorted(os.listdir(path)) == [
        "model.safetensors",
        "objective.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]


def test_the_newest_two_are_kept(tmp_path):
    for step in (2, 4, 100_000_000, 6):  # the order of steps, not of writing or of letters
        save(tmp_path, step)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-00000006", "step-100000000"]


def test_latest(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    (tmp_path / "checkpoints" / "best-00000009").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".step-00000009.1.x.tmp").mkdir()
    assert latest_checkpoint(tmp_path) is None
    save(tmp_path, 3)
    newest, *_ = save(tmp_path, 20)
    assert latest_checkpoint(tmp_path) == newest


def test_another_recipe(tmp_path):
    path, *_ = save(tmp_path, 7)
    modules, optimizers = make()
    before = modules["model"].weight.clone()
    for settings in ({"seed": 2}, {"seed": 2, "steps": 9}):
        with pytest.raises(
            ValueError, match=r"step-00000007 was written with other settings \(seed 1, now 2.*\): choose"
        ):
            load_checkpoint(path, settings, modules, optimizers)
    with pytest.raises(ValueError, match=r"\(steps None, now 9\)"):
        load_checkpoint(path, {"seed": 1, "steps": 9}, modules, optimizers)
    assert torch.equal(modules["model"].weight, before)


def test_a_setting_that_is_younger_than_the_checkpoint_had_its_default(tmp_path):
    path, *_ = save(tmp_path, 7)
    modules, optimizers = make()
    defaults = {"seed": 0, "ratio": 0.0}
    for settings in ({"seed": 1, "ratio": 0.0}, {"seed": 1}):
        state, _ = load_checkpoint(path, settings, modules, optimizers, defaults=defaults)
        assert state["step"] == 7
    with pytest.raises(ValueError, match=r"\(ratio 0\.0, now 0\.5\)"):
        load_checkpoint(path, {"seed": 1, "ratio": 0.5}, modules, optimizers, defaults=defaults)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-9])


def empty(path):
    path.write_bytes(b"")


def write_noise(path):
    path.write_bytes(b"\xff\xfe{}[]" * 9)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "objective.safetensors", "state.json"])
@pytest.mark.parametrize("spoil", [truncate, empty, write_noise, os.remove])
def test_damaged(tmp_path, name, spoil):
    path, *_ = save(tmp_path, 7)
    spoil(path / name)
    with pytest.raises(ValueError, match=r"step-00000007 is damaged \(.*\): delete it to resume from the one before"):
        load_checkpoint(path, {"seed": 1}, *make())


def test_a_flipped_bit_is_not_resumed(tmp_path):
    path, *_ = save(tmp_path, 7)
    for name in ("model.safetensors", "optimizer.safetensors", "objective.safetensors"):
        content = bytearray((path / name).read_bytes())
        content[-1] ^= 1
        (path / name).write_bytes(content)
        modules, optimizers = make()
        before = modules["model"].weight.clone()
        with pytest.raises(ValueError, match=f"is damaged .*{name}: not what was written"):
            load_checkpoint(path, {"seed": 1}, modules, optimizers)
        assert torch.equal(modules["model"].weight, before), "nothing is put back"
        content[-1] ^= 1
        (path / name).write_bytes(content)
    load_checkpoint(path, {"seed": 1}, modules, optimizers)


def test_a_setting_that_may_differ(tmp_path):
    path, *_ = save(tmp_path, 7, settings={"seed": 1, "steps": 7})
    assert load_checkpoint(path, {"seed": 1, "steps": 9}, *make(), may_differ=["steps"])[0]["step"] == 7


def test_best_models_stay_while_a_checkpoint_names_them(tmp_path):
    folder = tmp_path / "checkpoints"
    for step, best in ((2, 1), (3, 3), (4, 3)):
        (folder / f"best-{best:08d}").mkdir(parents=True, exist_ok=True)
        save(tmp_path, step, best={"step": best, "validation_accuracy": 5.0})
        if step == 3:
            assert {path.name for path in folder.glob("best-*")} == {"best-00000001", "best-00000003"}
    (folder / f"best-{5:08d}").mkdir()  # of a validation whose checkpoint did not come to be
    clean_checkpoints(tmp_path)
    assert sorted(os.listdir(folder)) == ["best-00000003", "step-00000003", "step-00000004"]


@pytest.mark.parametrize("state", [{}, {"step": 7}, []])
def test_state_without_its_fields(tmp_path, state):
    path, *_ = save(tmp_path, 7)
    (path / "state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match="is damaged"):
        load_checkpoint(path, {"seed": 1}, *make())


def test_foreign_tensors(tmp_path):
    path, *_ = save(tmp_path, 7)
    for name in ("model", "optimizer"):
        original = (path / f"{name}.safetensors").read_bytes()
        checkpoints.save_file({"something": torch.zeros(3)}, path / f"{name}.safetensors")
        with pytest.raises(ValueError, match="is damaged"):
            load_checkpoint(path, {"seed": 1}, *make())
        (path / f"{name}.safetensors").write_bytes(original)


def test_an_interruption_leaves_the_older_checkpoints(tmp_path, monkeypatch):
    save(tmp_path, 2)
    older, *_ = save(tmp_path, 4)
    write = checkpoints.save_file

    def stop_after_the_model(tensors, path, metadata=None):
        if path.name == "optimizer.safetensors":
            raise KeyboardInterrupt
        write(tensors, path, metadata)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "save_file", stop_after_the_model)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 6)
    assert latest_checkpoint(tmp_path) == older
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-00000002", "step-00000004"]
    assert load_checkpoint(older, {"seed": 1}, *make())[0]["step"] == 4


def test_full_disk(tmp_path):
    refused = pytest.raises(OSError, match=r"Cannot write .*step-00000007: .*Nothing was changed there")
    with refused, files_of_at_most(100):
        save(tmp_path, 7)
    assert os.listdir(tmp_path / "checkpoints") == []


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"Cannot write .*file/checkpoints/step-00000007"):
        save(tmp_path / "file", 7)
