"""Models of the hub, against a server of our own that answers as it does."""

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from onelook.backbones.hub import KNOWN, RECOMMENDED, describe, fetch, split_name
from onelook.backbones.pretrained import resolve
from onelook.errors import DownloadError, SettingsError
from onelook.events import Notice, Progress, finish

REPOSITORY = "someone/tiny"
COMMIT = "a" * 40


class Hub(http.server.ThreadingHTTPServer):
    """Has one model, of the files in `files`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        """Method, path and range of every request."""
        self.cuts = 0
        """How many of the next answers with weights break off in the middle."""
        self.status = 0
        """What is answered to everything; 0: what is right."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server.asked.append(f"{self.command} {path} {self.headers['Range'] or ''}".strip())
        if self.server.status:
            self.answer(self.server.status, b"{}")
        elif re.fullmatch(rf"/api/models/{REPOSITORY}(/revision/[^/]+)?", path):
            siblings = [{"rfilename": n, "size": len(c)} for n, c in self.server.files.items()]
            about = {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings, "cardData": {"license": "mit"}}
            self.answer(200, json.dumps(about).encode())
        elif path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            tree = [{"type": "file", "path": n, "size": len(c), "oid": tag(c)} for n, c in self.server.files.items()]
            self.answer(200, json.dumps(tree).encode())
        elif (file := re.fullmatch(rf"/{REPOSITORY}/resolve/[^/]+/(.+)", path)) and file[1] in self.server.files:
            self.file(self.server.files[file[1]], file[1])
        else:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def file(self, content: bytes, name: str) -> None:
        headers = {"ETag": f'"{tag(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        start = int(asked[1]) if asked else 0
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = bool(self.server.cuts) and self.command == "GET" and name.endswith(".safetensors")
        self.server.cuts -= cut
        self.answer(206 if asked else 200, content[start:], headers, cut)

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = cut

    def log_message(self, *_: object) -> None:
        pass


def tag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    with Hub() as server:
        server.files = {
            "config.json": b"{}",
            "preprocessor_config.json": b"{}",
            "model.safetensors": bytes(range(256)) * 4000,
            "pytorch_model.bin": b"never",
            "onnx/model.onnx": b"never",
            "README.md": b"never",
        }
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_download_is_announced_then_arrives_whole_and_without_what_is_not_needed(hub: Hub, tmp_path: Path) -> None:
    events: list[Any] = []

    def work() -> Iterator[Any]:
        folder = yield from fetch(REPOSITORY, endpoint=hub.address, cache=tmp_path)
        events.append(folder)

    said = list(work())
    assert said[0] == Notice(
        "Downloading someone/tiny, licence mit, 1 MB; images: as its preprocessor_config.json says."
    )
    assert all(isinstance(event, Progress) for event in said[1:])
    assert not any("/resolve/" in line for line in hub.asked[: hub.asked.index("GET /api/models/someone/tiny")])
    found = {str(f.relative_to(events[0])): f.read_bytes() for f in events[0].rglob("*") if f.is_file()}
    needed = ("config.json", "preprocessor_config.json", "model.safetensors")
    assert found == {name: hub.files[name] for name in needed}


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)  # of which only whole ones are kept
    hub.cuts = 1
    folder = finish(fetch(REPOSITORY, endpoint=hub.address, cache=tmp_path))
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    kept = len(hub.files["model.safetensors"]) // 2 // 10_000 * 10_000
    assert f"GET /someone/tiny/resolve/{COMMIT}/model.safetensors bytes={kept}-" in hub.asked
    assert capfd.readouterr() == ("", "")


