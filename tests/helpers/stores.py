"""An object store that this machine serves, in place of those of s3:// addresses."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from onelook.data import addresses


@contextmanager
def store_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever opens s3:// addresses in the block, here or in processes that begin in it, finds this endpoint."""
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {"AWS_ENDPOINT_URL": endpoint, **keys}.items():
        monkeypatch.setenv(name, value)
    addresses._connect.cache_clear()
    try:
        yield
    finally:
        addresses._connect.cache_clear()
