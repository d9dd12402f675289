"""What the tests of commands share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests of a file: most label the same pictures."""
    return tmp_path_factory.mktemp("cache")
