r"""A teacher, a network trained on the whole training split, and the soft labels that it gives: to a basis the mean of
what it says of the basis's S samples,

    y = 1/S sum_i softmax( f(x_i) / T ).

It is trained as students of the full real data are, once for all recipes that name the same, and kept in a folder, so
that what an artifact is compared with has the labels of the very same network.

Shape legend: N bases, S samples of a basis, L classes.
"""

import copy
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from ..artifact.configuration_haba import HabaConfig
from ..artifact.modeling_haba import HabaModel
from ..data import ImageData
from ..data.splits import images_at_once
from ..networks import NetworkArguments, build_network, logits_of
from ..utils.checks import Settings, check_positive
from ..utils.files import atomic_file, check_recorded, check_writable
from ..utils.fingerprints import weights_fingerprint
from ..utils.progress import Progress
from ..utils.seeds import derived_seed
from .arguments import EvaluationArguments
from .protocols import training_on_real_data
from .students import train_fresh_student
from .training import accuracy

# The stream of a teacher's seed: students that started from its weights would not be fresh networks.
TEACHER = 5
# Fields of an evaluation that decide how a teacher is trained, beside those of its network and the seed.
TRAINED_BY = (
    *("real_student_epochs", "real_student_learning_rate", "evaluation_batch_size", "evaluation_momentum"),
    *("evaluation_weight_decay", "evaluation_schedule", "evaluation_dsa", "evaluation_cutmix"),
)


@dataclass
class TeacherArguments(Settings):
    """The teacher that gives soft labels: a network of the recipe trained as a student of the full real data."""

    teacher_temperature: float = field(
        default=1.0, metadata={"help": "Its logits are divided by this before their softmax."}
    )
    teacher_dir: str = field(
        default="teachers",
        metadata={"help": "Folder of teachers; runs and evaluations that name the same share it.", "result": False},
    )

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "teacher_temperature")


def teacher_settings(
    network_args: NetworkArguments, args: EvaluationArguments, teacher_args: TeacherArguments, seed: int
) -> dict[str, Any]:
    """What decides a teacher and its labels, in the names of a recipe: what is kept of it on record."""
    return {
        **asdict(network_args),
        **{name: getattr(args, name) for name in TRAINED_BY},
        "seed": seed,
        "teacher_temperature": teacher_args.teacher_temperature,
    }


@dataclass(frozen=True)
class Teacher:
    """
    Args:
        network (`nn.Module`): samples `[B, C, H, W]` to logits `[B, L]`, in evaluation mode.
        settings (`dict[str, Any]`): of [`teacher_settings`].
        fingerprint (`str`): of its weights.
        seconds (`float`): that its training took, in whichever run.
        validation_accuracy (`float`, *optional*): as a fraction of 1, if there is a validation split.
    """

    network: nn.Module
    settings: dict[str, Any]
    fingerprint: str
    seconds: float
    validation_accuracy: float | None

    def record(self) -> dict[str, Any]:
        """What an artifact with its labels says of it."""
        return {name: value for name, value in vars(self).items() if name != "network"}

    @torch.no_grad()
    def labels(self, model: HabaModel) -> Tensor:
        """
        Distributions `[N, L]` (float32, CPU) of an artifact's bases, each the mean of its samples' at the temperature.
        """
        device = next(self.network.parameters()).device
        parts = []
        at_once = images_at_once(model.config.sample_shape)
        for ids in torch.arange(model.config.num_samples).split(at_once):
            samples = model.restore(ids.to(model.device)).samples.float()
            logits = logits_of(self.network, samples.to(device)).float()
            parts.append((logits / self.settings["teacher_temperature"]).softmax(dim=1).cpu())
        return torch.cat(parts).unflatten(0, (model.config.num_bases, -1)).mean(dim=1)


def labelled(model: HabaModel, teacher: Teacher) -> HabaModel:
    """
    The same artifact with a teacher's labels, as it would be loaded again: of what is stored of its samples, in the
    bits of its config. The model itself and the global random state are left as they are.
    """
    config = HabaConfig.from_dict(copy.deepcopy(model.config.to_dict()) | {"label_kind": "soft"})
    with torch.random.fork_rng(devices=[]):
        soft = HabaModel(config).to(model.device)
    soft.load_state_dict(model.state_dict(), strict=False)  # a hard one has no labels to give
    soft.round_to_storage()
    soft.set_labels(teacher.labels(soft))
    soft.round_to_storage()
    return soft


def trained_teacher(settings: Mapping[str, Any], directory: str, data: ImageData, accelerator: Accelerator) -> Teacher:
    """
    The teacher of some settings and data: that of the folder, or, if there is none, trained by the main process and
    kept there.

    Args:
        settings (`Mapping[str, Any]`): of [`teacher_settings`], or of the record of an artifact.
        directory (`str`): `teacher_dir`.
        data ([`ImageData`]): the real data; the validation split, if any, is scored.
        accelerator (`Accelerator`): device and processes; every process must make this call and gets the same teacher.

    Raises:
        `ValueError`: if a setting is missing or does not fit, or the file is damaged.
        `OSError`: if the folder cannot be written.
        `FloatingPointError`: if the teacher diverges.
    """
    network_args, args = _arguments_of(settings)
    by = {name: value for name, value in sorted(settings.items()) if name != "teacher_temperature"}
    expected = {
        "data": json.dumps([data.fingerprint, data.class_names, list(data.image_shape)]),
        "training": json.dumps({**by, "mixed_precision": accelerator.mixed_precision}),
    }
    digest = hashlib.sha256(json.dumps(expected).encode()).hexdigest()[:12]
    path = Path(directory) / f"teacher-{digest}.safetensors"
    sizes = data.image_shape, data.num_labels
    if accelerator.is_main_process and not path.exists():
        check_writable(directory)
        started = time.perf_counter()
        training = training_on_real_data(data, args, accelerator)
        with Progress("teacher", training.epochs, "epoch") as progress:
            seed = derived_seed(settings["seed"], 0, TEACHER)
            network = train_fresh_student(
                *(0, training, network_args, seed, *sizes, data.processor), lambda epoch, loss: progress.update()
            )
        seconds, scored = time.perf_counter() - started, data.validation
        reached = accuracy(network, scored.images, scored.labels, data.processor) if len(scored) else None
        with atomic_file(path) as aside:
            header = {**expected, "seconds": json.dumps(round(seconds, 3)), "validation_accuracy": json.dumps(reached)}
            save_model(network.cpu(), str(aside), header)
    accelerator.wait_for_everyone()
    check_recorded(path, expected, {}, "the file of a teacher", "teacher_dir")
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    network = build_network(network_args, *sizes, seed=0, processor=data.processor)
    load_model(network, str(path))
    return Teacher(
        network.to(accelerator.device).eval(),
        dict(settings),
        weights_fingerprint(network),
        json.loads(header["seconds"]),
        json.loads(header["validation_accuracy"]),
    )


def _arguments_of(settings: Mapping[str, Any]) -> tuple[NetworkArguments, EvaluationArguments]:
    """The sections that settings come from; others may have written them."""
    of_network = [section_field.name for section_field in fields(NetworkArguments)]
    missing = [name for name in (*of_network, *TRAINED_BY, "seed", "teacher_temperature") if name not in settings]
    if missing:
        raise ValueError(f"The record of a teacher lacks {', '.join(missing)}: distil the artifact again.")
    TeacherArguments(teacher_temperature=settings["teacher_temperature"])
    args = EvaluationArguments(**{name: settings[name] for name in TRAINED_BY})
    return NetworkArguments(**{name: settings[name] for name in of_network}), args
