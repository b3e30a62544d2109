"""`presize serve`: the engine as an OpenAI-compatible server."""

from __future__ import annotations

import argparse
from typing import Any

from presize.cli.flags import add_flags, build, gather
from presize.cli.text import paragraphs
from presize.cli.work import engine_options
from presize.config import EngineOptions, ServeOptions
from presize.errors import ConfigError

OPTIONS = (ServeOptions, EngineOptions)

_EPILOG = paragraphs(
    "Any OpenAI client works unchanged: base_url is http://127.0.0.1:8000/v1. A picture of the memory, the queue and "
    "the forecasts is at http://127.0.0.1:8000/, metrics are at /metrics.",
    "SIGTERM or Ctrl-C lets what is in work end, for at most --shutdown-timeout seconds; a second one ends at once.",
)


def add_parser(subparsers: Any) -> None:
    """Add the verb to the parser of `presize`."""
    parser = subparsers.add_parser(
        "serve",
        usage="presize serve [MODEL] [flags]",
        description="Serve a model over HTTP, as OpenAI does.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("positional_model", metavar="MODEL", nargs="?", help="same as --model")
    add_flags(parser, OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    if args.positional_model is not None:
        if getattr(args, "model", args.positional_model) != args.positional_model:
            raise ConfigError(f"MODEL is {args.positional_model!r} and --model {args.model!r}; give one")
        args.model = args.positional_model
    values = gather(args, OPTIONS)
    engine, options = engine_options(values), build(ServeOptions, values)
    from presize.server.run import serve

    return serve(options, engine)
