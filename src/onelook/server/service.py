"""Classifiers over HTTP, version 1: each address reads its request, runs work in a lane, and answers."""

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from onelook import __version__
from onelook.data.embed import AVERAGE
from onelook.errors import UserError
from onelook.machine import Place
from onelook.server import documentation, schemas
from onelook.server.classifiers import SUFFIX, Classifiers
from onelook.server.learning import FitSettings, Learning
from onelook.server.networks import Networks
from onelook.server.settings import ServeConfig
from onelook.server.uploads import Sizes, parse, read_upload
from onelook.server.work import Lane, Work, describe_problem, stream_events

STREAM = "text/event-stream"
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem}
    for status in (400, 401, 403, 404, 408, 409, 413, 415, 421, 422, 429, 500, 503, 507)
}


@dataclass(frozen=True)
class Service:
    """Classifiers, networks and the threads that work on them. Images have a thread of their own, so that rows pass."""

    config: ServeConfig
    place: Place
    sizes: Sizes = Sizes()
    learning: Learning = field(init=False)
    lanes: dict[str, Lane] = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        config.out.mkdir(parents=True, exist_ok=True)
        networks = Networks(config.network, self.place, config.offline)
        object.__setattr__(self, "learning", Learning(Classifiers(config.out), networks, self.sizes))
        lanes = {"images": 1, "rows": config.threads, "changes": config.threads}
        object.__setattr__(self, "lanes", {k: Lane(n, config.waiting, config.seconds) for k, n in lanes.items()})

    def clean(self, sentence: str) -> str:
        """A sentence for a client, without where the folder lies on this machine."""
        return sentence.replace(f"{self.config.out}{os.sep}", "").replace(str(self.config.out), "the folder")

    async def answer(self, request: Request, lane: str, work: Work[Any], status: int = 200) -> Response:
        """Run work and answer with its result, or with its events where the client accepts these only."""

        async def run(show: Callable[[Any], None]) -> Any:
            return await self.lanes[lane].run(work, show)

        if request.headers.get("accept", "").split(";")[0].strip() == STREAM:
            return StreamingResponse(stream_events(run, self.clean), media_type=STREAM)
        result = await run(lambda _: None)
        return Response(status_code=204) if result is None else JSONResponse(result, status)

    async def read(self, request: Request, labelled: bool) -> tuple[str, Callable[[], Any]]:
        """The lane for what a request holds, and what parses it in a thread."""
        content = await read_upload(request, self.sizes, labelled)
        lane = ("changes" if labelled else "rows") if isinstance(content, bytes) else "images"
        return lane, lambda: parse(content, self.sizes, labelled)

    def routes(self) -> APIRouter:
        router = APIRouter(prefix="/v1", responses=PROBLEMS)
        self._add_stored(router)
        self._add_asking(router)
        self._add_changing(router)
        return router

    def _add_stored(self, router: APIRouter) -> None:
        learning = self.learning

        @router.get("", response_model=schemas.About)
        async def about() -> Any:
            """Version and networks of this server."""
            return {
                "version": __version__,
                "networks": list(learning.networks.names),
                "default_network": learning.networks.default,
            }

        @router.get("/classifiers", response_model=schemas.Listed)
        def classifiers() -> Any:
            """List the classifiers."""
            return {"classifiers": learning.classifiers.list()}

        @router.get("/classifiers/{name}/file", response_class=StreamingResponse)
        def file(name: str) -> Any:
            """Download the file of a classifier, for `onelook predict`."""
            content = learning.classifiers.open_file(name)
            about = {
                "content-length": str(os.fstat(content.fileno()).st_size),
                "content-disposition": f'attachment; filename="{name}{SUFFIX}"',
            }
            return StreamingResponse(_read_parts(content), headers=about, media_type="application/octet-stream")

        @router.get("/classifiers/{name}", response_model=schemas.Description)
        async def describe(request: Request, name: str) -> Any:
            """Classes, numbers of examples and the feature network of a classifier."""
            return await self.answer(request, "rows", _call(lambda: learning.classifiers.open(name).describe()))

        @router.get("/classifiers/{name}/accuracy", response_model=schemas.Accuracy)
        async def accuracy(request: Request, name: str) -> Any:
            """How accurate a classifier should be, class by class, and with more labels."""
            return await self.answer(request, "rows", learning.assess(name))

        @router.delete("/classifiers/{name}", status_code=204)
        async def delete(request: Request, name: str) -> Response:
            """Delete a classifier and its file."""
            return await self.answer(request, "changes", learning.delete(name))

    def _add_asking(self, router: APIRouter) -> None:
        learning = self.learning

        @router.post(
            "/classifiers/{name}/predict",
            response_model=schemas.Predictions,
            openapi_extra=documentation.body(labelled=False),
        )
        async def predict(
            request: Request,
            name: str,
            unknown_rate: Annotated[float, Query(ge=0, le=0.5)] = 0.0,
            probabilities: bool = False,
        ) -> Any:
            """Label rows of features, or images, each by itself.

            unknown_rate: fraction of the known classes that may be set aside as unknown. probabilities: of all classes.
            """
            lane, read = await self.read(request, labelled=False)

            def work() -> Work[Any]:
                upload = yield from _call(read)
                return (yield from learning.predict(name, upload.items, unknown_rate, probabilities))

            return await self.answer(request, lane, work())

        @router.post(
            "/classifiers/{name}/suggest",
            response_model=schemas.Suggestions,
            openapi_extra=documentation.body(labelled=False),
        )
        async def suggest(request: Request, name: str, number: Annotated[int, Query(ge=1, le=1000)] = 10) -> Any:
            """Choose rows or images to label next: of those sent, or else of the unlabelled ones it was fitted to."""
            lane, read = "rows", None
            if request.headers.get("content-type"):
                lane, read = await self.read(request, labelled=False)

            def work() -> Work[Any]:
                upload = (yield from _call(read)) if read else None
                return (yield from learning.suggest(name, upload and upload.items, number))

            return await self.answer(request, lane, work())

    def _add_changing(self, router: APIRouter) -> None:
        learning = self.learning

        async def fit(
            request: Request,
            name: str,
            class_priors: Annotated[str, Query(max_length=10_000)] = "unknown",
            features: Literal["auto", "network", "table"] = "auto",
            network: Annotated[str | None, Query(max_length=200)] = None,
            average: Annotated[str, Query(max_length=50)] = AVERAGE,
        ) -> Any:
            """Make a classifier from labelled rows or images, and unlabelled ones. PUT replaces one of that name.

            class_priors: unknown, balanced, or a number for each class in the order of the names, like 0.5/0.3/0.2.
            features: whether rows are those of a network or of a table. network, average: how images become rows.
            """
            settings = FitSettings(class_priors, features, network, average, request.method == "PUT")
            lane, read = await self.read(request, labelled=True)

            def work() -> Work[Any]:
                return (yield from learning.fit(name, (yield from _call(read)), settings))

            return await self.answer(request, lane, work(), 201)

        for method in ("POST", "PUT"):
            router.add_api_route(
                "/classifiers/{name}",
                fit,
                methods=[method],
                status_code=201,
                operation_id=f"{'fit' if method == 'POST' else 'replace'}_classifier",
                response_model=schemas.Fitted,
                openapi_extra=documentation.body(labelled=True),
            )

        @router.post(
            "/classifiers/{name}/examples",
            response_model=schemas.Changed,
            openapi_extra=documentation.body(labelled=True),
        )
        async def add(request: Request, name: str) -> Any:
            """Add labelled rows or images, of known classes or new ones."""
            lane, read = await self.read(request, labelled=True)

            def work() -> Work[Any]:
                return (yield from learning.add(name, (yield from _call(read))))

            return await self.answer(request, lane, work())


