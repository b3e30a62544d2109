"""`presize simulate`: a trace on modelled devices, under several admission policies."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from presize.cli.picture_file import check_picture
from presize.cli.result_file import check_writable, save
from presize.cli.simulation import (
    PREDICTORS,
    SIMULATED_FIELDS,
    TRACES,
    Simulation,
    add_simulation_flags,
    shown_figures,
)
from presize.cli.text import paragraphs
from presize.errors import ConfigError, shown

if TYPE_CHECKING:
    from rich.console import Console

_EPILOG = paragraphs(
    TRACES,
    PREDICTORS,
    "The scheduler, the policies and the predictors are those of `presize serve`; only the device is a formula. "
    "Without a file of `presize calibrate` it has its maker's figures and assumed efficiencies: compare policies with "
    "it, and calibrate before you trust a number of seconds. --slo-ttft-ms and --slo-tpot-ms do to simulated engines "
    "what they do to real ones, and the share of requests that kept them is reported.",
    "The table goes to standard error; the last line on standard output is a JSON object with one object for each "
    "policy, for each policy/order where --orders is given, and for each of --rates.",
)


def add_parser(subparsers: Any) -> None:
    """Add the verb to the parser of `presize`."""
    parser = subparsers.add_parser(
        "simulate",
        usage="presize simulate TRACE [--device D] [--model M] [--policies A,B] [flags]",
        description="Replay a trace on modelled devices, under several admission policies.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_argument_group("Output")
    group.add_argument("--rates", metavar="X,Y", help="each policy at each of these requests per second")
    group.add_argument("--save-plot", metavar="FILE", help="write a picture: throughput, latency, KV memory over time")
    group.add_argument("--save-result", metavar="FILE", help="write the figures and all options as JSON")
    add_simulation_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from rich.console import Console

    from presize.cli.progress import Progress
    from presize.cli.summary import json_line, print_table
    from presize.simulate.traces import with_rate

    rates = _rates(args.rates)
    if args.save_plot is not None:
        check_picture(Path(args.save_plot))
    if args.save_result:
        check_writable(args.save_result)
    simulation = Simulation(args)
    console = Console(stderr=True)
    _tell(simulation, console)
    found = {}
    with Progress(console) as progress:
        for rate in rates:
            trace = simulation.trace if rate is None else with_rate(simulation.trace, simulation.options, rate)
            for plan in simulation.plans:
                name = plan.name if rate is None else f"{plan.name} @ {rate:g}/s"
                progress.start(name)
                found[name] = (plan.name, simulation.run(plan, progress.report, trace))
    results = {name: shown_figures(result.figures) for name, (_, result) in found.items()}
    fields = {name: SIMULATED_FIELDS[name] for name in next(iter(results.values()))}
    print_table(console, results, fields)
    if args.save_plot is not None:
        from presize.cli.simulate_plot import save_simulation

        save_simulation(Path(args.save_plot), found, simulation.options.kv_tokens or simulation.costs.kv_tokens)
    if args.save_result:
        options = {**asdict(simulation.scheduler), **asdict(simulation.options)}
        save(args.save_result, json_line({"trace": args.trace, "options": options, "results": results}))
    sys.stdout.write(json_line(results))
    return 0


def _rates(text: str | None) -> Sequence[float | None]:
    if text is None:
        return [None]  # as the trace has them
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = [0.0]
    if not all(1e-6 <= rate <= 1e9 for rate in rates) or len(set(rates)) < len(rates):
        raise ConfigError(f"flag --rates is {shown(text)}; it must be different numbers from 1e-6 to 1e9, with commas")
    return rates


def _tell(simulation: Simulation, console: Console) -> None:
    """What is simulated, in a line."""
    options, costs, trace = simulation.options, simulation.costs, simulation.trace
    tokens = options.kv_tokens or costs.kv_tokens
    cut = f", {trace.cut:,} of them cut to the context" if trace.cut else ""
    console.print(
        f"presize: {len(trace):,} requests{cut}; {options.replicas} x {costs.group.devices} {costs.device.name}, "
        f"{costs.model.name}, {tokens:,} KV tokens each",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
