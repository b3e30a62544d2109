"""`presize`: finds the verb, runs it, and turns every error that a user can cause into one sentence.

Exit status: 0 done, 1 failed, 2 wrong usage or options, 128 + n stopped by signal n.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from presize.cli.text import did_you_mean
from presize.errors import ConfigError, PresizeError, install, shown
from presize.version import __version__


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb's module has ``add_parser(subparsers)`` and ``run(args) -> int``; it is imported when it is asked for."""

    name: str
    group: str
    line: str
    module: str


VERBS = (
    Verb("pull", "Get a model", "fetch a model, check it and keep it in the cache", "presize.cli.pull"),
    Verb("serve", "Serve", "an OpenAI-compatible server with a live picture of its memory", "presize.cli.serve"),
    Verb("generate", "Run prompts", "answer every line of a JSONL file; can be resumed", "presize.cli.generate"),
    Verb("collect", "Forecast lengths", "keep how long a model's answers are, to learn from", "presize.cli.collect"),
    Verb("learn", "Forecast lengths", "learn to forecast lengths from such a log", "presize.cli.learn"),
    Verb("evaluate", "Forecast lengths", "how good a learned predictor's forecasts are", "presize.cli.evaluate"),
    Verb("explain", "Forecast lengths", "which words of a prompt make the answer long or short", "presize.cli.explain"),
    Verb("simulate", "Plan", "replay a trace on modelled devices, under several policies", "presize.cli.simulate"),
    Verb("plan", "Plan", "the fewest devices that hold an objective, by policy", "presize.cli.plan"),
    Verb("calibrate", "Plan", "fit the device model to this machine, for `simulate`", "presize.cli.calibrate"),
    Verb("bench", "Measure", "`offline` compares admission policies, `serve` loads a server", "presize.cli.bench"),
    Verb("optim", "Train", "`report` shows how well second moments of a model are approximated", "presize.cli.optim"),
    Verb(
        "shape", "Understand attention", "depth and width for a size, and what they cost to serve", "presize.cli.shape"
    ),
    Verb("dynamics", "Understand attention", "what attention does while it is trained", "presize.cli.dynamics"),
)
_SERVER_PACKAGES = (
    "fastapi", "uvicorn", "uvloop", "httptools", "starlette", "pydantic", "prometheus_client", "aiohttp",
)  # fmt: skip
_EXAMPLES = """\
Examples:
  presize pull
  presize generate prompts.jsonl --output answers.jsonl --max-tokens 256
  presize generate prompts.jsonl --output answers.jsonl --resume
  presize serve --port 8000
  presize bench offline prompts.jsonl --policies payback,watermark,worst-case --kv-tokens 8192

A line of prompts.jsonl: {"messages": [{"role": "user", "content": "Why is the sky blue?"}]}
`presize VERB --help` tells all about one verb. Flags can come from the environment and from a YAML file, too.
"""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Parser(argparse.ArgumentParser):
    """Raises ConfigError where argparse would print and exit, and knows what the user may have meant."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        """One sentence, with the way to the help."""
        raise ConfigError(f"{message} (see `{self.prog} --help`)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, but an unknown flag is told before its consequences, such as a missing argument."""
        if args is not None and self._subparsers is None:
            self._check_flags(args)
        return super().parse_known_args(args, namespace)

    def _check_flags(self, args: Sequence[str]) -> None:
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for arg in args:
            if arg == "--":
                return
            flag = arg.partition("=")[0]
            if flag.startswith("--") and " " not in flag and flag not in known:
                self.error(f"unknown flag {shown(flag)}; known: {', '.join(known)}{did_you_mean(flag, known)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; nothing that a user can cause ends in a traceback."""
    try:
        with _signals_raise():
            status = _dispatch(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()
            return status
    except BrokenPipeError:
        _give_up_stdout()  # its reader has gone, as in `| head`: no error of ours
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt as interrupt:
        return 128 + getattr(interrupt, "signum", signal.SIGINT)
    except SystemExit as leave:  # argparse's --help
        return leave.code if isinstance(leave.code, int) else 0
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        if os.environ.get("PRESIZE_DEBUG") == "1":
            traceback.print_exc()
        try:
            sys.stdout.flush()
        except OSError:
            _give_up_stdout()
        with suppress(OSError):
            print(f"presize: error: {sentence}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1


def explain(error: Exception) -> str | None:
    """One sentence for an error that the user or the machine caused; None for a bug of Presize."""
    if isinstance(error, PresizeError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory; lower --kv-tokens, --max-num-seqs or --max-num-batched-tokens"
    if isinstance(error, ModuleNotFoundError) and not (error.name or "presize").startswith("presize"):
        extra = "server" if error.name in _SERVER_PACKAGES else "engine"
        return f"this needs the package {error.name!r}: {install(extra)}"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return where + " ".join(str(error.strerror or error).split())
    return None


def _give_up_stdout() -> None:
    """Let what is still buffered go nowhere; Python would flush it at exit and complain."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build_parser(verb: Verb) -> Parser:
    """The parser with one verb; the others' modules are not imported."""
    parser = Parser(prog="presize", add_help=False)
    module = importlib.import_module(verb.module)
    module.add_parser(parser.add_subparsers(dest="verb"))
    return parser


def help_text() -> str:
    """What `presize --help` prints."""
    lines = [
        "usage: presize VERB ...",
        "",
        "LLM inference that forecasts how long each answer will be and books KV memory by the forecast.",
    ]
    for group in dict.fromkeys(verb.group for verb in VERBS):
        lines += ["", f"{group}:"]
        lines += [f"  {verb.name:<10}{verb.line}" for verb in VERBS if verb.group == group]
    lines += ["", "Flags:", "  --help    this text", "  --version the version", "", _EXAMPLES]
    return "\n".join(lines)


def _dispatch(argv: list[str]) -> int:
    first = argv[0] if argv else ""
    if first in ("-h", "--help", "help"):
        sys.stdout.write(help_text())
        return 0
    if first in ("-V", "--version"):
        print(f"presize {__version__}")
        return 0
    names = [verb.name for verb in VERBS]
    if first not in names:
        if not first:
            raise ConfigError(f"a verb is missing; known: {', '.join(names)} (see `presize --help`)")
        kind, known = ("flag", ["--help", "--version"]) if first.startswith("-") else ("verb", names)
        hint = did_you_mean(first, known)
        raise ConfigError(f"unknown {kind} {shown(first)}; known: {', '.join(known)}{hint} (see `presize --help`)")
    verb = VERBS[names.index(first)]
    parser = build_parser(verb)
    args, extra = parser.parse_known_args(argv)
    if extra:
        kind = "flag" if extra[0].startswith("-") else "argument"
        raise ConfigError(f"unknown {kind} {shown(extra[0])} (see `presize {first} --help`)")
    return int(importlib.import_module(verb.module).run(args))


@contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGINT and SIGTERM become Interrupted, once; the second one ends the process at once."""

    def handler(signum: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signum, signal.SIG_DFL)
        raise Interrupted(signum)

    before = {}
    for signum in (signal.SIGINT, signal.SIGTERM):
        old = signal.getsignal(signum)
        if old is None or old is signal.SIG_IGN:  # not Python's, or a background job that must not be stopped
            continue
        with suppress(ValueError):  # only the main thread may; elsewhere the caller handles signals
            signal.signal(signum, handler)
            before[signum] = old
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)


if __name__ == "__main__":
    sys.exit(main())
