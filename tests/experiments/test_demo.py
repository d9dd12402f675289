"""The demo: its forecast is that of a clock, and it is announced before anything else is done."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from onelook.events import Notice, Progress
from onelook.experiments import demo_stages
from onelook.experiments.demo import demo
from onelook.experiments.demo_stages import DemoConfig
from onelook.machine import Place


@pytest.mark.parametrize(("fixed", "slope"), [(3.0, 0.25), (0.0, 2.0)])
def test_the_cost_of_work_is_what_it_takes_whatever_its_size_and_what_each_unit_takes(
    fixed: float, slope: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(demo_stages.time, "perf_counter", lambda: now[0])

    def work(n: int) -> Generator[None, None, None]:
        yield
        now[0] += fixed + slope * n

    assert demo_stages._line(work, 10, 40) == pytest.approx((fixed, slope))


def test_the_demo_says_what_it_costs_before_it_begins_and_not_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_stages, "forecast", lambda *_: 130.0)
    place = Place(tmp_path / "cache", precision="float32")

    def first_events(n: int) -> list[Any]:
        work = demo(DemoConfig(), tmp_path, place)
        events = [next(work) for _ in range(n)]
        work.close()
        return events

    events = first_events(3)
    assert [e.text for e in events if isinstance(e, Notice)] == [
        "about 130 s on this machine; Ctrl-C stops it, and the same command goes on."
    ]
    assert isinstance(events[2], Progress)
    assert events[2].stage == "drawing characters"
    (tmp_path / "backbone").mkdir()
    assert not any(isinstance(e, Notice) for e in first_events(1))
