"""Ctrl-C and SIGTERM: a run ends at the next place where nothing is lost, and says how it goes on. A reader that has
gone ends it too."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

GO_ON = "run the same command again to go on"


class Terminated(SystemExit):
    """SIGTERM: like `KeyboardInterrupt` of Ctrl-C, with the exit status that a shell expects, 143."""

    def __init__(self, message: str = ""):
        super().__init__(128 + signal.SIGTERM)
        self.message = message

    def __str__(self) -> str:
        return self.message


class StopRequest:
    """
    While it is entered, a first Ctrl-C or SIGTERM is kept in `signum` instead of ending the program, so that a loop
    can end it where it likes; a second Ctrl-C ends it at once. Threads other than the main one get no signals.

    Attributes:
        signum (`int`): the signal that came, or 0.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = self.signum or number  # a launcher sends SIGTERM after Ctrl-C: the first one counts

    @staticmethod
    def end(number: int, message: str) -> BaseException:
        """What to raise for a signal."""
        return KeyboardInterrupt(message) if number == signal.SIGINT else Terminated(message)


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Within it SIGTERM unwinds the program as Ctrl-C does, so that what is half-written is removed."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_with_launcher() -> None:
    """
    Asks Linux for SIGTERM when `accelerate launch`, of which this is a child, ends: killed, it would leave a run
    behind that the next launch meets.
    """
    if sys.platform == "linux" and "ACCELERATE_DYNAMO_BACKEND" in os.environ:  # set by the launcher alone
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


@contextmanager
def ended_by_its_reader() -> Iterator[None]:
    """
    Ends the process quietly, with status 0, where the reader of its output has seen enough and gone, as `head` does.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to be flushed at the exit
        sys.exit(0)
