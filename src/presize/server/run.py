"""The process: sockets, signals, the engine's start and end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import ssl
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from presize.config import EngineOptions, ServeOptions
from presize.engine.engine import Engine
from presize.errors import ConfigError
from presize.server.app import make_app
from presize.server.http import HttpProtocol
from presize.server.logs import logging_to_stderr, note
from presize.server.service import Service
from presize.server.view import EngineView

_LAST_WORDS_S = 2.0  # for errors to reach clients
# for which one thread keeps the interpreter while another waits: of Python's own 5 ms the engine's step would lose some
# whenever the event loop has frames to send (docs/log.md, 2026-11-24)
_SWITCH_S = 2e-4


def serve(options: ServeOptions, engine_options: EngineOptions) -> int:
    """Serve until a signal or the engine's end; the exit status. ConfigError for what can be known wrong before."""
    keys = read_keys(options)
    _check_tls(options)
    sys.setswitchinterval(_SWITCH_S)
    with _socket(options) as listener, logging_to_stderr(options.log_format):
        status = uvloop.run(_Process(options, engine_options, keys, listener).run())
    if status is None:
        os._exit(0)  # the thread that loads can not be told to end
    return status


def read_keys(options: ServeOptions) -> list[str]:
    """All API keys; ConfigError if the file can not be read, or a key could not be sent."""
    keys = list(options.api_key)
    if options.api_key_file is not None:
        try:
            text = Path(options.api_key_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"api_key_file {options.api_key_file} can not be read: {error}") from error
        keys += [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        if not keys:
            raise ConfigError(f"api_key_file {options.api_key_file} has no key; each line is one")
    for key in keys:
        if not key.isascii() or not key.isprintable() or " " in key or not key:
            raise ConfigError("an API key must be printable ASCII without spaces, and not empty")
    return keys


def _check_tls(options: ServeOptions) -> None:
    if (options.ssl_certfile is None) != (options.ssl_keyfile is None):
        raise ConfigError("ssl_certfile and ssl_keyfile go together; give both or none")
    if options.ssl_certfile is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(options.ssl_certfile, options.ssl_keyfile)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"ssl_certfile and ssl_keyfile can not be used: {error}") from error


def _socket(options: ServeOptions) -> socket.socket:
    """Bound before the model is loaded: a port in use is known at once."""
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((options.host, options.port))
    except OSError as error:
        raise ConfigError(
            f"can not listen on {options.host}, port {options.port}: {error.strerror or error}"
        ) from error
    return listener


class _Http(uvicorn.Server):
    """uvicorn without its own signals."""

    def capture_signals(self) -> Any:
        return nullcontext()  # ours are set by `_Process`


class _Process:
    def __init__(
        self, options: ServeOptions, engine_options: EngineOptions, keys: list[str], listener: socket.socket
    ) -> None:
        self._options, self._engine_options = options, engine_options
        self._keys, self._listener = keys, listener
        self._stop = asyncio.Event()
        self._signals = 0

    async def run(self) -> int | None:
        """The exit status; None if the model is still loading."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self._on_signal, signum)
        service = Service(self._options, self._engine_options, lambda: _load(self._engine_options))
        http = self._http(make_app(service, self._keys))
        service.worker.start()
        serving = asyncio.ensure_future(http.serve(sockets=[self._listener]))
        note("listening", url=self._url(), model=service.model_name, keys=len(self._keys))
        background = [asyncio.ensure_future(self._report(service)), asyncio.ensure_future(self._announce(service))]
        try:
            await self._until_stop(service, serving)
            if service.worker.error is None:
                await self._drain(service)
            elif service.worker.loaded.is_set():
                await asyncio.sleep(_LAST_WORDS_S)  # /health says it, and clients get their errors
            http.should_exit = True
            await asyncio.wait((serving,), timeout=_LAST_WORDS_S)
            http.force_exit = True
            await serving
        finally:
            for task in background:
                task.cancel()
            await service.close()
        if not service.worker.loaded.is_set() and service.worker.error is None:
            note("stopped while loading")
            return None
        if service.worker.error is not None:
            raise service.worker.error
        note("stopped")
        return 0

    def _http(self, app: Any) -> _Http:
        options = self._options
        config = uvicorn.Config(
            app, http=HttpProtocol, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
            h11_max_incomplete_event_size=options.max_header_bytes, timeout_keep_alive=30,
            ssl_certfile=options.ssl_certfile, ssl_keyfile=options.ssl_keyfile, backlog=1024,
        )  # fmt: skip
        return _Http(config)

    def _url(self) -> str:
        host, port = self._listener.getsockname()[:2]
        scheme = "https" if self._options.ssl_certfile else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def _on_signal(self, signum: int) -> None:
        self._signals += 1
        if self._signals > 1:
            os._exit(128 + signum)
        self._stop.set()

    async def _until_stop(self, service: Service, serving: asyncio.Future[None]) -> None:
        ends: list[asyncio.Future[Any]] = [asyncio.ensure_future(e.wait()) for e in (self._stop, service.worker.ended)]
        await asyncio.wait((*ends, serving), return_when=asyncio.FIRST_COMPLETED)
        for task in ends:
            task.cancel()

    async def _drain(self, service: Service) -> None:
        """No new requests; those in work have their time, then an error."""
        service.draining = True
        note("stopping", in_work=service.active, seconds=self._options.shutdown_timeout)
        with suppress(TimeoutError):
            await asyncio.wait_for(service.idle.wait(), self._options.shutdown_timeout)
        if service.active:
            note("giving up what is left", logging.WARNING, in_work=service.active)
            service.give_up()
            with suppress(TimeoutError):
                await asyncio.wait_for(service.idle.wait(), _LAST_WORDS_S)

    async def _announce(self, service: Service) -> None:
        await service.worker.loaded.wait()
        engine = service.engine
        note("ready", seconds=round(time.time() - service.started_s, 1),
             kv_tokens=engine.scheduler.ledger.capacity_tokens, max_model_len=engine.runner.max_model_len)  # fmt: skip
        if engine.forecast_source:
            note(engine.forecast_source)

    async def _report(self, service: Service) -> None:
        """One line every few seconds while there is work, and one more after it."""
        every = self._options.log_interval
        if not every:
            return
        before, then, quiet = 0, time.monotonic(), True
        while True:
            await asyncio.sleep(every)
            await service.look()
            if (view := service.metrics.view) is None:
                continue
            now, tokens = time.monotonic(), view.snapshot.output_tokens
            idle = view.snapshot.running == 0 and view.snapshot.waiting == 0 and tokens == before
            if not (idle and quiet):
                _note_state(view, (tokens - before) / (now - then))
            before, then, quiet = tokens, now, idle


def _note_state(view: EngineView, rate: float) -> None:
    now = view.snapshot
    note(
        "state", running=now.running, waiting=now.waiting, tokens_per_second=round(rate, 1),
        kv_used=round(now.kv_used_tokens / now.kv_capacity_tokens, 3),
        kv_booked=round(now.kv_booked_tokens / now.kv_capacity_tokens, 3),
        preemptions=sum(view.preemptions.values()),
    )  # fmt: skip


def _load(options: EngineOptions) -> Engine:
    """The engine, with its kernels compiled and its memory touched, so that the first client does not wait for that."""
    engine = Engine.load(options)
    engine.warm_up()
    return engine
