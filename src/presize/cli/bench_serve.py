"""`presize bench serve`: requests to any OpenAI-compatible server, and how it answers them."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from presize.cli.flags import add_flags, build, gather
from presize.cli.result_file import check_writable, save
from presize.cli.text import paragraphs
from presize.errors import ConfigError
from presize.load.options import LoadOptions

if TYPE_CHECKING:
    from presize.cli.progress import Progress
    from presize.load.datasets import Work
    from presize.load.runner import Run

OPTIONS = (LoadOptions,)
_SPARE_FILES = 64  # descriptors besides those of the requests

_EPILOG = paragraphs(
    "Without --request-rate all requests are sent at once; with --max-concurrency N that is a closed loop of N users. "
    "With a rate, or a trace, requests come at their own times (open loop), whether or not earlier ones have ended.",
    "TTFT, E2EL and --timeout count from when a request is sent. TPOT is an answer's own mean, (E2EL - TTFT) / "
    "(tokens - 1), by the server's count of tokens; ITL is the time between two frames, which may hold several tokens. "
    "Answers with an error, or none, are in no latency.",
    "A trace's and random's answers get their length from max_tokens and ignore_eos: a server may know it from there, "
    "so they say little about forecasts of lengths. For those take prompts, and let the answers end by themselves.",
    "The same seed gives the same prompts: a server with a prefix cache knows them in a second run. The tables go to "
    "standard error; the last line on standard output is a JSON object. Exit status 1: no answer at all, or a request "
    "failed otherwise than by a 429.",
)


def add_kind(kinds: Any) -> None:
    """Add the kind to the parser of `presize bench`."""
    parser = kinds.add_parser(
        "serve",
        help="load any OpenAI-compatible server: how fast does it answer?",
        usage="presize bench serve [--base-url URL] [--dataset-path FILE] [--request-rate X] [flags]",
        description="Send requests to an OpenAI-compatible server and measure its answers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser, OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Run the kind; 128 + n if signal n ended it early, with the figures so far."""
    values = gather(args, OPTIONS)
    if "api_key" not in values and (key := os.environ.get("OPENAI_API_KEY")):
        values["api_key"] = key
    options = build(LoadOptions, values)
    if options.save_result is not None:
        check_writable(options.save_result)
    import uvloop
    from rich.console import Console

    from presize.cli.progress import Progress
    from presize.load.datasets import work_of

    work = work_of(options)
    _allow_files(min(options.max_concurrency or len(work.times), len(work.times)), surely=work.times[-1] == 0)
    console = Console(stderr=True)
    caught: list[int] = []
    with Progress(console) as progress:
        for note in work.notes:
            progress.say(note)
        model, result = uvloop.run(_load(options, work, progress, caught))
    status = _report(console, options, work, model, result)
    return 128 + caught[0] if caught else status


async def _load(options: LoadOptions, work: Work, progress: Progress, caught: list[int]) -> tuple[str, Run]:
    from presize.load.client import Client, model_of, session
    from presize.load.prelude import measure, warm_up
    from presize.load.runner import Tally, drive
    from presize.load.synthetic import Ruler

    tally = Tally(len(work.times))
    async with session(options.api_key) as http:
        model = await model_of(http, options.root, options.model)
        before = Client(http, options, model, on_text=lambda: None)
        ruler = Ruler()
        if work.measured:
            if (found := await measure(before, options.seed)) is None:
                progress.say("the server does not count tokens; made-up prompts get a word for each token")
            ruler = found or ruler
        samples = work.samples(ruler)
        await warm_up(before, options.warmups, ignore_eos=work.ignore_eos)
        begun = time.monotonic()

        def show() -> None:
            rate = tally.frames / max(time.monotonic() - begun, 1e-9)
            failed = f"; {tally.failed:,} failed" if tally.failed else ""
            progress.report(
                f"{rate:,.0f} frames/s; {tally.in_flight:,} in flight{failed}; done", tally.done, tally.total
            )

        with _stopped_by_signals(caught) as stop:
            result = await drive(
                Client(http, options, model, on_text=tally.count_frame), samples, work.times, tally,
                ignore_eos=work.ignore_eos, max_concurrency=options.max_concurrency, stop=stop, on_tick=show,
            )  # fmt: skip
    return model, result


def _report(console: Any, options: LoadOptions, work: Work, model: str, result: Run) -> int:
    """Print, save; 1 if there is no answer at all, or requests failed for another reason than the server's load."""
    from presize.cli.environment import describe
    from presize.cli.load_table import print_figures
    from presize.cli.summary import json_line
    from presize.load.remarks import remarks
    from presize.load.report import details, figures

    found = figures(result, options, model, work.times)
    print_figures(console, found)
    for remark in remarks(result, found, ignore_eos=work.ignore_eos):
        console.print(f"presize: {remark}", markup=False, highlight=False, soft_wrap=True)
    if options.save_result is not None:
        circumstances = {name: value for name, value in describe().items() if name != "date"}
        more = details(result) if options.save_detailed else {}
        save(options.save_result, json_line({**found, "seed": options.seed, "client": circumstances, **more}))
    sys.stdout.write(json_line(found))
    return 1 if found["failed"] > found["rejected"] or not found["completed"] else 0


@contextmanager
def _stopped_by_signals(caught: list[int]) -> Iterator[asyncio.Event]:
    """The event is set by the first SIGINT or SIGTERM, which goes to ``caught``; a second one ends the process."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def on_signal(signum: int) -> None:
        caught.append(signum)
        stop.set()
        loop.remove_signal_handler(signum)

    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    with suppress(NotImplementedError, RuntimeError, ValueError):  # not on Windows, and in the main thread only
        for signum, handler in before.items():
            if handler not in (None, signal.SIG_IGN):  # a background job that must not be stopped
                loop.add_signal_handler(signum, on_signal, signum)
    yield stop


def _allow_files(requests: int, *, surely: bool) -> None:
    """Let the process have a connection for each request, as far as the system allows.

    surely: they will be open at the same time; ConfigError if that is not allowed.
    """
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limit
        return
    soft, hard = (math.inf if x == resource.RLIM_INFINITY else x for x in resource.getrlimit(resource.RLIMIT_NOFILE))
    wanted = requests + _SPARE_FILES
    if surely and hard < wanted:
        raise ConfigError(
            f"{requests:,} requests would be open at the same time, but the system allows {hard:,} files (ulimit -n); "
            f"give --max-concurrency {max(hard - _SPARE_FILES, 1)} or less"
        )
    if soft < wanted:
        limit = int(min(wanted, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
