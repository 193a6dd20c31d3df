"""Starting Accelerate."""

import os
from typing import Any

from accelerate import Accelerator


def start_accelerator(**settings: Any) -> Accelerator:
    """
    An `Accelerator` whose processes know of each other.

    Raises:
        `ValueError`: if a launcher started several processes that would each run alone.
    """
    accelerator = Accelerator(**settings)
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise ValueError(
            f"{launched} processes were launched, but each of them runs alone: on CPUs, set ACCELERATE_USE_CPU=1 for "
            "the launcher."
        )
    return accelerator
