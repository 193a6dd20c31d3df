"""What a network's costly parts give can be kept, so that a computation that is done twice, once without a graph and
once with it, need not compute them twice.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

Results = list[Tensor | None]

# Gives the results of a part, forward or backward, that it is told how to compute.
_source: ContextVar[Callable[[Callable[[], Results]], Results]] = ContextVar(
    "source", default=lambda compute: compute()
)


def replayable(compute: Callable[[], Results]) -> Results:
    """What `compute` gives; within [`recorded`] it is kept, within [`replayed`] it comes from what was kept."""
    return _source.get()(compute)


@contextmanager
def recorded(keep: Callable[[Results], None]) -> Iterator[None]:
    """Within it, what replayable parts and their first derivatives give is handed to `keep`, call by call."""

    def record(compute: Callable[[], Results]) -> Results:
        results = compute()
        keep(results)
        return results

    with _from(record):
        yield


@contextmanager
def replayed(results: Iterable[Results]) -> Iterator[None]:
    """
    Within it, replayable parts and their first derivatives give `results` and compute nothing: no gradient that was
    not wanted when they were recorded.

    Raises:
        `RuntimeError`: if there are fewer results than calls.
    """
    left = iter(results)

    def replay(compute: Callable[[], Results]) -> Results:
        found = next(left, None)
        if found is None:
            raise RuntimeError("More results are replayed than were recorded: it is not the same computation.")
        return found

    with _from(replay):
        yield


@contextmanager
def _from(source: Callable[[Callable[[], Results]], Results]) -> Iterator[None]:
    token = _source.set(source)
    try:
        yield
    finally:
        _source.reset(token)
