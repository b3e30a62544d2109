"""CSV files with the time, the prompt's and the answer's length of every request, such as Azure's."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from presize.errors import ConfigError, shown
from presize.traces.rows import BadRow, Rows, Shape, opened

# Names of the columns, as Azure's and BurstGPT's traces have them; case and separators do not matter.
_COLUMNS = {
    "arrival": ("timestamp", "arrival", "arrivaltime", "time"),
    "context tokens": ("contexttokens", "requesttokens", "prompttokens", "inputtokens", "inputlen", "inputlength"),
    "generated tokens": ("generatedtokens", "responsetokens", "outputtokens", "outputlen", "outputlength"),
}


def read_table(path: str, name: str = "dataset_path") -> Rows[Shape]:
    """The requests in the order of the file; ConfigError, which calls it ``name``, if it is not one."""
    rows: Rows[Shape] = Rows(timed=True)
    with opened(path, name) as file:
        try:
            reader = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
            places = _places(next(reader, []), f"{name} {path}")
            for cells in reader:
                if not cells:
                    continue
                try:
                    rows.good.append(_shape(cells, places, reader.line_num))
                except BadRow as reason:
                    rows.bad.append(f"line {reader.line_num}: {reason}")
        except (UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"{name} {path} is not a CSV file: {error}") from error
    return rows


def _places(header: Sequence[str], file: str) -> dict[str, int]:
    names = ["".join(c for c in name.lower() if c.isalnum()) for name in header]
    places = {}
    for column, known in _COLUMNS.items():
        found = [names.index(name) for name in known if name in names]
        if not found:
            raise ConfigError(
                f"{file} has no column for the {column}; its first line must have names such as "
                "TIMESTAMP,ContextTokens,GeneratedTokens"
            )
        places[column] = found[0]
    return places


def _shape(cells: Sequence[str], places: Mapping[str, int], row: int) -> Shape:
    if len(cells) <= max(places.values()):
        raise BadRow(f"it has {len(cells)} cells")
    arrival, context, generated = (cells[places[column]].strip() for column in _COLUMNS)
    return Shape(_tokens(context, "context"), _tokens(generated, "generated"), _seconds(arrival), row=row)


def _tokens(text: str, name: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 1 or not value.is_integer():
        raise BadRow(f"the {name} tokens are {shown(text)}; they must be a whole number, at least 1")
    return int(value)


def _seconds(text: str) -> float:
    """Of a number of seconds, or of a date and time; only differences between them have a meaning."""
    try:
        value = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise BadRow(f"the arrival is {shown(text)}; it must be seconds, or a date and time") from error
        # without a time zone it is taken as UTC: local time would jump when clocks change
        value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(value):
        raise BadRow(f"the arrival is {shown(text)}; it must be finite")
    return value
