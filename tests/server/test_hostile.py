"""A thousand requests that mean harm: none is served, none crashes the server, and nothing changes."""

import gc
import io
import json
import logging
import random
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.images import class_image, write_files
from helpers.server import Running, receive_all, running
from onelook.labelling.answer_log import LOG_NAME, read_reviewed
from onelook.labelling.label import LabelConfig
from onelook.machine import Place
from onelook.server.label_studio import Backend
from onelook.server.review import make_app
from onelook.server.service import Service, create_app
from onelook.server.session import Session
from onelook.server.settings import LabelStudioConfig, Limits, ServeConfig
from onelook.server.uploads import Sizes

LIMITS = Limits(body=100_000, bodies=2**24, requests=64, send_seconds=1.0)
ROWS = {"features": [[0.0, 1.0], [1.0, 0.0]], "labels": ["a", "b"]}
V1 = "/v1/classifiers"
# Starlette leaves the file of a part that never ends to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")
REFUSALS = {400, 403, 404, 405, 408, 409, 411, 413, 415, 421, 422, 429, 501, 503, 505}
SCRIPT = [
    "<script>alert(1)</script>",
    "%3Cscript%3E",
    "'\"><img src=x>",
    "javascript:alert(1)",
    "{{7*7}}",
    "${7*7}",
    "'; DROP",
]
STEPS = ["..", "%2e%2e", "..%2f", "%252e%252e", "..%5c", ".%2e", "%c0%ae%c0%ae", "....//", "%00", "~", "C:", "\\\\host"]
TARGETS = ["etc/passwd", "secret", "label-studio.sqlite", ".git/config", "proc/self/environ", "windows/win.ini"]


def head(method: str, path: str, *lines: str, host: str = "localhost") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *lines, "", ""]).encode(
        "latin-1"
    )


def post(path: str, body: bytes, kind: str = "application/json", *lines: str, method: str = "POST") -> bytes:
    return head(method, path, f"Content-Type: {kind}", f"Content-Length: {len(body)}", *lines) + body


def traversal(draw: random.Random) -> bytes:
    steps = "/".join(draw.choice(STEPS) for _ in range(draw.randint(1, 6)))
    path = f"{draw.choice(['', V1, V1 + '/a', '/docs.css', '/data'])}/{steps}/{draw.choice(TARGETS)}"
    if draw.random() < 0.3:
        return post(path + draw.choice(["", "/examples", "/predict"]), json.dumps(ROWS).encode())
    return head(draw.choice(["GET", "DELETE", "PUT"]), path.replace(" ", "%20"))


def oversized(draw: random.Random) -> bytes:
    size = draw.choice([LIMITS.body + 1, 10**9, 10**17, 10**30])
    kind = draw.choice(["length", "chunks", "head", "line", "rows"])
    if kind == "length":
        return (
            head("POST", f"{V1}/a/predict", "Content-Type: application/json", f"Content-Length: {size}") + b"{" * 1000
        )
    if kind == "chunks":
        return (
            head("POST", f"{V1}/a/predict", "Content-Type: application/json", "Transfer-Encoding: chunked")
            + (b"fff0\r\n" + b"1" * 0xFFF0 + b"\r\n") * 3
        )
    if kind == "head":
        return head("GET", "/v1", *[f"X-{i}: {'x' * 1000}" for i in range(600)])
    if kind == "line":
        return head("GET", f"{V1}/{'x' * 40_000}")
    return post(f"{V1}/kept/predict", json.dumps({"features": [[0.0, 1.0]] * 5000}).encode())


def slow(draw: random.Random) -> bytes:
    whole = post(f"{V1}/kept/predict", json.dumps(ROWS).encode())
    return whole[: draw.randint(1, len(whole) - 1)]


