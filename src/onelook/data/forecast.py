"""Forecast of time and memory, from the first part of the work itself."""

import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from onelook.errors import describe_seconds, plural
from onelook.events import Forecast, Progress, relay
from onelook.machine import peak_memory

Result = TypeVar("Result")

ANNOUNCED = 60
"""Seconds of work that are announced before they are spent."""
MEASURED = 6
"""Seconds of work that are measured before anything is said."""


def announce(
    work: Generator[Any, None, Result],
    stage: str,
    n_more: float = 0.0,
    more_bytes: int = 0,
    clock: Callable[[], float] = time.monotonic,
    resumes: bool = True,
) -> Generator[Any, None, Result]:
    """Run work on images, and say once how long all of it takes and in which memory; short work goes without words.

    stage: that of the Progress which is measured. n_more: duration of what follows, in images, because it is slower
    on a slow machine as well. more_bytes: memory of what follows. resumes: whether work that was stopped goes on.

    >>> from itertools import count
    >>> from onelook.events import finish
    >>> work = (Progress("reading", done, 9_000) for done in range(0, 9_000, 100))
    >>> said = []
    >>> finish(announce(work, "reading", clock=count(0, 2).__next__), said.append)
    >>> [(one.text.partition(" and ")[0], one.seconds) for one in said if isinstance(one, Forecast)]
    [('9,000 images: about 3 min', 182.0)]
    """
    begun, first = clock(), list[tuple[float, int]]()

    def watch(event: Any) -> Any:
        if len(first) == 2 or not isinstance(event, Progress) or event.stage != stage:
            return event
        now = clock()
        if not first:  # the first pass is slower than the others
            first.append((now, event.done))
        seconds, n_done = now - first[0][0], event.done - first[0][1]
        if seconds < MEASURED or not n_done:
            return event
        first.append((now, event.done))  # once is enough
        total = now - begun + seconds / n_done * (event.total - event.done + n_more)
        if total < ANNOUNCED:
            return event
        n_bytes = peak_memory() + more_bytes
        cost = f"about {describe_seconds(total)} and {n_bytes / 2**30:.1f} GiB of memory on this machine"
        text = f"{plural(event.total, 'image')}: {cost}; Ctrl-C stops it"
        text = f"{text}, and the same command goes on." if resumes else f"Labels for {text}."
        return Forecast(text, total, n_bytes)

    return relay(work, watch)
