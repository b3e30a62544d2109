"""The engine's thread: it alone touches the engine. The event loop sends it calls and gets what each step gave.

event loop   submit, abort, call ------------> commands        (SimpleQueue, never blocks)
engine       commands, step, commands, step --> deliver         (call_soon_threadsafe, once a step)
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from presize.engine.engine import Engine
from presize.engine.outputs import RequestOutput
from presize.errors import EngineFailed, PresizeError, first_line

T = TypeVar("T")
Command = Callable[[Engine], None]
_LOG = logging.getLogger("presize.server")
_OUTLOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Status:
    """The engine after a step: sequences and prompt tokens that wait, and how long one of them takes to start."""

    waiting: int = 0
    waiting_tokens: int = 0
    start_s: float = 1.0


class Mailbox:
    """What the engine has for one job, until the job's task takes it; slow readers get more at once.

    expected: how many of the engine's requests the job is.
    """

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._outputs: list[RequestOutput] = []
        self._error: Exception | None = None
        self._news = asyncio.Event()

    def put(self, output: RequestOutput) -> None:
        self._outputs.append(output)
        self._news.set()

    def fail(self, error: Exception) -> None:
        """No more is to come."""
        self._error = error
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[list[RequestOutput]]:
        """Lists of outputs, each as long as came since the last; ends after the last finished one."""
        while True:
            await self._news.wait()
            self._news.clear()
            outputs, self._outputs = self._outputs, []
            if outputs:
                self._expected -= sum(output.finished for output in outputs)
                yield outputs
                if self._expected == 0:
                    return
            if self._error is not None:
                raise self._error


class Worker:
    """Loads the engine on a thread of its own and steps it. All methods are for the event loop's thread.

    on_status: called on the event loop after every step, and after every call.
    """

    def __init__(self, load: Callable[[], Engine], on_status: Callable[[Status], None]) -> None:
        self._load, self._on_status = load, on_status
        self._loop = asyncio.get_running_loop()
        self._commands: SimpleQueue[Command | None] = SimpleQueue()
        self._mailboxes: dict[str, Mailbox] = {}
        self._step_began: float | None = None
        self._outlook_at = 0.0
        self._start_s = 1.0
        self.engine: Engine | None = None  # once it is loaded; only what never changes may be read from elsewhere
        self.error: Exception | None = None
        self.loaded = asyncio.Event()
        self.ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="presize-engine", daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def stop(self) -> None:
        """End after the step that runs; `ended` is set then."""
        self._commands.put(None)

    def step_seconds(self) -> float:
        """How long the present step has been running; 0 between steps."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    async def call(self, function: Callable[[Engine], T], done: Callable[[], None] | None = None) -> T:
        """What ``function`` returns or raises; it runs between two steps. EngineFailed if the engine has ended.

        done: called once it has run without an error, before the status in which that shows.
        """
        if self.ended.is_set():
            raise EngineFailed(self._why())
        future: asyncio.Future[T] = self._loop.create_future()

        def command(engine: Engine) -> None:
            result, error = None, None
            try:
                result = function(engine)
            except Exception as reason:  # a bad request fails alone
                error = reason
            status = self._status(engine)
            self._loop.call_soon_threadsafe(
                self._answer, future, result, error, done if error is None else None, status
            )

        self._commands.put(command)
        waiter = asyncio.ensure_future(self.ended.wait())
        try:
            await asyncio.wait((future, waiter), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        if not future.done():
            raise EngineFailed(self._why())
        return future.result()

    async def submit(
        self, request_id: str, mailbox: Mailbox, add: Callable[[Engine], T], done: Callable[[], None]
    ) -> T:
        """What ``add`` returns; what the engine gives for the request that it adds goes to the mailbox. See `call`."""
        self._mailboxes[request_id] = mailbox
        try:
            return await self.call(add, done)
        except BaseException:
            self.abort(request_id)
            raise

    def abort(self, request_id: str) -> None:
        """Give a request up, whether or not it has ended; its memory is free before the next step."""
        if self._mailboxes.pop(request_id, None) is not None:
            self._commands.put(lambda engine: _abort(engine, request_id))

    def fail_all(self, error: Exception) -> None:
        """Tell every request that it gets no answer."""
        for request_id, mailbox in list(self._mailboxes.items()):
            mailbox.fail(error)
            self.abort(request_id)

    def _answer(
        self,
        future: asyncio.Future[Any],
        result: Any,
        error: Exception | None,
        done: Callable[[], None] | None,
        status: Status,
    ) -> None:
        if done is not None:
            done()
        self._on_status(status)
        if future.done():  # given up
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def _deliver(self, outputs: list[RequestOutput], status: Status) -> None:
        self._on_status(status)
        for output in outputs:
            if (mailbox := self._mailboxes.get(output.request_id)) is not None:
                mailbox.put(output)
                if output.finished:
                    del self._mailboxes[output.request_id]

    def _why(self) -> str:
        return "the server is stopping" if self.error is None else f"the engine has failed: {first_line(self.error)}"

    # the thread

    def _run(self) -> None:
        try:
            self.engine = engine = self._load()
            self._loop.call_soon_threadsafe(self.loaded.set)
            self._serve(engine)
        except Exception as error:
            self.error = error
            if not isinstance(error, PresizeError):
                _LOG.exception("the engine has failed")
        try:
            self._loop.call_soon_threadsafe(self._finish)
        except RuntimeError:
            _LOG.debug("the event loop was closed first")

    def _finish(self) -> None:
        self.ended.set()
        for mailbox in self._mailboxes.values():
            mailbox.fail(EngineFailed(self._why()))
        self._mailboxes.clear()

    def _serve(self, engine: Engine) -> None:
        while True:
            try:
                command = self._commands.get(block=not engine.has_unfinished_requests())
            except Empty:
                self._step(engine)
                continue
            if command is None:
                return
            command(engine)

    def _step(self, engine: Engine) -> None:
        self._step_began = time.monotonic()
        outputs = engine.step()
        self._step_began = None
        self._loop.call_soon_threadsafe(self._deliver, outputs, self._status(engine))

    def _status(self, engine: Engine) -> Status:
        waiting = engine.scheduler.waiting
        if not waiting:
            return Status()
        if (now := time.monotonic()) - self._outlook_at > _OUTLOOK_EVERY_S:
            self._outlook_at = now
            self._start_s = engine.scheduler.seconds_until_started(len(waiting)) / len(waiting)
        return Status(len(waiting), sum(r.prompt_tokens for r in waiting), self._start_s)


def _abort(engine: Engine, request_id: str) -> None:
    engine.abort(request_id)
