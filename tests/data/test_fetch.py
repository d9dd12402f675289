"""Downloads against a server of our own: whole, resumed, refused, damaged; and from there to an open benchmark."""

import errno
import hashlib
import http.server
import re
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import benchmarks as tiny
from onelook.data import fetch as fetching
from onelook.data.datasets import open_benchmark
from onelook.data.fetch import SOURCES, Source, download, fetch
from onelook.data.images import load
from onelook.data.verify import verify
from onelook.errors import DataError, DownloadError, StorageError
from onelook.events import Progress, finish

CONTENT = bytes(range(256)) * 2000
"""512,000 bytes."""


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder, with Range, and on demand badly."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.ranges: list[str | None] = []
        """The Range header of every request."""
        self.cuts = 0
        """How many of the next answers break off in the middle."""
        self.knows_ranges = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def publish(self, name: str, content: bytes) -> Source:
        (self.folder / name).write_bytes(content)
        return tiny.source_of(self.folder / name, self.address)


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers["Range"])
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "") if self.server.knows_ranges else None
        start = int(asked[1]) if asked else 0
        if asked and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        rest = content[start:]
        if self.server.cuts:
            self.server.cuts -= 1
            rest = rest[: len(rest) // 2]
        self.wfile.write(rest)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetching, "CHUNK", 10_000)
    (tmp_path / "published").mkdir()
    with Server(tmp_path / "published") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_download_arrives_whole_and_reports_its_bytes(server: Server, tmp_path: Path) -> None:
    source = server.publish("set.zip", CONTENT)
    events = list(download(source, tmp_path / "downloads"))
    assert (tmp_path / "downloads" / "set.zip").read_bytes() == CONTENT
    assert all(isinstance(event, Progress) for event in events)
    assert [event.done for event in events] == sorted({event.done for event in events})
    assert events[-1].done == events[-1].total == len(CONTENT)


def test_what_is_there_and_right_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    source = server.publish("set.zip", CONTENT)
    finish(download(source, tmp_path))
    assert list(download(source, tmp_path)) == []
    assert len(server.ranges) == 1


def test_after_a_cut_connection_only_the_rest_is_requested(server: Server, tmp_path: Path) -> None:
    source = server.publish("set.zip", CONTENT)
    server.cuts = 2
    assert finish(download(source, tmp_path)).read_bytes() == CONTENT
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.ranges if asked]
    assert server.ranges[0] is None
    assert len(starts) == 2
    assert 0.45 * len(CONTENT) < starts[0] < starts[1] < len(CONTENT)


def test_a_download_that_was_given_up_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    source = server.publish("set.zip", CONTENT)
    work = download(source, tmp_path)
    for event in work:
        if event.done > 100_000:
            break
    work.close()
    assert finish(download(source, tmp_path)).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={event.done}-"]


def test_a_server_that_ignores_ranges_sends_it_all_again(server: Server, tmp_path: Path) -> None:
    source = server.publish("set.zip", CONTENT)
    server.knows_ranges = False
    (tmp_path / "set.zip.part").write_bytes(b"something else")
    assert finish(download(source, tmp_path)).read_bytes() == CONTENT
    assert server.ranges == ["bytes=14-"]


def test_a_part_that_was_whole_already_is_taken(server: Server, tmp_path: Path) -> None:
    source = server.publish("set.zip", CONTENT)
    (tmp_path / "set.zip.part").write_bytes(CONTENT)
    assert finish(download(source, tmp_path)).read_bytes() == CONTENT


def test_a_wrong_hash_is_named_and_costs_nothing_that_was_there(server: Server, tmp_path: Path) -> None:
    source = server.publish("set.zip", CONTENT)
    (server.folder / "set.zip").write_bytes(CONTENT[:-1] + b"!")
    (tmp_path / "set.zip").write_bytes(b"an older one")
    found = hashlib.md5(CONTENT[:-1] + b"!").hexdigest()
    with pytest.raises(DownloadError) as caught:
        finish(download(source, tmp_path))
    for part in ("set.zip", source.md5, found, "was removed"):
        assert part in str(caught.value)
    assert (tmp_path / "set.zip").read_bytes() == b"an older one"
    assert {path.name for path in tmp_path.iterdir()} == {"set.zip", "published"}


def test_a_file_that_is_not_on_the_server_is_one_sentence(server: Server, tmp_path: Path) -> None:
    source = Source(f"{server.address}/gone.zip", "0" * 32)
    with pytest.raises(DownloadError, match=r"gone\.zip could not be downloaded from http.*: the server answered 404"):
        finish(download(source, tmp_path))


def test_a_connection_that_always_breaks_ends_with_what_is_kept(server: Server, tmp_path: Path) -> None:
    source = server.publish("set.zip", CONTENT)
    server.cuts = 1000
    with pytest.raises(DownloadError, match=r"the connection was cut; [\d,]+ bytes are saved"):
        finish(download(source, tmp_path))
    server.cuts = 0
    assert finish(download(source, tmp_path)).read_bytes() == CONTENT


