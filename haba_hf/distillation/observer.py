"""What may look on while a run goes, and end it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .distiller import Distiller


class Observer:
    """
    Told what a [`Distiller`] does; here every method does nothing. Of several processes each has its own.

    Attributes:
        stop (`bool`): set to `True`, on whatever process, it ends the run after the current step, with a checkpoint.
        log_every (`int`, *optional*): steps between two lines of progress where there is no terminal.
        show_progress (`bool`): whether there is a bar, or lines.
    """

    stop = False
    log_every: int | None = None
    show_progress = True

    def on_begin(self, distiller: "Distiller") -> None:
        """Before the first step of this process, after resuming."""

    def on_step_begin(self, distiller: "Distiller") -> None:
        """Before each step."""

    def on_step_end(self, distiller: "Distiller", logs: dict[str, float]) -> None:
        """After each step, with what is logged of it."""

    def on_validate(self, distiller: "Distiller", accuracy: float) -> None:
        """After a validation: its accuracy in percent."""

    def on_save(self, distiller: "Distiller") -> None:
        """After a checkpoint."""

    def on_end(self, distiller: "Distiller") -> None:
        """After the last step."""
