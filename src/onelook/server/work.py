"""Work of the service: generators of events that run in a bounded number of threads, beside the event loop."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from fastapi import HTTPException

from onelook.data.images import Rejected
from onelook.errors import StorageError, UserError
from onelook.events import Notice, Progress, finish

Result = TypeVar("Result")
Work = Generator[Any, None, Result]

PULSE = 15.0
"""Seconds between signs of life in a stream of events."""
EVENTS = 1_000
"""Events that wait for a slow client; further ones are left out."""


class Stopped(Exception):
    """The client has gone, or the time is over, before the work was done."""


@dataclass
class Lane:
    """Threads for one kind of work, with a bounded queue."""

    threads: int
    waiting: int
    """Pieces of work that wait or are under way."""
    seconds: int
    """Time after which work is given up."""
    load: int = field(default=0, init=False)
    _pool: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(self.threads, "onelook")

    async def run(self, work: Work[Result], show: Callable[[Any], None] = lambda _: None) -> Result:
        """Run work to its end in a thread. Raises HTTPException (503) where there is too much, or it takes too long.

        show: called in the thread with each event. Whoever stops waiting stops the work at its next event.
        """
        if self.load >= self.waiting:
            raise HTTPException(503, "The server is busy; try again in a few seconds.", {"retry-after": "5"})
        given_up = threading.Event()

        def observe(event: Any) -> None:
            if given_up.is_set():
                raise Stopped
            show(event)

        self.load += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, finish, work, observe)
        future.add_done_callback(self._leave)
        try:
            async with asyncio.timeout(self.seconds):
                return await asyncio.shield(future)
        except TimeoutError:
            raise HTTPException(503, f"This took longer than {self.seconds} seconds; ask for less at once.") from None
        finally:
            given_up.set()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _leave(self, future: "asyncio.Future[Any]") -> None:
        self.load -= 1
        if not future.cancelled():
            future.exception()  # so that nobody complains where nobody waits any more


async def stream_events(
    run: Callable[[Callable[[Any], None]], Any], clean: Callable[[str], str]
) -> AsyncIterator[bytes]:
    """Server-sent events of work: progress, notice and rejected, and at last result or error.

    run: a coroutine function that runs the work, given what its events are shown to. clean: see `describe_problem`.
    """
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[bytes](EVENTS)

    def put(event: bytes) -> None:
        if not queue.full():
            queue.put_nowait(event)

    def show(event: Any) -> None:
        if isinstance(event, Progress | Notice | Rejected):
            loop.call_soon_threadsafe(put, make_event(type(event).__name__.lower(), asdict(event)))

    task = asyncio.ensure_future(run(show))
    try:
        while not task.done() or not queue.empty():
            waiting = asyncio.ensure_future(queue.get())
            await asyncio.wait({task, waiting}, timeout=PULSE, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                yield waiting.result()
            else:
                waiting.cancel()
                if not task.done():
                    yield b": working\n\n"
        try:
            yield make_event("result", task.result())
        except Exception as error:
            status, sentence = describe_problem(error, clean)
            yield make_event("error", {"status": status, "error": sentence})
            if status == 500:
                raise
    finally:
        task.cancel()


def make_event(name: str, content: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(content)}\n\n".encode()


def describe_problem(error: Exception, clean: Callable[[str], str] = str) -> tuple[int, str]:
    """Status and sentence for an error; clean: what takes names of folders of the server out of a sentence."""
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail)
    if isinstance(error, StorageError):
        return 507, clean(str(error))
    if isinstance(error, UserError):
        return 400, clean(str(error))
    return 500, "Something went wrong in the server; its log says what."
