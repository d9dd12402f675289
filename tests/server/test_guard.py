"""Laws of the guard: what it lets in, what it refuses, and what every answer carries."""

import base64
import socket
import time
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from helpers.server import Running, receive_all, running
from onelook.errors import SettingsError
from onelook.server.guard import HEADERS, POLICY
from onelook.server.settings import Limits, Listening

TOKEN = "correct-horse-battery"
LIMITS = Limits(body=1000, bodies=1500, requests=4, send_seconds=0.5)
served: list[str] = []
"""Bodies that the application has seen."""


async def echo(request: Request) -> PlainTextResponse:
    body = (await request.body()).decode()
    served.append(body)
    return PlainTextResponse(f"{request.method} {request.url.path}?{request.url.query} {body}")


async def flood(_: Request) -> StreamingResponse:
    return StreamingResponse(b"x" * 2**20 for _ in range(100))


APP = Starlette(routes=[Route("/flood", flood), Route("/{rest:path}", echo, methods=["GET", "POST", "DELETE"])])


@pytest.fixture(scope="module")
def local() -> Iterator[Running]:
    with running(APP, LIMITS) as server:
        yield server


@pytest.fixture(scope="module")
def secret() -> Iterator[Running]:
    with running(APP, token=TOKEN, open_paths=frozenset({"/health"})) as server:
        yield server


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "LOCALHOST:1", "127.0.0.1", "127.9.9.9", "[::1]:8000"])
def test_names_of_this_machine_are_answered_to(local: Running, host: str) -> None:
    assert local.ask("GET", "/", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.168.0.1",
        "a@localhost",
        "",
        "localhost:x",
    ],
)
def test_other_names_are_not(local: Running, host: str) -> None:
    answer = local.ask("GET", "/", headers={"Host": host})
    assert answer.status == 421
    assert answer.json == {"error": "The Host header names another server than this one."}


def test_a_server_for_others_answers_to_addresses_and_to_names_it_was_given() -> None:
    server = Listening("0.0.0.0", 0, TOKEN, ("Labels.example",))
    assert all(server.knows_host(host) for host in ("192.168.0.1:80", "labels.example", "localhost", "[2001:db8::1]"))
    assert not any(server.knows_host(host) for host in ("evil.example", "labels.example.evil.example"))


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "::", "labels.example"])
def test_listening_to_others_needs_a_token(host: str) -> None:
    with pytest.raises(SettingsError, match="a token is needed"):
        Listening(host)
    assert Listening(host, token=TOKEN).is_local is False


def test_a_token_is_long_enough() -> None:
    with pytest.raises(SettingsError, match="16 to 256 characters"):
        Listening(token="short")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://[::1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_pages_of_other_sites_are_refused(local: Running, method: str, headers: dict[str, str]) -> None:
    assert local.ask(method, "/", headers=headers).status == 403


def test_pages_of_this_server_links_and_programs_are_let_in(local: Running) -> None:
    own = {"Origin": local.url, "Sec-Fetch-Site": "same-origin"}
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert local.ask("POST", "/", b"own", own).content == b"POST /? own"
    assert local.ask("GET", "/", headers=link).status == 200
    assert local.ask("POST", "/", b"", link).status == 403  # a form of another site
    assert local.ask("POST", "/", b"curl").status == 200


def test_only_a_client_with_the_token_is_let_in(secret: Running) -> None:
    basic = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
    right = [f"Bearer {TOKEN}", f"Token {TOKEN}", f"bearer  {TOKEN}", f"Basic {basic}"]
    wrong = [f"Bearer {TOKEN}x", "Bearer", "Bearer é", f"Digest {TOKEN}", "Basic !", "Basic w6k6", ""]
    assert {secret.ask("GET", "/", headers={"Authorization": one}).status for one in right} == {200}
    assert {secret.ask("GET", "/", headers={"Authorization": one.encode()}).status for one in wrong} == {401}  # type: ignore[dict-item]
    assert secret.ask("GET", "/health").status == 200
    assert secret.ask("GET", "/health/").status == 401


def test_a_token_in_an_address_becomes_a_cookie(secret: Running) -> None:
    answer = secret.ask("GET", f"//evil.example/page?a=1&token={TOKEN}")
    assert (answer.status, answer.headers["location"]) == (303, "/evil.example/page?a=1")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert secret.ask("GET", "/page", headers={"Cookie": cookie.split(";")[0]}).status == 200
    assert secret.ask("GET", "/page?token=wrong-wrong-wrong-wrong").status == 401
    assert secret.ask("POST", f"/page?token={TOKEN}", b"").status == 401


def test_a_body_beyond_the_limit_is_refused_whether_its_size_is_told_or_not(local: Running) -> None:
    served.clear()
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    told = local.send(head + b"Content-Length: 1001\r\n\r\n" + b"x" * 1001)
    untold = local.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + b"fa0\r\n" + b"x" * 4000 + b"\r\n0\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 413")
    assert untold.startswith(b"HTTP/1.1 413")
    assert served == []
    assert local.ask("POST", "/", b"x" * 1000).status == 200


def test_requests_beyond_the_limit_are_told_to_come_again(local: Running) -> None:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400\r\n\r\n"
    waiting = [socket.create_connection(("127.0.0.1", local.port)) for _ in range(LIMITS.requests)]
    try:
        for one in waiting:
            one.sendall(head + b"x" * 300)
        time.sleep(0.2)
        answer = local.ask("GET", "/")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    finally:
        for one in waiting:
            one.close()
    time.sleep(0.2)
    assert local.ask("POST", "/", b"x" * 1000).status == 200, "bytes and requests are given back"


def test_a_slow_client_is_cut_off(local: Running) -> None:
    served.clear()
    with socket.create_connection(("127.0.0.1", local.port), timeout=10) as slow:
        slow.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nx")
        started = time.monotonic()
        assert receive_all(slow).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 5
    with socket.create_connection(("127.0.0.1", local.port), timeout=10) as reader:
        reader.sendall(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(1.5)
        assert len(receive_all(reader)) < 100 * 2**20, "who does not read is cut off"
    assert served == []


def test_a_head_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onelook.server.listen.HEADER_SECONDS", 0.3)
    with running(APP) as server, socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow:
        started = time.monotonic()
        for byte in b"GET / HTTP/1.1\r\nHost: localh":
            slow.send(bytes([byte]))
        assert receive_all(slow) == b""
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("path", ["/../etc/passwd", "/%2e%2e/etc/passwd", "/a/./b", "/a%5cb", "/a%00b", "/a%0ab"])
def test_addresses_that_lead_elsewhere_are_refused(local: Running, path: str) -> None:
    assert local.ask("GET", path).status == 400


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET  HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX\x00: y\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(local: Running, content: bytes) -> None:
    served.clear()
    answer = local.send(content)
    assert not answer or answer.split()[1] in (b"400", b"421", b"431"), answer[:100]
    assert served == []


def test_every_answer_carries_the_policy_and_no_other_site_is_allowed(local: Running) -> None:
    answers = [local.ask("GET", "/"), local.ask("GET", "/../x"), local.ask("PUT", "/", b"")]
    assert [one.status for one in answers] == [200, 400, 405]
    for one in answers:
        assert HEADERS.items() <= one.headers.items()
        assert not [name for name in one.headers if name.startswith("access-control-")]
    assert "unsafe" not in POLICY
    assert "*" not in POLICY
