"""`presize explain`: the forecast for one prompt, and what each of its words does to it."""

from __future__ import annotations

import argparse
import io
import os
import sys
from typing import TYPE_CHECKING, Any

from presize.cli.flags import add_flags, build, gather
from presize.cli.forecasts import load_predictor
from presize.cli.text import count, paragraphs
from presize.config import ExplainOptions
from presize.errors import ConfigError, InvalidRequestError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from presize.core.lengths import LengthDistribution
    from presize.engine.tokenizer import Tokenizer
    from presize.predict.explain import Explanation, Reader, Word

OPTIONS = (ExplainOptions,)

_MAX_BYTES = 2**26  # of standard input
_MAX_SHOWN = 32  # columns of a word
_MAX_ROWS = 20  # of the table on a terminal, where the prompt itself is shown in colour
_WIDE = 10_000  # columns where there is no terminal
_HALF_BAR, _BINS = 8, 48  # columns
_BLOCKS = " ▁▂▃▄▅▆▇█"
_GREY, _ORANGE, _BLUE = (150, 150, 150), (255, 90, 0), (40, 120, 255)

_EPILOG = paragraphs(
    "The effect of a word: by how many tokens the predictor expects a longer answer to the prompt than to the same "
    "prompt without the word, measured on the geometric mean of the length. The attention of a word (predictors of "
    "kind attention only): its share of what the words of the prompt get. Of a prompt of more than 200 words the first "
    "and the last 100 are explained.",
    "On a terminal the prompt is shown in colour: orange words lengthen the answer, blue ones shorten it; elsewhere, "
    "or with NO_COLOR set, there is a table of all words. The last line on standard output is a JSON object: median, "
    "low_90, high_90 (tokens) and words, a list of word, attention (null if there is none) and effect_tokens (null if "
    "it is the only word).",
)


