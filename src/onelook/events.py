"""Long work is a generator: it yields events while it runs and returns its result.

The command line draws a progress bar from the events, a test collects them, and `finish` shows them to a function or
to nobody. Nothing below the command line prints or logs.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of `stage` are finished."""

    stage: str
    done: int
    total: int
    note: str = ""


@dataclass(frozen=True)
class Notice:
    """A sentence that a person should read while the work goes on, such as what it will cost."""

    text: str


@dataclass(frozen=True)
class Forecast(Notice):
    """A notice of what all of the work costs, from its beginning."""

    seconds: float
    n_bytes: int
    """Memory of the process at its peak."""


def relay(work: Generator[Any, None, Result], change: Callable[[Any], Any]) -> Generator[Any, None, Result]:
    """Run `work` and yield each of its events as `change` returns it; an event changed to None is not yielded.

    This is the one place that drives a generator by hand. It closes `work` when it is closed itself, so that an
    interruption reaches the innermost job.
    """
    try:
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            changed = change(event)
            if changed is not None:
                yield changed
    finally:
        work.close()


def finish(work: Generator[Any, None, Result], on_event: Callable[[Any], object] = lambda _: None) -> Result:
    """Run long work to its end, show each event to `on_event`, and return the result of the work.

    >>> def count():
    ...     yield Progress("counting", 1, 1)
    ...     return "done"
    >>> finish(count(), on_event=lambda event: print(event.stage))
    counting
    'done'
    """

    def swallow(event: Any) -> None:
        on_event(event)

    try:
        next(relay(work, swallow))
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("no event is left to yield")
