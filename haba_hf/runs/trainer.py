"""Distillation from Python: a trainer in the manner of transformers, and `distill` in one call.

Both are fronts of the same recipe, distiller and records as `haba distill`: what they write is an artifact's folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import TrainOutput

from ..artifact.loading import HabaProcessor
from ..artifact.modeling_haba import HabaModel
from ..data import ImageData, Splits
from ..distillation import Distiller, Observer
from ..evaluation import ReportRow, train_student
from ..hub import export_artifact, push_artifact
from ..recipes import Recipe, parse_recipe, recipe_of
from .distilling import distill as distill_recipe
from .evaluating import evaluate
from .inputs import load_artifact, training_data
from .launching import start_accelerator
from .recording import record

IN_MEMORY = "in-memory"


class HabaTrainingArguments:
    """
    Settings of a [`HabaTrainer`]: those of a recipe by their names, and what transformers' trainers have beside.

    Args:
        output_dir (`str`, *optional*, defaults to `"haba-output"`): for checkpoints, logs and `artifact`; what was
            interrupted there goes on.
        recipe (`str`, *optional*): a recipe's name or file to start from, in place of the defaults.
        logging_steps (`int`, *optional*, defaults to 10): steps between two `on_log` events, and lines of progress
            where there is no terminal.
        disable_tqdm (`bool`, *optional*, defaults to `False`): say nothing of progress.
        push_to_hub (`bool`, *optional*, defaults to `False`): publish the artifact as `hub_model_id` when it is done.
        hub_model_id (`str`, *optional*): `owner/name`.
        hub_private_repo (`bool`, *optional*): whether a new repository is private.
        fields: of a recipe, such as `objective="dm"`, `bases_per_class=2`, `steps=300`, `report_to="tensorboard"`.

    Raises:
        `ValueError`: if a field is unknown or a value does not fit it; names it.
    """

    def __init__(
        self,
        output_dir: str = "haba-output",
        *,
        recipe: str | None = None,
        logging_steps: int = 10,
        disable_tqdm: bool = False,
        push_to_hub: bool = False,
        hub_model_id: str | None = None,
        hub_private_repo: bool | None = None,
        **fields: Any,
    ):
        if not isinstance(logging_steps, int) or logging_steps < 1:
            raise ValueError(f"logging_steps must be a whole number of at least 1, got {logging_steps!r}.")
        if push_to_hub and hub_model_id is None:
            raise ValueError("push_to_hub needs a name to publish as: set hub_model_id to owner/name.")
        beneath = {} if recipe is None else parse_recipe([recipe]).to_dict()
        chosen = {"report_to": "none", **beneath, **fields, "output_dir": str(output_dir)}
        self.recipe: Recipe = recipe_of(**chosen)
        self.output_dir = str(output_dir)
        self.logging_steps = logging_steps
        self.disable_tqdm = disable_tqdm
        self.push_to_hub = push_to_hub
        self.hub_model_id = hub_model_id
        self.hub_private_repo = hub_private_repo

    @property
    def max_steps(self) -> int:
        return self.recipe.distillation.steps

    @property
    def report_to(self) -> str:
        return self.recipe.distillation.report_to

    @property
    def seed(self) -> int:
        return self.recipe.distillation.seed


class _Callbacks(Observer):
    """Hands what the distiller does to transformers' callbacks."""

    def __init__(self, trainer: "HabaTrainer", callbacks: Sequence[TrainerCallback]):
        self.trainer, self.callbacks = trainer, callbacks
        self.log_every = trainer.args.logging_steps
        self.show_progress = not trainer.args.disable_tqdm
        self.loss_sum, self.losses = 0.0, 0

    def call(self, event: str, **more: Any) -> None:
        trainer = self.trainer
        for callback in self.callbacks:
            control = getattr(callback, event)(
                trainer.args, trainer.state, trainer.control, model=trainer.model, **more
            )
            trainer.control = control or trainer.control
        self.stop = self.stop or trainer.control.should_training_stop

    def on_begin(self, distiller: Distiller) -> None:
        self.trainer.model = distiller.model
        self.trainer.state.global_step = distiller.step_number
        self.call("on_train_begin")

    def on_step_begin(self, distiller: Distiller) -> None:
        self.call("on_step_begin")

    def on_step_end(self, distiller: Distiller, logs: dict[str, float]) -> None:
        state = self.trainer.state
        state.global_step = distiller.step_number
        self.loss_sum, self.losses = self.loss_sum + logs["l_dd"], self.losses + 1
        self.call("on_step_end")
        if distiller.step_number % self.trainer.args.logging_steps == 0 or distiller.ended_by is not None:
            of_step = {"loss": logs["l_dd"], **logs}
            state.log_history.append({**of_step, "step": distiller.step_number})
            self.call("on_log", logs=of_step)

    def on_validate(self, distiller: Distiller, accuracy: float) -> None:
        self.call("on_evaluate", metrics={"eval_accuracy": accuracy / 100})

    def on_save(self, distiller: Distiller) -> None:
        self.call("on_save")

    def on_end(self, distiller: Distiller) -> None:
        self.call("on_train_end")


