"""Starting Accelerate."""

import os
from datetime import timedelta

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from ..recipes import Recipe

# Processes wait for one another while one of them trains an expert or the last student.
PATIENCE = timedelta(days=1)


def start_accelerator(tracked: Recipe | None = None) -> Accelerator:
    """
    An `Accelerator` whose processes know of each other.

    Args:
        tracked ([`Recipe`], *optional*): of a run whose curves go to its `report_to`, under its `output_dir`.

    Raises:
        `ValueError`: if a launcher started several processes that would each run alone.
    """
    report_to = None if tracked is None or tracked.distillation.report_to == "none" else tracked.distillation.report_to
    accelerator = Accelerator(
        log_with=report_to,
        project_dir=None if tracked is None else tracked.distillation.output_dir,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise ValueError(
            f"{launched} processes were launched, but each of them runs alone: on CPUs, set ACCELERATE_USE_CPU=1 for "
            "the launcher."
        )
    return accelerator
