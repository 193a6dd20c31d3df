"""Starting Accelerate."""

import os
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from ..recipes import Recipe
from ..utils.interrupts import end_with_launcher

# Processes wait for one another while one of them trains an expert or the last student.
PATIENCE = timedelta(days=1)


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies matrices of bfloat16 by instructions of its own."""
    known = torch.cpu.get_capabilities()
    return any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def start_accelerator(tracked: Recipe | None = None) -> Accelerator:
    """
    An `Accelerator` whose processes know of each other.

    Args:
        tracked ([`Recipe`], *optional*): of a run whose curves go to its `report_to`, under its `output_dir`.

    Raises:
        `ValueError`: if a launcher started several processes that would each run alone.
    """
    end_with_launcher()
    report_to = None if tracked is None or tracked.distillation.report_to == "none" else tracked.distillation.report_to
    settings: dict[str, Any] = {
        "log_with": report_to,
        "project_dir": None if tracked is None else tracked.distillation.output_dir,
        "kwargs_handlers": [InitProcessGroupKwargs(timeout=PATIENCE)],
    }
    accelerator = Accelerator(**settings)
    if accelerator.mixed_precision == "bf16" and accelerator.device.type == "cpu" and not cpu_has_bfloat16():
        AcceleratorState._reset_state()
        accelerator = Accelerator(mixed_precision="no", **settings)
        accelerator.print("This CPU has no bfloat16 instructions, which would take ten times as long: using float32.")
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise ValueError(
            f"{launched} processes were launched, but each of them runs alone: on CPUs, set ACCELERATE_USE_CPU=1 for "
            "the launcher."
        )
    return accelerator
