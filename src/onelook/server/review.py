"""The review page over HTTP: its files, and the addresses by which it answers, asks and waits for news.

Images are addressed by the number of their row, never by a path, and files of the page come from a fixed list.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from onelook.errors import DataError, SettingsError, UserError
from onelook.server.pictures import SIDES
from onelook.server.review_export import EXPORTS
from onelook.server.session import Session
from onelook.server.summary import pack_arrays, summarise

SCRIPTS = ("app.js", "api.js", "dialogs.js", "grid.js", "images.js", "panel.js", "sheet.js", "viewer.js")
FILES = dict.fromkeys(SCRIPTS, ("server/static/", "text/javascript")) | {
    "review.css": ("server/static/", "text/css"),
    "style.css": ("", "text/css"),
    "icon.svg": ("server/static/", "image/svg+xml"),
}
"""Files that the page loads: their folder in the package, and their media type."""
FOREVER = {"cache-control": "private, max-age=31536000, immutable"}
AGAIN = {"cache-control": "no-cache"}
LONGEST_WAIT = 20.0
"""Seconds after which a request for news is answered without any."""
MOST_ROWS = 1_000_000


@dataclass(frozen=True)
class News:
    """Wakes the requests that wait for a change, from whatever thread it happens in."""

    waiting: set[asyncio.Future[None]] = field(default_factory=set)

    def ring(self) -> None:
        for one in tuple(self.waiting):
            with contextlib.suppress(RuntimeError):  # its loop has ended
                one.get_loop().call_soon_threadsafe(_wake, one)

    async def wait(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self.waiting.add(future)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(future, seconds)
        finally:
            self.waiting.discard(future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def make_app(session: Session) -> Starlette:
    """The review of a session, which begins and ends with the server."""
    news = News()
    session.on_change = news.ring

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        session.start()
        yield
        news.ring()
        await run_in_threadpool(session.stop)

    review = _Review(session, news)
    routes = [
        Route("/", review.page),
        Route("/static/{name}", review.file),
        Route("/picture/{row:int}/{size}/{version}", review.picture),
        Route("/api/images", review.images),
        Route("/api/state", review.state),
        Route("/api/arrays", review.arrays),
        Route("/api/queue", review.queue),
        Route("/api/answer", review.answer, methods=["POST"]),
        Route("/api/classes", review.classes, methods=["POST"]),
        Route("/api/undo", partial(review.turn, "undo"), methods=["POST"]),
        Route("/api/redo", partial(review.turn, "redo"), methods=["POST"]),
        Route("/api/export/{kind}", review.export, methods=["POST"]),
    ]
    handlers: Any = {UserError: _explain, HTTPException: _refuse}
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)


@dataclass(frozen=True)
class _Review:
    session: Session
    news: News

    async def page(self, request: Request) -> Response:
        del request
        return Response(_read("server/static/", "review.html"), media_type="text/html", headers=AGAIN)

    async def file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in FILES:
            raise HTTPException(404, "There is no such file of the page.")
        folder, kind = FILES[name]
        return Response(_read(folder, name), media_type=kind, headers=AGAIN)

    async def picture(self, request: Request) -> Response:
        row, size, version = (request.path_params[name] for name in ("row", "size", "version"))
        session = self.session
        if size not in SIDES or row >= len(session.names) or version != session.stamps[row]:
            raise HTTPException(404, "There is no such picture.")
        try:
            content = await run_in_threadpool(session.pictures.read, session.names[row], version, size)
        except DataError as error:
            raise HTTPException(404, str(error)) from error
        return Response(content, media_type="image/webp", headers=FOREVER)

    async def images(self, request: Request) -> Response:
        del request
        session = self.session
        names = [name.encode("utf-8", "replace").decode() for name in session.names]
        return JSONResponse({"names": names, "stamps": session.stamps})

    async def state(self, request: Request) -> Response:
        """The summary, once its version is beyond `after`."""
        after, deadline = _number(request, "after", 0), asyncio.get_running_loop().time() + LONGEST_WAIT
        while self.session.now.version <= after and not self.session.has_stopped:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await self.news.wait(min(left, 5.0))
        return JSONResponse(summarise(self.session))

    async def arrays(self, request: Request) -> Response:
        del request
        return Response(pack_arrays(self.session.now), media_type="application/octet-stream")

    async def queue(self, request: Request) -> Response:
        kind = request.query_params.get("kind", "next")
        if kind not in ("next", "unsure"):
            raise SettingsError("A queue is `next` or `unsure`.")
        now = self.session.now
        rows = now.queue(kind, min(_number(request, "n", 30), MOST_ROWS))
        return JSONResponse({"rows": rows, "learned": now.learned_revision})

    async def answer(self, request: Request) -> Response:
        """Label rows: {"rows": [...]} with "label": id, -1 or -2, or "labels" of the rows, or "new_class": name."""
        body = await _body(request)
        rows, label, name = body.get("rows"), body.get("label", -1), body.get("new_class")
        labels = body.get("labels", [])
        if not all(_are_numbers(one) for one in (rows, labels)):
            raise SettingsError("`rows` and `labels` must be lists of whole numbers.")
        if type(label) is not int or not isinstance(name, str | None):
            raise SettingsError("`label` must be a whole number, and `new_class` a text.")
        label = await _run(self.session.answer, rows, labels or label, name)
        return self._told(label=label)

    async def classes(self, request: Request) -> Response:
        """{"add": name}, {"rename": id, "name": name} or {"merge": id, "into": id}."""
        body = await _body(request)
        change = self.session.change
        match body:
            case {"add": str(name)}:
                await _run(partial(change, "add_class", name=name))
            case {"rename": int(which), "name": str(name)}:
                await _run(partial(change, "rename_class", which=which, name=name))
            case {"merge": int(which), "into": int(into)}:
                await _run(partial(change, "merge_classes", which=which, into=into))
            case _:
                raise SettingsError("Give `add`, or `rename` with `name`, or `merge` with `into`.")
        return self._told()

    async def turn(self, action: str, request: Request) -> Response:
        await _body(request)
        await _run(partial(self.session.change, action))
        return self._told()

    async def export(self, request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind not in EXPORTS:
            raise HTTPException(404, f"There is no export of that kind, but {', '.join(EXPORTS)}.")
        await _body(request)
        return JSONResponse({"written": await _run(EXPORTS[kind], self.session)})

    def _told(self, **more: Any) -> Response:
        now = self.session.now
        return JSONResponse({"version": now.version, "revision": now.revision, **more})


async def _run(work: Callable[..., Any], *arguments: Any) -> Any:
    return await run_in_threadpool(work, *arguments)


async def _body(request: Request) -> dict[str, Any]:
    """JSON of a request. A page of another site cannot send it without the consent that we never give (CORS)."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise HTTPException(415, "Send application/json.")
    try:
        body = json.loads(await request.body() or b"{}")
    except (ValueError, RecursionError) as error:
        raise SettingsError("The body is no JSON.") from error
    if not isinstance(body, dict):
        raise SettingsError("The body must be a JSON object.")
    return body


def _are_numbers(found: Any) -> bool:
    return isinstance(found, list) and len(found) <= MOST_ROWS and all(type(one) is int for one in found)


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise SettingsError(f"`{name}` must be a whole number.")
    return int(text)


def _read(folder: str, name: str) -> bytes:
    return files("onelook").joinpath(folder + name).read_bytes()


async def _explain(request: Request, error: UserError) -> Response:
    del request
    return JSONResponse({"error": str(error)}, 400)


async def _refuse(request: Request, error: HTTPException) -> Response:
    del request
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)