def test_no_server_at_all_is_one_sentence(server: Server, tmp_path: Path) -> None:
    source = server.publish("set.zip", CONTENT)
    server.server_close()
    with pytest.raises(DownloadError, match=r"there is no connection to 127\.0\.0\.1\.$"):
        finish(download(source, tmp_path))


def test_a_full_disk_is_one_sentence(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Iterator[Progress]:
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    monkeypatch.setattr(fetching, "_receive", full)
    with pytest.raises(StorageError, match="No space left on device"):
        finish(download(server.publish("set.zip", CONTENT), tmp_path))


def test_cifar_goes_from_the_official_binary_to_open_images(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    _, pixels = tiny.publish_cifar(server.folder)
    published = (tiny.source_of(server.folder / "cifar-100-binary.tar.gz", server.address),)
    tiny.use_facts(monkeypatch, tmp_path / "facts", "cifar-fs", tiny.CIFAR, pixels)
    tiny.use_facts(monkeypatch, tmp_path / "facts", "fc100", tiny.FC100, pixels)
    assert finish(fetch("fc100", home, published=published)) == home / "cifar-fs.zip"
    for name, splits in {"cifar-fs": tiny.CIFAR, "fc100": tiny.FC100}.items():
        assert finish(verify(name, home)).problems == ()
        for split, classes in splits.items():
            images = finish(load(open_benchmark(name, split, home), 32, 3))
            rows = zip(images.labels, images.pixels[0], strict=True)
            found = sorted((images.class_names[k], row.permute(1, 2, 0).numpy().tobytes()) for k, row in rows)
            assert found == sorted((label, content) for label in classes for content in pixels[label])
    assert [path.name for path in home.rglob("*") if path.is_file()] == ["cifar-fs.zip"]
    with zipfile.ZipFile(home / "cifar-fs.zip") as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}


def test_omniglot_keeps_the_official_files_and_names_classes_by_alphabet_and_number(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, pixels = tiny.publish_omniglot(server.folder)
    published = tuple(Source(f"{server.address}/{source.file_name}", source.md5) for source in sources)
    tiny.use_facts(monkeypatch, tmp_path / "facts", "omniglot", tiny.OMNIGLOT, pixels)
    finish(fetch("omniglot", tmp_path / "home", published=published))
    assert finish(verify("omniglot", tmp_path / "home")).problems == ()
    listing = open_benchmark("omniglot", "test", tmp_path / "home")
    assert listing.class_names == ("ULOG__01",)
    assert listing.names[0] == "test/ULOG__01/0004_01.png"
    with zipfile.ZipFile(server.folder / "images_evaluation.zip") as official:
        assert listing.read(listing.names[0]) == official.read("images_evaluation/ULOG/character01/0004_01.png")


def test_a_sound_benchmark_is_not_fetched_again_and_a_damaged_one_is_replaced(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pixels = tiny.publish_cifar(server.folder)
    published = (tiny.source_of(server.folder / "cifar-100-binary.tar.gz", server.address),)
    tiny.use_facts(monkeypatch, tmp_path / "facts", "cifar-fs", tiny.CIFAR, pixels)
    path = finish(fetch("cifar-fs", tmp_path, published=published))
    whole = path.read_bytes()
    finish(fetch("cifar-fs", tmp_path, published=published))
    assert len(server.ranges) == 1
    path.write_bytes(whole[: len(whole) // 2])
    finish(fetch("cifar-fs", tmp_path, published=published))
    assert path.read_bytes() == whole
    path.write_bytes(b"of somebody else")
    with pytest.raises(DataError, match="nothing that Onelook wrote; move it"):
        finish(fetch("cifar-fs", tmp_path, published=published))
    assert path.read_bytes() == b"of somebody else"


def test_archives_that_the_user_has_are_used_without_a_download(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, pixels = tiny.publish_cifar(server.folder)
    tiny.use_facts(monkeypatch, tmp_path / "facts", "cifar-fs", tiny.CIFAR, pixels)
    finish(fetch("cifar-fs", tmp_path / "home", server.folder, (source,)))
    assert server.ranges == []
    assert (server.folder / source.file_name).exists()
    with pytest.raises(DataError, match=r"holds no file cifar-100-binary\.tar\.gz; download it from"):
        finish(fetch("cifar-fs", tmp_path / "other", tmp_path, (source,)))
    (server.folder / source.file_name).write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"cifar-100-binary\.tar\.gz has the MD5 \w+ instead of"):
        finish(fetch("cifar-fs", tmp_path / "other", server.folder, (source,)))


def test_images_that_are_not_the_published_ones_are_not_put_in_place(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, pixels = tiny.publish_cifar(server.folder)
    pixels["cup"][0] = bytes(3072)
    tiny.use_facts(monkeypatch, tmp_path / "facts", "cifar-fs", tiny.CIFAR, pixels)
    with pytest.raises(DataError, match=r"was not written.*val: the pixels are not the published ones"):
        finish(fetch("cifar-fs", tmp_path / "home", server.folder, (source,)))
    assert list((tmp_path / "home").iterdir()) == []


def test_no_published_file_is_a_pickle() -> None:
    names = [source.file_name for sources in SOURCES.values() for source in sources]
    assert names == ["cifar-100-binary.tar.gz", "images_background.zip", "images_evaluation.zip"]
