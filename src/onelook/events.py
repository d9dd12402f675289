"""Long work is a generator: it yields events while it runs, and what it returns is the result.

The command line draws a progress bar from the events, a server streams them, a test collects them, and
`finish` ignores them. Nothing below the shell prints, logs or calls back.
"""

from collections.abc import Generator
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


def finish(work: Generator[Any, None, Result]) -> Result:
    """Run long work to its end and return its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
