"""The one pump of generators: nothing is lost on the way, and closing reaches the inside."""

from collections.abc import Generator
from typing import Any

import pytest

from onelook.events import Progress, finish, relay


def work(log: list[str], n: int = 3) -> Generator[Progress, None, str]:
    try:
        for i in range(n):
            yield Progress("work", i + 1, n)
        return "done"
    finally:
        log.append("closed")


def outer(log: list[str], change: Any) -> Generator[Any, None, str]:
    result = yield from relay(work(log), change)
    return result.upper()


def test_relayed_work_yields_changed_events_and_returns_its_result() -> None:
    log: list[str] = []
    events: list[Any] = []
    assert finish(outer(log, lambda e: e.done if e.done != 2 else None), events.append) == "DONE"
    assert events == [1, 3]
    assert log == ["closed"]


def test_closing_a_relay_closes_the_work_inside() -> None:
    log: list[str] = []
    relayed = outer(log, lambda e: e)
    next(relayed)
    relayed.close()
    assert log == ["closed"]


def test_an_error_of_the_listener_ends_the_work() -> None:
    log: list[str] = []

    def refuse(event: Progress) -> None:
        raise ValueError(event.done)

    with pytest.raises(ValueError, match="1"):
        finish(work(log), refuse)
    assert log == ["closed"]
