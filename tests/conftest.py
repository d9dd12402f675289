"""How thoroughly Hypothesis searches (`make test`: `fast`, `make test-all`: `thorough`), and shared fixtures."""

from collections.abc import Iterator

import pytest
import sklearn.ensemble
from hypothesis import settings

settings.register_profile("fast", max_examples=8, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=50, deadline=None)
settings.load_profile("fast")


@pytest.fixture(scope="module")
def small_forest() -> Iterator[None]:
    """Random forests of 3 trees: those of 100 take most of the time of a simulated user."""
    forest = sklearn.ensemble.RandomForestClassifier
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sklearn.ensemble, "RandomForestClassifier", lambda **more: forest(**more | {"n_estimators": 3}))
        yield