def malformed_json(draw: random.Random) -> bytes:
    texts = ["{", "[]", "null", '"x"', "1e999", '{"features": [[NaN]]}', '{"features": [[1e999]]}', '{"features": "x"}']
    texts += ["[" * 50_000, '{"features":' * 5_000, '{"features": [[1, 2], [3]]}', '{"features": [[]]}', "{'a': 1}"]
    texts += [
        '{"features": [[1,2]], "__proto__": {}}',
        '{"features": [["1"]]}',
        '{"features": [[true]]}',
        "\ufeff{}",
        "",
    ]
    texts += [
        '{"labels": ["a"], "features": [[1, 2]], "labels": [[]]}',
        '{"features": {"a": 1}}',
        '{"features": [[1,2,3]]}',
    ]
    content = draw.choice(texts).encode()
    if draw.random() < 0.3:
        content = bytes(draw.randrange(256) for _ in range(draw.randint(1, 300)))
    path = draw.choice([f"{V1}/kept/predict", f"{V1}/new", f"{V1}/kept/examples", "/predict", "/setup", "/webhook"])
    return post(path, content, draw.choice(["application/json", "application/x-npz", "text/plain", "application/xml"]))


def malformed_form(draw: random.Random) -> bytes:
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n'
    bodies = [
        b"",
        b"--b",
        b"--b--",
        b"x" * 5000,
        part,
        part + b"x",
        part * 700 + b"--b--\r\n",
        b"--b\r\n\r\n\r\n--b--\r\n",
    ]
    bodies += [part + hostile_image(draw) + b"\r\n--b--\r\n" for _ in range(6)]
    bodies += [
        b"--b\r\n" + b"A: b\r\n" * 5000 + b"\r\nx\r\n--b--\r\n",
        part.replace(b"image", b"label") + b"x\r\n--b--\r\n",
    ]
    kind = draw.choice(
        ["multipart/form-data; boundary=b"] * 5 + ["multipart/form-data", "multipart/form-data; boundary="]
    )
    return post(draw.choice([f"{V1}/kept/predict", f"{V1}/new", f"{V1}/kept/examples"]), draw.choice(bodies), kind)