def test_what_is_whole_is_not_fetched_again_after_a_failure(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = 100
    with pytest.raises(DownloadError, match=r"someone/tiny could not be downloaded: .*the same command goes on"):
        finish(fetch(REPOSITORY, endpoint=hub.address, cache=tmp_path))
    hub.cuts = 0
    hub.asked.clear()
    finish(fetch(REPOSITORY, endpoint=hub.address, cache=tmp_path))
    assert not any(line.startswith("GET") and line.endswith("/config.json") for line in hub.asked)


def test_what_is_on_this_machine_is_taken_without_a_request(hub: Hub, tmp_path: Path) -> None:
    first = finish(fetch(REPOSITORY, endpoint=hub.address, cache=tmp_path))
    hub.asked.clear()
    assert list(fetch(REPOSITORY, endpoint=hub.address, cache=tmp_path)) == []
    assert finish(fetch(REPOSITORY, offline=True, endpoint=hub.address, cache=tmp_path)) == first
    assert hub.asked == []


def test_offline_says_what_is_missing_and_asks_nobody(hub: Hub, tmp_path: Path) -> None:
    sentence = (
        r"^hf:someone/tiny is not on this machine as a whole \({} missing\), and offline nothing "
        r"is downloaded; run once without --offline\.$"
    )
    everything = sentence.format("config.json, preprocessor_config.json, model.safetensors")
    with pytest.raises(DownloadError, match=everything):
        finish(resolve(f"hf:{REPOSITORY}", offline=True, endpoint=hub.address, cache=tmp_path))
    assert hub.asked == []
    folder = finish(fetch(REPOSITORY, endpoint=hub.address, cache=tmp_path))
    (folder / "model.safetensors").unlink()
    with pytest.raises(DownloadError, match=sentence.format("model.safetensors")):
        finish(fetch(REPOSITORY, offline=True, endpoint=hub.address, cache=tmp_path))


def test_weights_in_shards_are_whole_with_all_of_them(hub: Hub, tmp_path: Path) -> None:
    weights = hub.files.pop("model.safetensors")
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    hub.files |= {"model.safetensors.index.json": b"{}", shards[0]: weights[:9], shards[1]: weights[9:]}
    folder = finish(fetch(REPOSITORY, endpoint=hub.address, cache=tmp_path))
    assert finish(fetch(REPOSITORY, offline=True, cache=tmp_path)) == folder
    (folder / shards[1]).unlink()
    with pytest.raises(DownloadError, match=r"model\.safetensors missing"):
        finish(fetch(REPOSITORY, offline=True, cache=tmp_path))


def test_a_model_without_safetensors_is_told(hub: Hub, tmp_path: Path) -> None:
    del hub.files["model.safetensors"]
    with pytest.raises(DownloadError, match=r"^hf:someone/tiny holds no model\.safetensors.*@REVISION"):
        finish(fetch(REPOSITORY, endpoint=hub.address, cache=tmp_path))


def test_a_model_that_the_hub_does_not_have_is_told(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"hf:someone/else could not be downloaded: 127.* has no such model"):
        finish(fetch("someone/else", endpoint=hub.address, cache=tmp_path))


def test_no_connection_is_told_in_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    for name in (REPOSITORY, "facebook/dinov2-small"):
        with pytest.raises(DownloadError, match=r"could not be downloaded: there is no connection to 127\.0\.0\.1:9;"):
            finish(fetch(name, endpoint="http://127.0.0.1:9", cache=tmp_path))


def test_a_failing_hub_is_told(hub: Hub, tmp_path: Path) -> None:
    hub.status = 418
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:\d+ answered 418"):
        finish(fetch(REPOSITORY, endpoint=hub.address, cache=tmp_path))


def test_a_model_is_described_from_the_table_or_by_the_hub(hub: Hub) -> None:
    hub.files["model.safetensors"] = bytes(3_000_000)
    assert describe("hf:someone/tiny", hub.address).megabytes == 3
    hub.asked.clear()
    assert str(describe(RECOMMENDED)).startswith("facebook/dinov2-small, licence Apache-2.0, 88 MB; ")
    assert hub.asked == []
    assert RECOMMENDED.removeprefix("hf:") in KNOWN


def test_a_name_is_a_repository_and_perhaps_a_revision() -> None:
    assert split_name("hf:a/b") == ("a/b", None)
    assert split_name("hf:a/b@v1") == ("a/b", "v1")
    for wrong in ("hf:", "hf:a/b/c", "hf:/b", "hf:../b", "hf:a b"):
        with pytest.raises(SettingsError, match="is no model of the hub"):
            split_name(wrong)