def add_parser(subparsers: Any) -> None:
    """Add the verb to the parser of `presize`."""
    parser = subparsers.add_parser(
        "explain",
        usage='presize explain DIR "PROMPT" [flags]',
        description="Forecast the length of one answer, and show which words of the prompt make it long or short.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", metavar="DIR", help="a predictor of `presize learn`; auto: the default model's")
    parser.add_argument("prompt", metavar="PROMPT", help="the prompt; - reads it from standard input")
    add_flags(parser, OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from rich.console import Console

    from presize.cli.progress import Progress
    from presize.cli.summary import json_line
    from presize.predict.explain import explain

    options = build(ExplainOptions, gather(args, OPTIONS))
    text = _prompt(args.prompt)
    if not text.split():
        raise ConfigError("the prompt is empty; give at least one word")
    with Progress(Console(stderr=True)) as progress:
        _, tokenizer, predictor = load_predictor(args.directory, options.model, progress.report)
        progress.report("asking the predictor", 0, 0)
        found = explain(predictor, _reader(tokenizer, options.raw), text, options.max_tokens, options.temperature)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no emoji is no reason to fail
    console = Console()
    with console.capture() as captured:  # rich itself would end the process when the reader of a pipe has gone
        show(console, found)
    sys.stdout.write(captured.get() + json_line(_figures(found)))
    return 0


def _prompt(argument: str) -> str:
    """The prompt's text; of standard input without its last line end."""
    try:
        if argument != "-":
            return os.fsencode(argument).decode()  # its own bytes, whatever the locale made of them
        content = sys.stdin.buffer.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigError(f"the prompt on standard input has more than {_MAX_BYTES:,} bytes, the most allowed")
        return content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeError as error:
        raise ConfigError("the prompt is not text in UTF-8; convert it first") from error


def _reader(tokenizer: Tokenizer, raw: bool) -> Reader:
    from presize.predict.explain import Reader

    def encode_chat(text: str) -> list[int]:
        try:
            return tokenizer.encode_chat([{"role": "user", "content": text}])
        except InvalidRequestError as error:
            raise InvalidRequestError(f"{error}; --raw takes the prompt as it is, without the template") from error

    return Reader(tokenizer.encode if raw else encode_chat, tokenizer.decode)


def _figures(found: Explanation) -> dict[str, Any]:
    curve = found.forecast
    return {
        "median": curve.quantile(0.5),
        "low_90": curve.quantile(0.05),
        "high_90": curve.quantile(0.95),
        "words": [
            {
                "word": word.text,
                "attention": None if word.attention is None else round(word.attention, 4),
                "effect_tokens": None if word.effect is None else round(word.effect, 2),
            }
            for word in found.words
        ],
    }


def show(console: Console, found: Explanation) -> None:
    """The forecast, its shape and the words; the prompt in colour where there is colour, a table of all elsewhere."""
    colour = console.is_terminal and console.color_system is not None and not console.no_color
    if not console.is_terminal:
        console.width = _WIDE
    lines = [headline(found.forecast), picture(found.forecast), ""]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    words = list(found.words)
    if found.left_out:
        half = len(words) // 2
        note = f"{count(found.left_out, 'word')} in the middle left out: the first {half} and last {len(words) - half}"
        console.print(f"{note} are explained.", highlight=False, soft_wrap=True)
    if colour:
        console.print(_painted(found))
        console.print(_legend())
        if len(words) > _MAX_ROWS:
            least = sorted((abs(word.effect or 0.0) for word in words), reverse=True)[_MAX_ROWS - 1]
            words = [word for word in words if abs(word.effect or 0.0) >= least][:_MAX_ROWS]
            console.print(f"\nThe {_MAX_ROWS} words with the largest effects:", highlight=False)
    console.print(_table(words, _largest(found), colour))


def headline(curve: LengthDistribution) -> str:
    """Median and central intervals in words."""
    cut = float(curve.at(curve.limit - 1))
    half, most = ((curve.quantile(0.5 - s / 2), curve.quantile(0.5 + s / 2)) for s in (0.5, 0.9))
    return (
        f"Forecast: median {count(curve.quantile(0.5), 'token')}; 50 % of answers have {half[0]:,} to {half[1]:,}, "
        f"90 % have {most[0]:,} to {most[1]:,}"
        + (f"; {100 * cut:.0f} % are cut off at {curve.limit:,}." if cut >= 0.005 else ".")
    )


def picture(curve: LengthDistribution) -> str:
    """How likely each length is, in blocks on a log scale."""
    from presize.predict.explain import shape

    low, high, shares = shape(curve, _BINS)
    heights = (shares / max(float(shares.max()), 1e-12) * (len(_BLOCKS) - 1)).round().astype(int)
    return f"{low:>8,} {''.join(_BLOCKS[h] for h in heights)} {high:,} tokens (log scale)"


def _largest(found: Explanation) -> float:
    """Tokens that count as a full bar: what is less than one token is not blown up."""
    return max([1.0, *(abs(word.effect or 0.0) for word in found.words)])


def _table(words: list[Word], largest: float, colour: bool) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    attention = any(word.attention is not None for word in words)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("word", max_width=_MAX_SHOWN, no_wrap=True, overflow="ellipsis")
    if attention:
        table.add_column("attention", justify="right")
    table.add_column("effect, tokens", justify="right")
    table.add_column(f"{'shorter':>{_HALF_BAR}}│longer", no_wrap=True)
    for word in words:
        style = _style(word.effect, largest) if colour else ""
        shares = [f"{100 * (word.attention or 0.0):.1f} %"] if attention else []
        table.add_row(
            Text(_safe(word.text[: 4 * _MAX_SHOWN]), style=style),
            *shares,
            "-" if word.effect is None else f"{word.effect:+.1f}",
            Text(_bar(word.effect or 0.0, largest), style=style),
        )
    return table


def _bar(effect: float, largest: float) -> str:
    blocks = round(abs(effect) / largest * _HALF_BAR)
    left, right = (blocks, 0) if effect < 0 else (0, blocks)
    return f"{'█' * left:>{_HALF_BAR}}│{'█' * right:<{_HALF_BAR}}"


def _style(effect: float | None, largest: float) -> str:
    """From grey to orange (longer) or blue (shorter); legible on dark and light."""
    share = min(abs(effect or 0.0) / largest, 1.0)
    goal = _ORANGE if (effect or 0.0) > 0 else _BLUE
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(_GREY, goal, strict=True))
    return f"{'bold ' if share > 0.5 else ''}rgb({red},{green},{blue})"


def _painted(found: Explanation) -> Text:
    """The prompt with its lines and paragraphs, each word in its colour."""
    from rich.text import Text

    largest, middle = _largest(found), len(found.words) // 2
    painted = Text()
    for i, word in enumerate(found.words):
        lines = min(word.before.count("\n"), 2)
        painted.append(("\n" * lines or " ") if i else "")
        if found.left_out and i == middle:
            painted.append("[...] ", style="dim")
        painted.append(_safe(word.text), style=_style(word.effect, largest))
    return painted


def _legend() -> Text:
    from rich.text import Text

    steps = [Text("■", style=_style(step / 4, 1.0)) for step in range(-4, 5)]
    return Text.assemble("\nshorter ", *steps, " longer")


def _safe(text: str) -> str:
    """Without characters that would steer the terminal."""
    return "".join("\ufffd" if ord(c) < 32 or 127 <= ord(c) < 160 else c for c in text)
