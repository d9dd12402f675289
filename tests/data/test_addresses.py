"""Files at addresses: stores that are busy are asked again, and what they refuse is not said of the files."""

import http.server
import threading
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from helpers.stores import store_at
from onelook.data import addresses
from onelook.data.addresses import PAUSES, Store, find_address, settle
from onelook.data.images import Rejected, each_image
from onelook.data.listing import Listing
from onelook.errors import DataError, StorageError, UnreachableError
from onelook.events import finish


class Busy(MemoryFileSystem):
    """A store in memory that refuses as often as there are errors."""

    protocol = "busy"
    errors: list[Exception | None] = []  # noqa: RUF012
    asked = 0

    def _answer(self) -> None:
        Busy.asked += 1
        if error := Busy.errors and Busy.errors.pop():
            raise error

    def cat_file(self, *given: object, **more: object) -> bytes:
        self._answer()
        return bytes(super().cat_file(*given, **more))

    def ls(self, *given: object, **more: object) -> object:
        self._answer()
        return super().ls(*given, **more)

    def pipe_file(self, *given: object, **more: object) -> None:
        self._answer()
        super().pipe_file(*given, **more)


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception, int], list[float]]:
    """Call it with an error and how often it comes; it returns the pauses that are made."""
    fsspec.register_implementation("busy", Busy, clobber=True)
    pauses = list[float]()
    monkeypatch.setattr(addresses.time, "sleep", pauses.append)
    Store("busy://place").write("a.png", b"pixels")

    def refuse(error: Exception, times: int) -> list[float]:
        Busy.errors[:], Busy.asked = [error] * times, 0
        return pauses

    return refuse


PASSING = [
    OSError("AWS Error SLOW_DOWN during GetObject operation"),
    TimeoutError("timed out"),
    type("ClientResponseError", (Exception,), {"status": 503})("503, message='Service Unavailable'"),
    PermissionError("The provided token has expired"),
]
FINAL = [
    FileNotFoundError(2, "no such file"),
    PermissionError("access denied"),
    OSError("AWS Error ACCESS_DENIED during HeadObject operation: No response body."),
    OSError("AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation: The specified bucket does not exist"),
    type("ClientResponseError", (Exception,), {"status": 403})("403, message='Forbidden'"),
]


def look(names: tuple[str, ...]) -> list[bytes | Rejected]:
    listing = Listing(names, (-1,) * len(names), (), "busy://place", Store("busy://place").read)
    return finish(each_image(listing, bytes, "reading images"))


@pytest.mark.parametrize("error", PASSING, ids=str)
def test_a_busy_store_is_asked_again_and_one_that_stays_so_ends_the_work(
    error: Exception, busy: Callable[[Exception, int], list[float]]
) -> None:
    pauses = busy(error, len(PAUSES))
    assert look(("a.png",)) == [b"pixels"]
    assert tuple(pauses) == PAUSES
    busy(error, len(PAUSES) + 1)
    with pytest.raises(
        UnreachableError, match=r"busy://place/a\.png cannot be read for the time being \(.*run the same"
    ):
        look(("a.png",))
    assert not Busy.errors


@pytest.mark.parametrize("error", FINAL, ids=str)
def test_a_file_that_is_refused_itself_is_asked_for_once_and_left_out(
    error: Exception, busy: Callable[[Exception, int], list[float]]
) -> None:
    pauses = busy(error, 1)
    (found,) = look(("a.png",))
    assert isinstance(found, Rejected)
    assert (Busy.asked, pauses) == (1, [])


def test_a_busy_store_takes_a_file_in_the_end(busy: Callable[[Exception, int], list[float]]) -> None:
    store = Store("busy://place")
    busy(PASSING[0], len(PAUSES))
    store.write("b.png", b"more")
    assert store.read("b.png") == b"more"
    busy(PASSING[0], len(PAUSES) + 1)
    with pytest.raises(StorageError, match="cannot be written"):
        store.write("c.png", b"none")


def test_no_folder_of_a_busy_store_is_taken_for_empty(busy: Callable[[Exception, int], list[float]]) -> None:
    store = Store("busy://place/nested")
    names = ["a.png", "b/c.png", "b/d/e.png"]
    for name in names:
        store.write(name, b"more")
    busy(PASSING[0], 0)
    assert list(store.list()) == names
    n_asked = Busy.asked
    assert n_asked == 3
    for refused in range(n_asked):  # whichever folder it is
        busy(PASSING[0], len(PAUSES))
        Busy.errors += [None] * refused
        assert list(store.list()) == names
    busy(PASSING[0], len(PAUSES) + 1)
    with pytest.raises(DataError, match="cannot be listed"):
        store.list()
    busy(PASSING[0], 0)
    assert Store("busy://place/missing").list() == {}


def test_an_address_that_no_package_here_reads_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_connect", lambda _: None)
    with pytest.raises(UnreachableError, match="cannot be reached"):
        Store("gs://bucket").read("a.png")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_an_object_is_read_although_the_store_is_busy_for_longer_than_its_client_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the retries of pyarrow, some 30 in 6 seconds, all fail the first time."""
    pytest.importorskip("pyarrow")
    left, content = [40], b"pixels"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            left[0] -= 1
            self.send_response(503 if left[0] > 0 else 200)
            self.send_header("Content-Length", "0" if left[0] > 0 else str(len(content)))
            self.end_headers()
            if left[0] <= 0 and self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with store_at(f"http://127.0.0.1:{server.server_port}", monkeypatch):
            assert Store("s3://bucket/images").read("a.png") == content
        server.shutdown()
    assert left[0] <= 0


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("s3:///bucket/a", "s3://bucket/a"),
        (Path("s3://bucket/a"), "s3://bucket/a"),
        ("hdfs:///user/a", "hdfs:///user/a"),
        ("hdfs://host/user/a", "hdfs://host/user/a"),
        ("file:///home/a", "file:///home/a"),
        (Path("file:///home/a"), "file:///home/a"),
        ("C:/a", None),
        ("/home/a", None),
    ],
)
def test_an_address_keeps_its_root(given: str | Path, found: str | None) -> None:
    assert find_address(given) == found


@pytest.mark.parametrize("prefix", ["", "file://", "memory:/"])
def test_a_file_is_there_until_it_is_removed_and_may_be_removed_twice(prefix: str, tmp_path: Path) -> None:
    store = Store(settle(f"{prefix}{tmp_path}"))
    store.write("below/a.json", b"1")
    assert list(store.list()) == ["below/a.json"]
    assert (tmp_path / "below" / "a.json").exists() == (prefix != "memory:/")
    assert store.measure("below/a.json") == (prefix != "memory:/")
    store.remove("below/a.json")
    store.remove("below/a.json")
    assert not store.list()


def test_other_processes_understand_a_settled_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert settle("images") == settle(Path("images")) == str(tmp_path / "images")
