"""How thoroughly Hypothesis searches (`make test`: `fast`, `make test-all`: `thorough`), and shared fixtures."""

import gc
import importlib
from collections.abc import Iterator

import pytest
from hypothesis import settings

from onelook.artifacts import PHOTOGRAPHS, SMALL
from onelook.estimators import choosing

settings.register_profile("fast", max_examples=5, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=50, deadline=None)
settings.load_profile("fast")

gc.disable()  # until all is collected: modules and tests stay, and to look through them again and again takes seconds


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def small_network() -> Iterator[None]:
    """The small network takes the place of that for photographs, which takes a hundred times as long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "PHOTOGRAPHS", SMALL)
        yield


@pytest.fixture
def network_for_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network for photographs as people get it."""
    monkeypatch.setattr(choosing, "PHOTOGRAPHS", PHOTOGRAPHS)


@pytest.fixture(scope="module")
def small_forest() -> Iterator[None]:
    """Random forests of 3 trees: those of 100 take most of the time of a simulated user."""
    ensemble = importlib.import_module("sklearn.ensemble")  # late, because most tests need none of it
    forest = ensemble.RandomForestClassifier
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble, "RandomForestClassifier", lambda **more: forest(**more | {"n_estimators": 3}))
        yield
