"""Data, settings and models so small that a distillation step takes milliseconds."""

import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest
import torch
from accelerate import Accelerator
from torch.nn import functional as F

from haba_hf import HabaConfig, HabaModel
from haba_hf.artifact.processing_haba import HabaImageProcessor
from haba_hf.artifact.whitening_haba import ZcaWhitening
from haba_hf.data.image_data import ImageData
from haba_hf.data.splits import Split
from haba_hf.distillation import Distiller, Objective
from haba_hf.networks import NetworkArguments
from haba_hf.recipes import Recipe

NETWORK = NetworkArguments(network_depth=2, network_width=4)


def tiny_accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def tiny_data(
    channels: int = 3, images_per_class: int = 6, num_labels: int = 4, side: int = 8, seed: int = 0, zca: bool = False
) -> ImageData:
    """Random images, each class of its own brightness, in shuffled order; with `zca` whitened."""
    generator = torch.Generator().manual_seed(seed)
    processor_class = HabaImageProcessor if torch.get_default_dtype() == torch.float32 else DoubleProcessor
    processor = processor_class(
        size={"height": side, "width": side},
        num_channels=channels,
        image_mean=[0.45, 0.5, 0.55][:channels],
        image_std=[0.2, 0.25, 0.3][:channels],
    )

    def split(per_class: int) -> Split:
        labels = torch.arange(num_labels).repeat(per_class)
        labels = labels[torch.randperm(len(labels), generator=generator)]
        noise = torch.randint(0, 100, (len(labels), channels, side, side), generator=generator)
        brightness = labels.view(-1, 1, 1, 1) * (150 // max(num_labels - 1, 1))
        return Split((noise + brightness).to(torch.uint8), labels)

    train = split(images_per_class)
    if zca:
        processor = processor_class(
            size=processor.size, num_channels=channels, whitening=ZcaWhitening.fit(train.images)
        )
    return ImageData(
        name="tiny",
        train=train,
        validation=split(2),
        test=split(2),
        class_names=[f"class {label}" for label in range(num_labels)],
        processor=processor,
        fingerprint=f"tiny-{channels}-{images_per_class}-{num_labels}-{side}-{seed}{'-zca' if zca else ''}",
    )


def tiny_model(data: ImageData, seed: int = 0, **settings) -> HabaModel:
    """Two bases per class and three hallucinators by default; scales and shifts are random, not all ones and zeros."""
    channels, height, width = data.image_shape
    config = HabaConfig(
        **{
            "num_labels": data.num_labels,
            "bases_per_class": 2,
            "num_hallucinators": 3,
            "sample_channels": channels,
            "sample_height": height,
            "sample_width": width,
            "whitening": data.processor.whitening_fingerprint,
        }
        | settings
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = HabaModel(config)
        for hallucinator in model.hallucinators:
            hallucinator.scale.data.add_(0.3 * torch.randn_like(hallucinator.scale))
            hallucinator.shift.data.add_(0.3 * torch.randn_like(hallucinator.shift))
        if model.label_logits is not None:
            model.label_logits.data.add_(torch.randn_like(model.label_logits))
    return model


def tiny_recipe(**settings) -> Recipe:
    """A recipe of some fields, as flat as in its file."""
    chosen = {
        "network_depth": NETWORK.network_depth,
        "network_width": NETWORK.network_width,
        "steps": 6,
        "real_batch_size": 4,
        "student_steps": 3,
        "expert_span": 1,
        "max_start": 2,
        "checkpoint_every": 2,
        "report_to": "none",
    } | settings
    sections = {
        section: {field.name: chosen.pop(field.name) for field in dataclasses.fields(kind) if field.name in chosen}
        for section, kind in get_type_hints(Recipe).items()
    }
    assert not chosen, f"no such fields: {list(chosen)}"
    return Recipe(**{name: kind(**sections[name]) for name, kind in get_type_hints(Recipe).items()})


def all_fields(recipe: Recipe) -> SimpleNamespace:
    """The fields of all sections in one place, as a formula written down again wants them."""
    return SimpleNamespace(**recipe.to_dict())


def tiny_distiller(
    model: HabaModel,
    objective: Objective,
    recipe: Recipe,
    data: ImageData,
    kind: type[Distiller] = Distiller,
    settings: Mapping[str, Any] | None = None,
    validate: Callable[[HabaModel, int], float] | None = None,
) -> Distiller:
    sections = recipe.distillation, recipe.adversary, recipe.network
    return kind(model, objective, *sections, data, tiny_accelerator(), settings or {"recipe": "abc"}, validate)


def formations_of(images: torch.Tensor, config: HabaConfig) -> list[torch.Tensor]:
    """The samples that multi-formation makes of restored images `[P, C, H, W]`, tile by tile."""
    rows, columns = config.formation_grid
    tiles = [tile for row in images.chunk(rows, dim=2) for tile in row.chunk(columns, dim=3)]
    return [F.interpolate(tile, size=images.shape[2:], mode="bilinear") for tile in tiles]


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What `backward` left in each parameter, zeros where it left nothing."""
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }


def states(distiller: Distiller) -> dict[str, torch.Tensor]:
    """What a run has learned so far: the artifact and, if it plays, the adversary."""
    return {
        f"{name}.{key}": value.clone()
        for name, module in distiller._modules().items()
        for key, value in module.state_dict().items()
    }


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """The same names, and bit for bit the same tensors."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def metrics(output_dir: Path) -> list[dict]:
    """The log without its times."""
    lines = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    assert all(line.pop("seconds") > 0 for line in lines)
    return lines


class DoubleProcessor(HabaImageProcessor):
    """Real images in float64, for checks against finite differences."""

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        return super().normalize(images).double()


@contextmanager
def double_precision():
    """Models, networks, samples and real images made inside are float64."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)


def assert_gradients_equal(model: torch.nn.Module, loss: torch.Tensor, rtol: float = 1e-8) -> None:
    """What `backward` left in the model's parameters is autograd's gradient of `loss`, and is not all zero."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    expected = torch.autograd.grad(loss, parameters, materialize_grads=True)
    actual = gradients(model)
    for name, gradient in zip(names, expected, strict=True):
        torch.testing.assert_close(
            actual[name], gradient, rtol=rtol, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert actual["bases"].abs().max() > 1e-6


def assert_directional_derivative(
    model: torch.nn.Module,
    actual: dict[str, torch.Tensor],
    loss: Callable[[], float],
    names: list[str],
    eps: float = 1e-9,
    rel: float = 1e-5,
) -> None:
    """
    The gradient `actual` along a random direction of the named parameters equals the central difference of `loss`.

    ReLU has kinks, where the unrolled L_DD even jumps: eps is so small that no unit crosses one.
    """
    parameters = dict(model.named_parameters())
    generator = torch.Generator().manual_seed(17)
    for _ in range(3):
        direction = {
            name: torch.randn(parameters[name].shape, generator=generator, dtype=torch.float64) for name in names
        }
        expected = sum((actual[name] * direction[name]).sum().item() for name in names)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                for name in names:
                    parameters[name].add_(direction[name], alpha=sign * eps)
            values.append(loss())
            with torch.no_grad():
                for name in names:
                    parameters[name].sub_(direction[name], alpha=sign * eps)
        difference = (values[0] - values[1]) / (2 * eps)
        assert expected != 0
        assert difference == pytest.approx(expected, rel=rel, abs=2e-6)


def script_environment() -> dict[str, str]:
    """Of a process of one thread that can import this module and `haba_hf`."""
    tests = Path(__file__).parent
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")]),
    }


# The last lines of a script of several processes: one that leaves its group standing may be aborted as it exits.
LEAVE_THE_GROUP = """
from torch import distributed

if distributed.is_initialized():
    distributed.destroy_process_group()
"""


def launch_processes(directory: Path, script: str, *arguments: str, count: int = 2, cpu: bool = True) -> list[str]:
    """
    Runs a script on two CPU processes that talk by gloo, or on `count` and, without `cpu`, on the devices there are.

    The script can import this module and `haba_hf`. Each process writes to a file of its own: lines of two in one pipe
    come between each other's words.

    Returns:
        The lines beginning with RESULT, sorted.
    """
    path = directory / "script.py"
    path.write_text(textwrap.dedent(script) + LEAVE_THE_GROUP)
    environment = script_environment()
    if cpu:
        environment["ACCELERATE_USE_CPU"] = "1"
    logs = Path(tempfile.mkdtemp(dir=directory))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    command += ["--redirects", "1", "--log-dir", str(logs), str(path), *arguments]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stderr[-6000:]
    written = sorted(logs.rglob("stdout.log"))
    assert len(written) == count, written
    lines = [line for path in written for line in path.read_text().splitlines()]
    return sorted(line for line in lines if line.startswith("RESULT"))


@contextmanager
def files_of_at_most(num_bytes):
    """What a full disk does, done by the kernel: writing more than this to one file fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
