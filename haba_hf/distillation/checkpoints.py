"""Checkpoints of a run: model, adversary, optimizers and what the objective carries along, as safetensors, so that
resuming is bit-exact and reads no pickle."""

import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..utils.files import atomic_directory

OBJECTIVE = "objective.safetensors"
KEPT = 2  # the newest checkpoints; older ones are removed


def checkpoint_directory(output_dir: str | Path, step: int) -> Path:
    return Path(output_dir) / "checkpoints" / f"step-{step:08d}"


def save_checkpoint(
    output_dir: str | Path,
    state: dict,
    modules: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
    objective_state: dict[str, Tensor],
) -> Path:
    """
    Writes the checkpoint of `state["step"]` and removes all but the newest two.

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
        (aside / "state.json").write_text(json.dumps(state, indent=2))
    for old in _checkpoints(output_dir)[:-KEPT]:
        shutil.rmtree(old)
    return path


def latest_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest complete checkpoint, or `None` in a fresh folder."""
    found = _checkpoints(output_dir)
    return found[-1] if found else None


def load_checkpoint(
    path: Path, recipe_hash: str, modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]
) -> tuple[dict, dict[str, Tensor]]:
    """
    Puts a checkpoint back into modules and optimizers and returns its state and the objective's.

    Raises:
        `ValueError`: if it was written by another recipe, or is damaged.
    """
    try:
        state = json.loads((path / "state.json").read_text())
        same_recipe = state["recipe_hash"] == recipe_hash
        if same_recipe:
            for name, module in modules.items():
                module.load_state_dict(load_file(path / f"{name}.safetensors"))
            for name, optimizer in optimizers.items():
                _restore_optimizer(optimizer, load_file(path / f"{name}.safetensors"))
            objective_state = load_file(path / OBJECTIVE)
    except (SafetensorError, ValueError, KeyError, RuntimeError, FileNotFoundError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it to resume from the one before.") from error
    if not same_recipe:
        raise ValueError(
            f"{path} was written by another recipe (hash {state['recipe_hash']}, this one's is {recipe_hash}): choose "
            "another output_dir, or delete the checkpoints there to start anew."
        )
    return state, objective_state


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
