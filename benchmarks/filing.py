"""How a benchmark reports: a file in benchmarks/results/ with hardware, versions, date, and one last JSON line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from presize.cli.environment import describe

RESULTS = Path(__file__).resolve().parent / "results"


def report(name: str, result: dict[str, Any], *, save: bool) -> None:
    """Print the result as the last line; with ``save``, file it as results/NAME-DATE.json beside what it ran on."""
    about = describe()
    if save:
        path = RESULTS / f"{name}-{about['date'][:10]}.json"
        path.write_text(json.dumps({"benchmark": name, **about, "result": result}, indent=1) + "\n")
    print(json.dumps({"benchmark": name, **result}))


def rounded(value: Any, digits: int = 4) -> Any:
    """The same structure with its floats cut to ``digits`` significant digits, for reading."""
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value
