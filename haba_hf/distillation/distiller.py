"""Algorithm 1 under Accelerate: one process per device, each with its own random draws, gradients averaged once a
step."""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import nn

from ..artifact.modeling_haba import HabaModel
from ..data.image_data import ImageData
from ..networks import NetworkArguments
from ..utils.files import atomic_directory, atomic_file, check_writable
from ..utils.interrupts import GO_ON, StopRequest
from ..utils.progress import Progress
from ..utils.seeds import seeded_generator
from .adversary import Adversary, AdversaryArguments
from .arguments import DistillationArguments
from .checkpoints import best_directory, clean_checkpoints, latest_checkpoint, load_checkpoint, save_checkpoint
from .objectives import Objective
from .observer import Observer

METRICS = "metrics.jsonl"  # in output_dir, a line for every step


class Distiller:
    """
    Drives one run: step, log, validate, checkpoint, resume.

    Every random number of step s on process r comes from a generator seeded by (seed, s, r), so a resumed run equals
    an uninterrupted one bit for bit, and nothing depends on the global random state. With `max_minutes`, though, which
    step is the last, and where schedules of learning rates stand, depend on the machine's speed.

    Args:
        model ([`HabaModel`]): the artifact to be learned; the same on every process.
        objective ([`Objective`]): L_DD.
        arguments ([`DistillationArguments`]): the run.
        adversary_arguments ([`AdversaryArguments`]): the adversary, which needs two hallucinators to play.
        network_arguments ([`NetworkArguments`]): architecture of the adversary.
        real_data ([`ImageData`]): what is distilled.
        accelerator (`Accelerator`): device, processes and trackers.
        settings (`dict[str, Any]`): what decides the result, by name: a checkpoint is resumed only with the settings
            that wrote it.
        validate (`Callable`, *optional*): `validate(model, step) -> float`, the validation accuracy in percent, called
            every `validate_every` steps and after the last.
        observer ([`Observer`], *optional*): told what happens; may end the run.
        defaults (`dict[str, Any]`, *optional*): what a setting is that a checkpoint, being older, does not name.

    Attributes:
        step_number (`int`): steps taken so far.
        seconds (`float`): what these steps took, without validations and checkpoints; on every process the main one's
            if `max_minutes` is set.

    Raises:
        `ValueError`: if only one of `validate` and `validate_every` is given.
    """

    def __init__(
        self,
        model: HabaModel,
        objective: Objective,
        arguments: DistillationArguments,
        adversary_arguments: AdversaryArguments,
        network_arguments: NetworkArguments,
        real_data: ImageData,
        accelerator: Accelerator,
        settings: Mapping[str, Any],
        validate: Callable[[HabaModel, int], float] | None = None,
        observer: Observer | None = None,
        defaults: Mapping[str, Any] | None = None,
    ):
        if (validate is not None) != bool(arguments.validate_every):
            raise ValueError("validate and validate_every need each other: give both or neither.")
        self.arguments = arguments
        self.accelerator = accelerator
        self.settings, self.defaults = settings, defaults
        self.validate = validate
        self.observer = observer or Observer()
        self.model = model.to(accelerator.device)
        self.objective = objective
        objective.prepare(real_data, model, accelerator)
        self.adversary = None
        if model.config.num_hallucinators >= 2 and adversary_arguments.plays:
            self.adversary = Adversary(network_arguments, arguments, adversary_arguments, real_data, accelerator)
        self.optimizers = self._optimizers()
        self.step_number = 0
        self.seconds = 0.0
        self.best: dict[str, float] | None = None
        self._stopped = False
        self._synchronize()

    @property
    def ended_by(self) -> Literal["steps", "max_minutes", "callback"] | None:
        """What ended the run; `None` while it goes on."""
        if self.step_number >= self.arguments.steps:
            return "steps"
        if self._stopped:
            return "callback"
        return "max_minutes" if self._spent() >= 1 else None

    def run(self) -> HabaModel:
        """
        Runs to the last step, from the newest checkpoint if there is one, and returns the model (the best by
        validation if `keep_best`). A run that has ended, be it by `max_minutes`, does not go on when it is run again,
        unless more `steps` are asked of it at constant learning rates.

        After Ctrl-C or SIGTERM the step is finished and a checkpoint written.

        Raises:
            `KeyboardInterrupt`, `SystemExit`: then, saying how to go on.
            `FloatingPointError`: if a gradient is NaN or infinite, naming the step and the last good checkpoint.
            `OSError`: if `output_dir` cannot be written.
            `ValueError`: if the checkpoint there was written with other settings, or by another number of processes.
        """
        if self.accelerator.is_main_process:
            check_writable(self.arguments.output_dir)
        self.accelerator.wait_for_everyone()
        self.resume()
        observer, shown = self.observer, self.accelerator.is_main_process and self.observer.show_progress
        progress = Progress(
            "distilling", self.arguments.steps, done=self.step_number, shown=shown, every=observer.log_every
        )
        observer.on_begin(self)
        with progress, StopRequest() as request:
            while self.ended_by is None:
                observer.on_step_begin(self)
                started = time.perf_counter()
                logs = self.step()
                logs["seconds"] = self._shared_seconds(time.perf_counter() - started)
                self.seconds += logs["seconds"]
                last = self.ended_by is not None
                if self.validate is not None and (last or self.step_number % self.arguments.validate_every == 0):
                    logs["validation_accuracy"] = self.validate_and_keep_best(self.validate)
                    observer.on_validate(self, logs["validation_accuracy"])
                self.log(logs)
                progress.update(l_dd=logs["l_dd"])
                observer.on_step_end(self, logs)
                stopped_by, stop = self._agreed(request.signum, int(observer.stop))
                self._stopped = bool(stop)
                last = self.ended_by is not None
                if last or stopped_by or self.step_number % self.arguments.checkpoint_every == 0:
                    self.save()
                    observer.on_save(self)
                if stopped_by and not last:
                    raise request.end(stopped_by, f"step {self.step_number} is saved, {GO_ON}")
        observer.on_end(self)
        if self.best is not None:
            self._restore_best(self.best)
        return self.model

    def step(self) -> dict[str, float]:
        """One iteration of Algorithm 1: gradients of L_S and L_F, averaged over processes, then one step of each."""
        self._schedule()
        generator = self.generator()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        logs = self.objective.backward(self.model, generator)
        if self.adversary is not None:
            logs |= self.adversary.backward(self.model, generator)
        self.reduce_gradients()
        for optimizer in self.optimizers.values():
            optimizer.step()
        if self.objective.learns_student_learning_rate:
            with torch.no_grad():
                self.model.student_learning_rate.clamp_(min=self.arguments.alpha_min)
        self.step_number += 1
        return logs

    def generator(self) -> torch.Generator:
        """The CPU generator of this step and process."""
        return seeded_generator(self.arguments.seed, self.step_number, self.accelerator.process_index)

    def reduce_gradients(self) -> None:
        """Averages all gradients over processes with one collective; a part unused in this step counts as zero."""
        parameters = self._learned_parameters()
        flat = torch.cat(
            [
                (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).reshape(-1)
                for parameter in parameters
            ]
        )
        flat = self.accelerator.reduce(flat, reduction="mean")
        if not torch.isfinite(flat).all():
            checkpoint = latest_checkpoint(self.arguments.output_dir)
            raise FloatingPointError(
                f"The gradient became NaN or infinite at step {self.step_number}. Last good checkpoint: "
                f"{checkpoint or 'none'}. Lower basis_learning_rate and hallucinator_learning_rate, or "
                "student_learning_rate, and start in another output_dir."
            )
        sizes = [parameter.numel() for parameter in parameters]
        for parameter, part in zip(parameters, flat.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)

    def validate_and_keep_best(self, validate: Callable[[HabaModel, int], float]) -> float:
        """Validation accuracy now, in percent; remembers the model if it is the best so far."""
        accuracy = validate(self.model, self.step_number)
        if self.arguments.keep_best and (self.best is None or accuracy > self.best["validation_accuracy"]):
            self.best = {"step": self.step_number, "validation_accuracy": accuracy}
            if self.accelerator.is_main_process:
                with atomic_directory(best_directory(self.arguments.output_dir, self.step_number)) as aside:
                    self.model.save_pretrained(aside)
        return accuracy

    def log(self, logs: dict[str, float]) -> None:
        """One line of `metrics.jsonl` and the trackers."""
        if self.accelerator.is_main_process:
            with open(self._metrics_path(), "a") as file:
                file.write(json.dumps({"step": self.step_number, **logs}) + "\n")
        self.accelerator.log(logs, step=self.step_number)

    def save(self) -> None:
        """Writes a checkpoint from the main process."""
        if self.accelerator.is_main_process:
            state = {
                "step": self.step_number,
                "seconds": self.seconds,
                "settings": dict(self.settings),
                "processes": self.accelerator.num_processes,
                "threads": torch.get_num_threads(),
                "best": self.best,
            }
            save_checkpoint(self.arguments.output_dir, state, self._modules(), self.optimizers, self.objective.state())
        self.accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Goes on from the newest checkpoint in `output_dir`, if any; forgets log lines written after it."""
        path = latest_checkpoint(self.arguments.output_dir)
        if path is not None:
            state, objective_state = load_checkpoint(
                path,
                self.settings,
                self._modules(),
                self.optimizers,
                may_differ=self._may_differ,
                defaults=self.defaults,
            )
            self._check_state(path, state)
            self.objective.load_state(objective_state)
            self.step_number, self.seconds, self.best = state["step"], state["seconds"], state["best"]
            self.accelerator.print(f"Resuming at step {self.step_number} from {path}")
        self.accelerator.wait_for_everyone()  # until all have read it
        if self.accelerator.is_main_process:
            clean_checkpoints(self.arguments.output_dir)
        if self.accelerator.is_main_process and self._metrics_path().exists():
            lines = self._metrics_path().read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [line for line in lines if _step_of(line) in range(self.step_number + 1)]
            with atomic_file(self._metrics_path()) as aside:
                aside.write_text("".join(line + "\n" for line in kept))
        self.accelerator.wait_for_everyone()

    @property
    def _may_differ(self) -> tuple[str, ...]:
        """More steps continue a run as if they had been asked for at first, where no learning rate depends on them."""
        fixed = self.arguments.learning_rate_schedule == "constant" and not self.arguments.learning_rate_halvings
        return ("steps",) if fixed and self.arguments.max_minutes is None else ()

    def _check_state(self, path: Path, state: dict[str, Any]) -> None:
        if state["step"] > self.arguments.steps:
            raise ValueError(
                f"{path} is beyond the {self.arguments.steps} steps asked for: choose another output_dir, or delete "
                "the checkpoints there to start anew."
            )
        if state["processes"] != self.accelerator.num_processes:
            raise ValueError(
                f"{path} was written by {state['processes']} process(es), but this run has "
                f"{self.accelerator.num_processes}, whose random numbers are others: launch as many as before, or "
                "choose another output_dir."
            )
        best = state["best"]
        if best is not None and not best_directory(self.arguments.output_dir, best["step"]).is_dir():
            raise ValueError(f"{path} is damaged (the model of step {best['step']}, its best, is gone): delete it.")
        threads = torch.get_num_threads()
        if state["threads"] != threads and self.accelerator.device.type == "cpu":
            self.accelerator.print(
                f"Going on with {threads} thread(s) where {state['threads']} began: the last bits of sums will differ."
            )

    def _agreed(self, *numbers: int) -> list[int]:
        """Of each number the greatest of any process, such as the signal that one of them got, by one collective."""
        if self.accelerator.num_processes == 1:
            return list(numbers)
        found = self.accelerator.gather(torch.tensor([numbers], device=self.accelerator.device))
        return found.amax(dim=0).tolist()

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        arguments, model = self.arguments, self.model
        hallucinators = [
            parameter
            for module in (model.hallucinators, model.encoder, model.decoder)
            if module is not None
            for parameter in module.parameters()
        ]
        groups: list[dict] = [{"params": [model.bases], "lr": arguments.basis_learning_rate}]
        if hallucinators:
            groups.append({"params": hallucinators, "lr": arguments.hallucinator_learning_rate})
        if model.label_logits is not None:
            groups.append({"params": [model.label_logits], "lr": arguments.label_learning_rate})
        if self.objective.learns_student_learning_rate:
            groups.append({"params": [model.student_learning_rate], "lr": arguments.alpha_learning_rate})
        if model.raw_step_sizes is not None:
            groups.append({"params": [model.raw_step_sizes], "lr": arguments.step_size_learning_rate})
        for group in groups:
            group["peak_lr"] = group["lr"]
        optimizers: dict[str, torch.optim.Optimizer] = {}
        if arguments.optimizer == "adam":
            optimizers["optimizer"] = torch.optim.Adam(groups, betas=(arguments.adam_beta1, 0.999))
        else:
            optimizers["optimizer"] = torch.optim.SGD(groups, momentum=arguments.momentum)
        if self.adversary is not None:
            optimizers["adversary_optimizer"] = torch.optim.SGD(
                self.adversary.trained, lr=self.adversary.settings.adversary_learning_rate, momentum=0.9
            )
        return optimizers

    def _schedule(self) -> None:
        progress = max(self.step_number / self.arguments.steps, self._spent())
        factor = 0.5 ** sum(progress >= fraction for fraction in self.arguments.learning_rate_halvings)
        if self.arguments.learning_rate_schedule == "cosine":
            factor *= 0.5 * (1 + math.cos(math.pi * progress))
        for group in self.optimizers["optimizer"].param_groups:
            group["lr"] = group["peak_lr"] * factor

    def _spent(self) -> float:
        """The fraction of `max_minutes` that steps have taken, 0 without such a limit."""
        return 0.0 if self.arguments.max_minutes is None else self.seconds / (60 * self.arguments.max_minutes)

    def _shared_seconds(self, seconds: float) -> float:
        """The main process's seconds of a step, so that no process ends before another."""
        if self.arguments.max_minutes is None:
            return seconds
        return broadcast(torch.tensor(seconds, device=self.accelerator.device)).item()

    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {"model": self.model}
        if self.adversary is not None:
            modules["adversary"] = self.adversary.network
        return modules

    def _learned_parameters(self) -> list[nn.Parameter]:
        return [
            parameter
            for optimizer in self.optimizers.values()
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]

    @torch.no_grad()
    def _synchronize(self) -> None:
        """Gives every process the main process's parameters."""
        for module in self._modules().values():
            for parameter in module.parameters():
                parameter.copy_(broadcast(parameter.detach().clone()))

    def _metrics_path(self) -> Path:
        return Path(self.arguments.output_dir) / METRICS

    def _restore_best(self, best: dict[str, float]) -> None:
        self.accelerator.wait_for_everyone()
        directory = best_directory(self.arguments.output_dir, int(best["step"]))
        self.model.load_state_dict(HabaModel.from_pretrained(directory).state_dict())
        self.accelerator.print(
            f"Kept step {best['step']}, the best of the validations ({best['validation_accuracy']:.1f} %)"
        )


def _step_of(line: str) -> Any:
    """The step of a line of the log; `None` of one that a killed process, or someone else, left unreadable."""
    try:
        return json.loads(line)["step"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
