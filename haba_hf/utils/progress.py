"""How far long work has come: a bar on a terminal, elsewhere, as in the log of a job, a line every half minute."""

import sys
import time
from types import TracebackType

from tqdm.auto import tqdm

SECONDS_BETWEEN_LINES = 30


class Progress:
    """
    Args:
        what (`str`): is being done.
        total (`int`): units of it.
        unit (`str`, *optional*, defaults to `"step"`): what is counted.
        done (`int`, *optional*, defaults to 0): units that an earlier run has done.
        shown (`bool`, *optional*, defaults to `True`): of several processes, on the main one.
        every (`int`, *optional*): elsewhere than on a terminal, a line every so many units in place of half minutes.
    """

    def __init__(
        self, what: str, total: int, unit: str = "step", done: int = 0, shown: bool = True, every: int | None = None
    ):
        self.what, self.total, self.unit, self.done, self.shown, self.every = what, total, unit, done, shown, every
        terminal = shown and sys.stderr.isatty()
        self._bar = tqdm(desc=what, total=total, unit=unit, initial=done, leave=False) if terminal else None
        self._started = self._last = time.monotonic()
        self._began_with = done

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, units: int = 1, /, **values: float) -> None:
        """So many units more, and what to say of them."""
        self.done += units
        said = [f"{name} {value:.4g}" for name, value in values.items()]
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(said), refresh=False)
            self._bar.update(units)
        elif self.shown and self._is_time():
            self._last = time.monotonic()
            left = (self._last - self._started) / (self.done - self._began_with) * (self.total - self.done)
            facts = ", ".join([f"{self.unit} {self.done:,} of {self.total:,}", *said, f"{_in_words(left)} left"])
            print(f"{self.what}: {facts}", file=sys.stderr, flush=True)

    def _is_time(self) -> bool:
        if self.every is not None:
            return self.done % self.every == 0
        return time.monotonic() - self._last >= SECONDS_BETWEEN_LINES


def _in_words(seconds: float) -> str:
    """Seconds, minutes or hours and minutes."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