def create_app(service: Service, *routers: APIRouter) -> FastAPI:
    """The application, which is to stand behind a `Guard`. routers: further addresses beside those of the service."""

    @contextlib.asynccontextmanager
    async def live(_: FastAPI) -> AsyncIterator[None]:
        yield
        for lane in service.lanes.values():
            lane.close()

    app = FastAPI(
        title="Onelook", version=__version__, lifespan=live, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.description = (
        "Few-shot classifiers: a handful of labelled examples, and the unlabelled rows or images themselves."
    )
    for router in (service.routes(), *routers):
        app.include_router(router)
    documentation.add_pages(app)

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("/docs", 307)

    async def refuse(_: Request, error: Exception) -> Response:
        if isinstance(error, RequestValidationError):
            first = error.errors()[0]
            status, sentence = 422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}."
        else:
            if isinstance(error, StarletteHTTPException) and not isinstance(error, HTTPException):
                error = HTTPException(error.status_code, error.detail, error.headers)
            status, sentence = describe_problem(error, service.clean)
        return JSONResponse({"error": sentence}, status, getattr(error, "headers", None))

    for kind in (UserError, StarletteHTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, refuse)
    return app


def _read_parts(content: BinaryIO) -> Iterator[bytes]:
    with content:
        while part := content.read(2**20):
            yield part


def _call(function: Callable[[], Any]) -> Work[Any]:
    """A function as work without events."""
    yield from ()
    return function()