class HabaTrainer:
    """
    Distils a data set as transformers' `Trainer` trains a model: same names, same callback events.

    ```python
    args = HabaTrainingArguments("runs/shirts", objective="dm", bases_per_class=2, steps=300)
    trainer = HabaTrainer(args, train_dataset=shirts["train"], eval_dataset=shirts["test"])
    trainer.train()
    print(trainer.evaluate()["eval_accuracy"])
    trainer.push_to_hub("me/haba-shirts")
    ```

    Args:
        args ([`HabaTrainingArguments`]): settings.
        train_dataset (`datasets.Dataset` or `DatasetDict`, *optional*): real images with labels (or clips of speech),
            columns as in a recipe; by default what the recipe's `dataset` names.
        eval_dataset (`datasets.Dataset`, *optional*): real images that students are scored on.
        callbacks (`list[TrainerCallback]`, *optional*): told of `on_train_begin`, `on_step_begin`, `on_step_end`,
            `on_log`, `on_evaluate` (a validation while distilling), `on_save` and `on_train_end`;
            `control.should_training_stop` ends the run after the step, with a checkpoint.

    Attributes:
        model ([`HabaModel`]), processor ([`HabaImageProcessor`] or [`HabaAudioProcessor`]): the artifact's, once
            `train` is done.
        state (`TrainerState`): `global_step`, `max_steps`, `log_history`.

    Raises:
        `ValueError`: if a data set is none of `datasets`.
    """

    def __init__(
        self,
        args: HabaTrainingArguments,
        train_dataset: Dataset | DatasetDict | Mapping[str, Dataset] | None = None,
        eval_dataset: Dataset | None = None,
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]] | None = None,
    ):
        self.args = args
        self.splits = splits_of(train_dataset, eval_dataset)
        self.recipe = args.recipe
        self.callbacks = [callback() if isinstance(callback, type) else callback for callback in callbacks or []]
        self.state = TrainerState(max_steps=args.max_steps, logging_steps=args.logging_steps)
        self.control = TrainerControl()
        self.model: HabaModel | None = None
        self.processor: HabaProcessor | None = None

    @property
    def artifact_dir(self) -> Path:
        """The artifact's folder."""
        return Path(self.args.output_dir) / "artifact"

    def train(self) -> TrainOutput:
        """
        Distils, going on from what an interrupted run has left in `output_dir`; by trajectory matching it records the
        experts that are missing first. Then publishes, if `push_to_hub` is set.

        Returns:
            `TrainOutput`: steps, mean loss of this process's steps, and the artifact's record as metrics.

        Raises:
            as [`haba_hf.runs.distill`].
        """
        accelerator = start_accelerator(tracked=self.recipe)
        given: ImageData | Splits | None = self.splits
        if self.recipe.distillation.objective == "mtt":
            given = training_data(self.recipe, self.splits)  # read once for both
            record(self.recipe, accelerator, given)
        observer = _Callbacks(self, self.callbacks)
        folder = distill_recipe(self.recipe, accelerator, given, observer)
        accelerator.end_training()
        self.model, self.processor, origin = load_artifact(str(folder))
        if self.args.push_to_hub and accelerator.is_main_process:
            self.push_to_hub()
        metrics = {name: origin[name] for name in ("seconds", "peak_memory_bytes", "ended_by")}
        loss = observer.loss_sum / observer.losses if observer.losses else float("nan")
        return TrainOutput(self.state.global_step, loss, metrics)

    def evaluate(self, **settings: Any) -> dict[str, float]:
        """
        Trains fresh students on the artifact and scores them once on the test split (`eval_dataset`), as its recipe
        says or with other `settings`, fields of a recipe. `results.json` beside the artifact has all of it.

        Returns:
            `dict[str, float]`: `eval_accuracy` and `eval_accuracy_std` as fractions of 1, and, of each reference that
            was asked for, such as `references="random"`, the same with its name.

        Raises:
            as [`haba_hf.runs.evaluate`].
        """
        rows = evaluate_rows(self.recipe, self.splits, settings)
        metrics = {"eval_accuracy": rows[0].accuracy.mean, "eval_accuracy_std": rows[0].accuracy.std}
        for row in rows[1:]:
            name = row.system.replace(",", "").replace(" ", "_")
            metrics |= {f"eval_{name}_accuracy": row.accuracy.mean, f"eval_{name}_accuracy_std": row.accuracy.std}
        return metrics

    def save_model(self, output_dir: str | Path) -> None:
        """Writes what a push uploads into a folder: weights, processor, card, records and pictures."""
        export_artifact(self.artifact_dir, output_dir)

    def push_to_hub(self, repo_id: str | None = None, **settings: Any) -> str:
        """Publishes the artifact with its card and records, as [`push_artifact`], and gives the address."""
        name = repo_id or self.args.hub_model_id
        if name is None:
            raise ValueError("There is no name to publish as: give owner/name, or set hub_model_id.")
        return push_artifact(self.artifact_dir, name, **{"private": self.args.hub_private_repo, **settings})


