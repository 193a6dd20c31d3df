"""Checkpoints of a run: model, adversary, optimizers and what the objective carries along, as safetensors, so that
resuming is bit-exact and reads no pickle."""

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..utils.files import atomic_directory, remove_leftovers
from ..utils.text import some

OBJECTIVE, STATE = "objective.safetensors", "state.json"
KEPT = 2  # the newest checkpoints; older ones are removed


def checkpoint_directory(output_dir: str | Path, step: int) -> Path:
    return Path(output_dir) / "checkpoints" / f"step-{step:08d}"


def best_directory(output_dir: str | Path, step: int) -> Path:
    """Where the model of a step lies that validated best; a checkpoint whose `best` names the step relies on it."""
    return Path(output_dir) / "checkpoints" / f"best-{step:08d}"


def save_checkpoint(
    output_dir: str | Path,
    state: dict[str, Any],
    modules: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
    objective_state: dict[str, Tensor],
) -> Path:
    """
    Writes the checkpoint of `state["step"]` with the SHA-256 of its files, and removes all but the newest two.

    Raises:
        `OSError`: naming the folder, if it cannot be written; nothing half-written stays.
    """
    path = checkpoint_directory(output_dir, state["step"])
    with atomic_directory(path) as aside:
        for name, module in modules.items():
            tensors = {key: value.contiguous() for key, value in module.state_dict().items()}
            save_file(tensors, aside / f"{name}.safetensors")
        for name, optimizer in optimizers.items():
            save_file(_optimizer_tensors(optimizer), aside / f"{name}.safetensors")
        save_file({name: tensor.contiguous() for name, tensor in objective_state.items()}, aside / OBJECTIVE)
        digests = {file.name: _sha256(file) for file in sorted(aside.iterdir())}
        (aside / STATE).write_text(json.dumps({**state, "sha256": digests}, indent=2))
    clean_checkpoints(output_dir)
    return path


def clean_checkpoints(output_dir: str | Path) -> None:
    """Removes all checkpoints but the newest two, best models that neither names, and what was half written."""
    found = _checkpoints(output_dir)
    for old in found[:-KEPT]:
        shutil.rmtree(old)
    named = {best_directory(output_dir, step) for path in found[-KEPT:] if (step := _best_step(path)) is not None}
    for best in (Path(output_dir) / "checkpoints").glob("best-*"):
        if best not in named:
            shutil.rmtree(best)
    remove_leftovers(Path(output_dir) / "checkpoints")


def latest_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest complete checkpoint, or `None` in a fresh folder."""
    found = _checkpoints(output_dir)
    return found[-1] if found else None


def load_checkpoint(
    path: Path,
    settings: Mapping[str, Any],
    modules: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
    may_differ: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """
    Puts a checkpoint back into modules and optimizers and returns its state and the objective's.

    Args:
        path (`Path`): its folder.
        settings (`dict[str, Any]`): what decides the run's result, by name; the checkpoint's must be the same.
        modules, optimizers: as they were saved.
        may_differ (`Collection[str]`, *optional*): settings that it may go on with otherwise.
        defaults (`dict[str, Any]`, *optional*): what a setting is in a checkpoint older than it.

    Raises:
        `ValueError`: if it was written with other settings, or is damaged; nothing has been put back then.
    """
    ours, older = (json.loads(json.dumps(dict(of or {}))) for of in (settings, defaults))
    try:
        state = json.loads((path / STATE).read_text())
        differing = _differing({**older, **state["settings"]}, {**older, **ours}, may_differ)
        if not differing:
            names = {f"{name}.safetensors" for name in (*modules, *optimizers)} | {OBJECTIVE}
            changed = [name for name in sorted(names) if _sha256(path / name) != state["sha256"][name]]
            if changed:
                raise ValueError(f"{', '.join(changed)}: not what was written")
            for name, module in modules.items():
                module.load_state_dict(load_file(path / f"{name}.safetensors"))
            for name, optimizer in optimizers.items():
                _restore_optimizer(optimizer, load_file(path / f"{name}.safetensors"))
            objective_state = load_file(path / OBJECTIVE)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it to resume from the one before.") from error
    if differing:
        raise ValueError(
            f"{path} was written with other settings ({differing}): choose another output_dir, or delete the "
            "checkpoints there to start anew."
        )
    return state, objective_state


def _differing(theirs: dict[str, Any], ours: dict[str, Any], may_differ: Collection[str]) -> str:
    """In words, which settings of a checkpoint are not ours."""
    names = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    return some((f"{name} {theirs.get(name)}, now {ours.get(name)}" for name in names if name not in may_differ), "; ")


def _best_step(path: Path) -> int | None:
    try:
        best = json.loads((path / STATE).read_text())["best"]
        return None if best is None else int(best["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # damaged: it is told when it is to be loaded


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checkpoints(output_dir: str | Path) -> list[Path]:
    return sorted((Path(output_dir) / "checkpoints").glob("step-*"))


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{index}.{name}": torch.as_tensor(value).contiguous()
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
