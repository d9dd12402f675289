"""Forecasts are right where the work is even, and are said once and early."""

from collections.abc import Generator
from itertools import count

import pytest

from onelook.data import forecast
from onelook.data.forecast import announce
from onelook.events import Forecast, Notice, Progress, finish

STEP = 10


def work(total: int, n_known: int) -> Generator[Progress, None, str]:
    yield from (Progress("reading", done, total) for done in range(0, n_known, STEP))
    yield from (Progress("computing", done, total) for done in range(n_known, total, STEP))
    return "done"


def hear(total: int, seconds: float, n_more: float = 0.0, more_bytes: int = 0, n_known: int = 0) -> list[object]:
    """Events of work whose every measured step takes so many seconds."""
    ticks, events = count(0.0, seconds), list[object]()
    clock = ticks.__next__
    assert finish(announce(work(total, n_known), "computing", n_more, more_bytes, clock), events.append) == "done"
    return events


@pytest.mark.parametrize("n_known", [0, 4_000])
def test_even_work_takes_as_long_as_was_said_of_its_beginning(n_known: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "peak_memory", lambda: 3 << 29)
    events = hear(9_000, 2.0, 600.0, 1 << 29, n_known)
    (i,) = (i for i, one in enumerate(events) if isinstance(one, Notice))
    cost = f"about {round(2 * (9_000 + 600 - n_known) / STEP / 60)} min and 2.0 GiB of memory on this machine"
    assert isinstance(found := events[i], Forecast)
    assert found.text == f"9,000 images: {cost}; Ctrl-C stops it, and the same command goes on."
    assert (found.seconds, found.n_bytes) == (pytest.approx(2 * (9_000 + 600 - n_known) / STEP, rel=0.01), 2 << 30)
    assert i - n_known // STEP < 10


@pytest.mark.parametrize(("total", "seconds"), [(9_000, 0.05), (200, 2.0), (0, 1.0)])
def test_short_work_is_done_without_words(total: int, seconds: float) -> None:
    assert all(isinstance(one, Progress) for one in hear(total, seconds))