def hostile_image(draw: random.Random) -> bytes:
    """Bytes that pretend to be an image: damaged, cut, of absurd size, or of a format that is never read."""
    whole = class_image(0, 0)
    size = struct.pack(">II5B", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", size), (b"IDAT", zlib.compress(b"\0" * 10_000)), (b"IEND", b"")]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    flipped = bytearray(whole[:60])
    flipped[draw.randrange(8, 60)] ^= 255
    postscript, svg = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg onload='alert(1)'/>"
    return draw.choice([whole[: draw.randrange(50)], bytes(flipped), bomb, postscript, svg, b"GIF89a", b"\0" * 1000])


def malformed_http(draw: random.Random) -> bytes:
    lines = [
        b"GET",
        b"GET /",
        b"GET / HTTP/9.9",
        b"GET / HTTP/1.1\r\nHost localhost",
        b"\x16\x03\x01\x02\x00\x01",
        b"\0" * 100,
    ]
    lines += [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x",
        b"GET / HTTP/1.1\r\n Host: localhost",
        b"PRI * HTTP/2.0",
    ]
    lines += [
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\nGET /v1 HTTP/1.1"
    ]
    lines += [
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, identity",
        b"G\xc3\x89T / HTTP/1.1\r\nHost: localhost",
    ]
    noise = bytes(draw.randrange(256) for _ in range(draw.randint(1, 500)))
    return (
        draw.choice([*lines, noise, head(draw.choice(["TRACE", "CONNECT", "PATCH", "FOO"]), "/v1")[:-4]]) + b"\r\n\r\n"
    )


def wrong_host(draw: random.Random) -> bytes:
    hosts = [
        "evil.example",
        "localhost.evil.example",
        "10.0.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "",
        "a b",
        "localhost@evil",
        "[::2]",
    ]
    return head("GET", draw.choice(["/v1", V1, f"{V1}/kept", "/docs", "/health"]), host=draw.choice(hosts))


def cross_site(draw: random.Random) -> bytes:
    lines = [
        "Origin: http://evil.example",
        "Origin: null",
        "Sec-Fetch-Site: cross-site",
        "Origin: http://localhost:1",
        "Sec-Fetch-Site: same-site",
    ]
    own = [draw.choice(lines), draw.choice(["X: y", "Referer: http://localhost/", "Sec-Fetch-Mode: cors"])]
    if draw.random() < 0.5:
        kind = draw.choice(["application/json", "text/plain"])
        return post(draw.choice([f"{V1}/new", f"{V1}/kept/predict", "/webhook"]), json.dumps(ROWS).encode(), kind, *own)
    return head(draw.choice(["GET", "DELETE", "OPTIONS"]), f"{V1}/kept", *own)


def script_names(draw: random.Random) -> bytes:
    name = draw.choice(SCRIPT).replace(" ", "%20") * draw.randint(1, 3)
    if draw.random() < 0.3:
        return post(f"{V1}/new?network={name}&average={name}", json.dumps(ROWS | {"labels": ["a", ""]}).encode())
    if draw.random() < 0.5:
        return post(f"{V1}/{name}", json.dumps(ROWS).encode(), method=draw.choice(["POST", "PUT"]))
    return head("GET", f"{draw.choice(['/', V1 + '/', '/docs/'])}{name}")


def hostile_arrays(draw: random.Random) -> bytes:
    stream = io.BytesIO()
    kind = draw.choice(["pickle", "bomb", "noise", "names", "header"])
    if kind == "pickle":
        np.savez(stream, features=np.array([[print]], dtype=object))
    elif kind == "bomb":
        np.savez_compressed(stream, features=np.zeros((1, 10**6)))
    else:
        content = io.BytesIO()
        np.save(content, np.zeros((2, 2)))
        text = content.getvalue().replace(b"(2, 2)", draw.choice([b"(9, 9)", b"(-1,2)", b"(8, 8)"]))
        with zipfile.ZipFile(stream, "w") as archive:
            names = [f"../{i}" for i in range(30)] if kind == "names" else ["features.npy"]
            for name in names:
                archive.writestr(name, text if kind == "header" else bytes(draw.randrange(256) for _ in range(200)))
    return post(draw.choice([f"{V1}/kept/predict", f"{V1}/new"]), stream.getvalue(), "application/x-npz")


def hostile_tasks(draw: random.Random) -> bytes:
    entity = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><View>&b;</View>'
    config = draw.choice([entity, "<View", "<View/>", "x", "<View>" * 3000])
    bodies: list[Any] = [
        {"tasks": [{"id": 1, "data": {"image": "http://169.254.169.254/"}}], "project": "1", "label_config": config},
        {"tasks": "x", "project": "../1", "label_config": config},
        {"project": draw.choice(["x", "1e9", "-1", "9" * 50]), "schema": config, "hostname": "http://evil.example"},
        {"action": "ANNOTATION_CREATED", "project": {"id": "x"}},
        {"action": "START_TRAINING", "project": {"id": 1, "label_config": config}},
    ]
    return post(draw.choice(["/predict", "/setup", "/webhook"]), json.dumps(draw.choice(bodies)).encode())


KINDS: list[Callable[[random.Random], bytes]] = [
    traversal, oversized, slow, malformed_json, malformed_form, malformed_http, wrong_host, cross_site, script_names,
    hostile_arrays, hostile_tasks,
]  # fmt: skip


AT_REVIEW = {
    "/docs.css": "/static/app.js", "/docs": "/static", "/data": "/picture", "/health": "/api/queue",
    f"{V1}/kept/predict": "/api/answer", f"{V1}/kept/examples": "/api/classes", f"{V1}/new": "/api/answer",
    f"{V1}/kept": "/api/state", V1: "/api/arrays", "/v1": "/api/images",
    "/predict": "/api/answer", "/setup": "/api/classes", "/webhook": "/api/classes",
}  # fmt: skip
"""Addresses of the review page in place of those of the service that are as worth attacking."""


@dataclass(frozen=True)
class Prey:
    """A server that is attacked."""

    server: Running
    aim: Callable[[bytes], bytes]
    """Directs a request at it that was made for the service."""
    look: Callable[[], Any]
    """All that must be as it was before; raises where it does not answer as it should."""


def aim_at_review(content: bytes) -> bytes:
    line, end, rest = content.partition(b" HTTP/1.1")
    for path, own in AT_REVIEW.items():
        if path.encode() in line:
            return line.replace(path.encode(), own.encode(), 1) + end + rest
    return content


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr("onelook.server.listen.HEADER_SECONDS", 1.0)
    (tmp_path / "secret").write_text("secret")
    place = Place(tmp_path / "cache", precision="float32")
    service = Service(ServeConfig(tmp_path / "kept", "small"), place, Sizes(array_bytes=2**20, rows=1000))
    backend = Backend(service, LabelStudioConfig("http://127.0.0.1:9", None))
    with running(create_app(service, backend.routes()), LIMITS) as running_server:
        assert running_server.ask("POST", f"{V1}/kept", ROWS).status == 201
        yield running_server


@pytest.fixture
def service(server: Running, tmp_path: Path) -> Prey:
    def look() -> Any:
        assert server.ask("GET", "/health").status == 200
        answer = server.ask("POST", f"{V1}/kept/predict", {"features": [[0.0, 1.0]]})
        assert answer.json["predictions"][0]["label"] == "a"
        return {path: path.read_bytes() for path in (tmp_path / "kept").rglob("*.safetensors")}

    return Prey(server, lambda content: content, look)


@pytest.fixture
def review(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Prey]:
    monkeypatch.setattr("onelook.server.listen.HEADER_SECONDS", 1.0)
    folder = write_files(tmp_path / "images", {f"{i}.png": class_image(i % 2, i) for i in range(4)})
    (tmp_path / "secret").write_text("secret")
    (folder / "secret.txt").write_text("secret")
    session = Session(LabelConfig(folder, network="small"), Place(tmp_path / "cache"), tmp_path / "out")
    with running(make_app(session), LIMITS) as server:
        assert server.ask("POST", "/api/answer", {"rows": [0], "new_class": "cat"}).status == 200

        def look() -> Any:
            told = server.ask("GET", "/api/state").json
            kept = read_reviewed(tmp_path / "out" / LOG_NAME).labels()
            files = sorted(path.name for path in tmp_path.rglob("*") if "cache" not in path.parts)
            return told["classes"], told["kinds"], told["can_undo"], kept, files

        yield Prey(server, aim_at_review, look)


def attack(prey: Prey, number: int) -> tuple[str, int | None]:
    """Send one hostile request; return its kind and the status of the answer, None where the server hangs up."""
    kind = KINDS[number % len(KINDS)]
    content = prey.aim(kind(random.Random(number)))
    with socket.create_connection(("127.0.0.1", prey.server.port), timeout=30) as connection:
        try:
            connection.sendall(content)
        except ConnectionError:
            return kind.__name__, None
        answer = receive_all(connection)
    assert b"Traceback" not in answer
    assert b"secret" not in answer.replace(b"/secret", b"")
    return kind.__name__, int(answer.split()[1]) if answer else None


@pytest.mark.parametrize("n_requests", [5 * len(KINDS), pytest.param(1_001, marks=pytest.mark.slow)])
@pytest.mark.parametrize("which", ["service", "review"])
def test_hostile_requests_are_not_served(
    which: str, n_requests: int, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    prey: Prey = request.getfixturevalue(which)
    before = prey.look()
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(12) as attackers:
        answers = list(attackers.map(lambda number: attack(prey, number), range(n_requests)))
    gc.collect()
    assert [one for one in answers if one[1] not in REFUSALS | {None}] == []
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
    assert prey.look() == before


def test_names_of_classes_and_files_are_data(server: Running) -> None:
    labels = ["<script>alert(1)</script>", "b"]
    answer = server.ask("POST", f"{V1}/marked", ROWS | {"labels": labels})
    assert answer.status == 201
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert [one["name"] for one in answer.json["classes"]] == sorted(labels)