@dataclass(frozen=True)
class DistilledArtifact:
    """
    What [`distill`] gives: an artifact in a folder, with what is wanted of it next.

    Args:
        folder (`Path`): its folder, which `HabaModel.from_pretrained` and `haba info` read.
        model ([`HabaModel`]), processor: to and from model space.
        recipe ([`Recipe`]): all settings.
        splits (`Mapping[str, datasets.Dataset]`, *optional*): the real data, if they were given in memory.
    """

    folder: Path
    model: HabaModel
    processor: HabaProcessor
    recipe: Recipe
    splits: Splits | None = None

    def evaluate(self, references: str = "random", **settings: Any) -> list[ReportRow]:
        """
        Fresh students of the artifact, scored once on the test split, beside random real images at equal storage: the
        rows of a table, which `haba_hf.evaluation.markdown_table` prints.
        """
        return evaluate_rows(self.recipe, self.splits, {"references": references, **settings})

    def train_student(self, network: nn.Module | str | None = None, **settings: Any) -> nn.Module:
        """One network trained on the artifact as its students are: see [`haba_hf.train_student`]."""
        return train_student(self.model, network, **settings)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Writes what a push uploads into a folder."""
        return export_artifact(self.folder, folder)

    def push_to_hub(self, repo_id: str, **settings: Any) -> str:
        """Publishes it with its card and records: see [`haba_hf.hub.push_artifact`]."""
        return push_artifact(self.folder, repo_id, **settings)


def distill(
    dataset: str | Dataset | DatasetDict | Mapping[str, Dataset],
    method: str | None = None,
    *,
    output_dir: str | None = None,
    recipe: str | None = None,
    callbacks: Sequence[TrainerCallback | type[TrainerCallback]] | None = None,
    **settings: Any,
) -> DistilledArtifact:
    """
    Distils a data set in one call.

    ```python
    from haba_hf import distill

    artifact = distill(shirts, method="dm", bases_per_class=2, num_hallucinators=5, steps=300)
    print(artifact.evaluate()[0].accuracy.mean)
    artifact.push_to_hub("me/haba-shirts")
    ```

    Args:
        dataset (`str`, `datasets.Dataset` or `DatasetDict`): images (or clips of speech) with labels in memory; a
            named data set, a Hub id, or a folder. A single `Dataset` is the training split.
        method (`str`, *optional*): `dm`, `mtt`, `dc`, `dsa`, `idc`, `cafe`, `dd`, `ld` or `linear`, `objective` of a
            recipe; by default that of `recipe`, or `dm`.
        output_dir (`str`, *optional*): for artifact, checkpoints and logs, by default `runs/<data set>-<method>`; a
            run that was interrupted there goes on, one that has ended is given back.
        recipe (`str`, *optional*): a recipe's name or file to start from, such as `"cifar10/dm-2ipc"`.
        callbacks (`list[TrainerCallback]`, *optional*): as of [`HabaTrainer`].
        settings: any other field of a recipe, and of [`HabaTrainingArguments`].

    Returns:
        [`DistilledArtifact`].

    Raises:
        `ValueError`: on bad settings or data, before anything is computed.
        `OSError`: if `output_dir` cannot be written.
        `FloatingPointError`: if a gradient becomes NaN or infinite.
    """
    chosen = {**({"objective": "dm"} if recipe is None else {}), **settings}
    if method is not None:
        chosen["objective"] = method
    in_memory = None if isinstance(dataset, str) else dataset
    if in_memory is None:
        chosen["dataset"] = dataset
    else:
        chosen.setdefault("dataset", IN_MEMORY)
    objective = chosen.get("objective", "distilled")
    folder = output_dir or f"runs/{Path(str(chosen['dataset'])).name}-{objective}"
    args = HabaTrainingArguments(folder, recipe=recipe, **chosen)
    trainer = HabaTrainer(args, in_memory, callbacks=callbacks)
    trainer.train()
    assert trainer.model is not None and trainer.processor is not None
    return DistilledArtifact(trainer.artifact_dir, trainer.model, trainer.processor, trainer.recipe, trainer.splits)


def splits_of(train: Any, test: Any = None) -> Splits | None:
    """
    The splits of a data set in memory by name, `None` if there is none: a single `Dataset` is the training split.

    Raises:
        `ValueError`: if one of them is no `datasets.Dataset`.
    """
    if train is None and test is None:
        return None
    splits = dict(train) if isinstance(train, Mapping) else {"train": train}
    if test is not None:
        splits["test"] = test
    for name, split in splits.items():
        if not isinstance(split, Dataset):
            raise ValueError(
                f"The {name} split is a {type(split).__name__}: give a datasets.Dataset with an image and a label "
                "column (of a torch data set: Dataset.from_dict)."
            )
    return splits


def evaluate_rows(recipe: Recipe, splits: Splits | None, settings: Mapping[str, Any]) -> list[ReportRow]:
    """The rows of an evaluation, with some fields of the recipe set otherwise."""
    return evaluate(recipe_of(**{**recipe.to_dict(), **settings}), start_accelerator(), splits)
