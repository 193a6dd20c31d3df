"""Output that is read by another program."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


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
