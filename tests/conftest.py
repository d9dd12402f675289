"""How thoroughly Hypothesis searches (`make test`: `fast`, `make test-all`: `thorough`), and shared fixtures."""

import gc
import importlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import jaxtyping
import pytest
from hypothesis import settings

from helpers.checking import check_once

# Before torch is loaded: a forked process has none of the threads of its parent, and would wait for them for ever.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts a command in the background lets it ignore Ctrl-C, which tests send to themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("fast", max_examples=5, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=50, deadline=None)
settings.load_profile("fast")

jaxtyping.jaxtyped = check_once  # before any of our modules is loaded

gc.disable()  # until all is collected: modules and tests stay, and to look through them again and again takes seconds


LEFT_OUT = {"slow", "realdata"}
DEFAULT = "not slow and not realdata"
"""Tests that `make test` runs (pyproject.toml)."""


def pytest_pycollect_makeitem(collector: pytest.Collector, obj: object) -> list[pytest.Item] | None:
    """Tests that are left out are not made first, in each process: they are more than the others."""
    marks = {mark.name for mark in getattr(obj, "pytestmark", ())}
    return [] if marks & LEFT_OUT and collector.config.option.markexpr == DEFAULT else None


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def from_onelook(module: str) -> Any:
    """Late, because the process that only hands tests to the others needs none of it."""
    return importlib.import_module(f"onelook.{module}")


@pytest.fixture(scope="session", autouse=True)
def small_network() -> Iterator[None]:
    """The small network takes the place of that for photographs, which takes a hundred times as long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(from_onelook("estimators.choosing"), "PHOTOGRAPHS", from_onelook("artifacts").SMALL)
        yield


@pytest.fixture
def network_for_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network for photographs as people get it."""
    monkeypatch.setattr(from_onelook("estimators.choosing"), "PHOTOGRAPHS", from_onelook("artifacts").PHOTOGRAPHS)


@pytest.fixture
def narrow_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wide network with a tenth of its channels: what is connected with what stays."""
    monkeypatch.setattr(from_onelook("backbones.wrn28"), "_WIDTHS", (16, 16, 32, 64))


@pytest.fixture(scope="module")
def small_forest() -> Iterator[None]:
    """Random forests of 3 trees: those of 100 take most of the time of a simulated user."""
    ensemble = importlib.import_module("sklearn.ensemble")  # late, because most tests need none of it
    forest = ensemble.RandomForestClassifier
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble, "RandomForestClassifier", lambda **more: forest(**more | {"n_estimators": 3}))
        yield
