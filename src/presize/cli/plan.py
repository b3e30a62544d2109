"""`presize plan`: the fewest devices that hold an objective, by policy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from presize.cli.simulation import PREDICTORS, TRACES, Simulation, add_simulation_flags
from presize.cli.text import paragraphs
from presize.errors import ConfigError, check_range

if TYPE_CHECKING:
    from rich.console import Console

VARIED = ("replicas", "tensor-parallel", "pipeline-parallel")
_MOST = 1024

_EPILOG = paragraphs(
    TRACES,
    PREDICTORS,
    "An objective is --slo-ttft-ms, --slo-tpot-ms, or both; a size holds if so many of the requests keep it. Sizes are "
    "tried by doubling and then by halving the interval, as if more devices never made things worse. A size whose "
    "memory is too small for the model, or for a request, does not hold.",
    "The table goes to standard error; the last line on standard output is a JSON object with an object for each "
    "policy: the size, the devices, their number relative to the first policy's (cost_ratio), and the share of "
    "requests within the objective; nulls where not even --most is enough.",
)


def add_parser(subparsers: Any) -> None:
    """Add the verb to the parser of `presize`."""
    parser = subparsers.add_parser(
        "plan",
        usage="presize plan TRACE --slo-ttft-ms N [--policies A,B] [--device D] [--model M] [flags]",
        description="Find the fewest devices with which a trace keeps its objective, for each policy.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_argument_group("Search")
    group.add_argument(
        "--attainment",
        metavar="X",
        type=float,
        default=0.99,
        help="share of requests that must keep it (default: 0.99)",
    )
    group.add_argument(
        "--vary", choices=VARIED, default="replicas", help="what is tried, in numbers from 1 (default: replicas)"
    )
    group.add_argument("--most", metavar="N", type=int, default=64, help="largest number tried (default: 64)")
    add_simulation_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb; the exit status is 1 if a policy has no size that holds."""
    from rich.console import Console

    from presize.cli.progress import Progress
    from presize.cli.summary import json_line

    check_range("attainment", args.attainment, 0, 1)
    check_range("most", args.most, 1, _MOST)
    simulation = Simulation(args)
    if simulation.scheduler.slo_ttft_ms is None and simulation.scheduler.slo_tpot_ms is None:
        raise ConfigError("an objective is missing: give --slo-ttft-ms, --slo-tpot-ms, or both")
    varied = args.vary.replace("-", "_")
    console = Console(stderr=True)
    found: dict[str, dict[str, Any]] = {}
    with Progress(console) as progress:
        for plan in simulation.plans:
            attained: dict[int, float] = {}

            def holds(size: int, plan: Any = plan, attained: dict[int, float] = attained) -> bool:
                progress.start(f"{plan.name}, {args.vary} {size}")
                attained[size] = _attainment(simulation, plan, progress.report, {varied: size})
                return attained[size] >= float(args.attainment)

            size = fewest(holds, args.most)
            found[plan.name] = _row(simulation, varied, size, attained)
    base = next(iter(found.values()))["devices"]
    for row in found.values():
        row["cost_ratio"] = None if None in (row["devices"], base) else row["devices"] / base
    _print(console, found, args.vary)
    sys.stdout.write(json_line(found))
    return 1 if any(row["devices"] is None for row in found.values()) else 0


def fewest(holds: Callable[[int], bool], most: int) -> int | None:
    """The smallest number from 1 to ``most`` that holds, if all above it do as well; None if there is none."""
    low, high = 0, 1  # low does not hold
    while not holds(high):
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _attainment(simulation: Simulation, plan: Any, report: Any, changes: dict[str, int]) -> float:
    try:
        return float(simulation.run(plan, report, changes=changes).figures["slo_attainment"])
    except ConfigError:  # the model does not fit these devices
        return 0.0


def _row(simulation: Simulation, varied: str, size: int | None, attained: dict[int, float]) -> dict[str, Any]:
    options = simulation.options
    sizes = {name: getattr(options, name) for name in ("replicas", "tensor_parallel", "pipeline_parallel")}
    if size is None:
        return {varied: None, "devices": None, "slo_attainment": max(attained.values())}
    sizes[varied] = size
    devices = sizes["replicas"] * sizes["tensor_parallel"] * sizes["pipeline_parallel"]
    return {varied: size, "devices": devices, "slo_attainment": attained[size]}


def _print(console: Console, found: dict[str, dict[str, Any]], varied: str) -> None:
    from rich import box
    from rich.table import Table

    from presize.cli.summary import cell

    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("policy", varied, "devices", "cost ratio", "within the objective"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for name, row in found.items():
        share = f"{cell(row['slo_attainment'], '%')} %"
        table.add_row(
            name, *(cell(row[column], "") for column in (varied.replace("-", "_"), "devices", "cost_ratio")), share
        )
    console.print(table)
