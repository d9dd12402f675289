"""Ray Data in this process: no Ray has to start for what a worker does."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from onelook.cluster.session import Session


class LocalSession(Session):
    """A session without Ray."""

    n_workers, n_gpus, lost = 1, 0, ()  # type: ignore[assignment]

    def __init__(self) -> None:
        pass

    @property
    def data(self) -> Any:
        return Data([])

    @contextlib.contextmanager
    def own_errors(self) -> Iterator[None]:
        yield


class Data:
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    ActorPoolStrategy = dict

    @staticmethod
    def from_items(items: list[dict[str, Any]], **_: Any) -> "Data":
        return Data(items)

    def map(self, work: Callable[..., Any], fn_constructor_args: tuple[Any, ...] = (), **_: Any) -> "Data":
        worker = work(*fn_constructor_args) if isinstance(work, type) else work
        return Data([worker(row) for row in self.rows])

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


@contextlib.contextmanager
def connect(*_: Any) -> Iterator[LocalSession]:
    yield LocalSession()
