"""`presize calibrate`: the device model, fitted to this machine."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from presize.cli.flags import add_flags, build, gather
from presize.cli.text import paragraphs
from presize.config import EngineOptions, MemoryOptions, ModelOptions, Options, option
from presize.errors import ConfigError

if TYPE_CHECKING:
    from presize.cli.work import Report
    from presize.simulate.calibrate import Fit

_EPILOG = paragraphs(
    "Loads the model as `presize serve` would, times its steps at batches from 1 to what fits, with short and long "
    "prompts, and fits what the device model leaves free: how much of the bandwidth and of the operations a step "
    "gets, and what it costs besides. Use the file with: presize simulate TRACE --device FILE.json --model NAME. Run "
    "it on a quiet machine, with the flags that the server will have; it takes a minute or two.",
    "The last line on standard output is a JSON object: the fitted device, and how far modelled steps are from real "
    "ones.",
)


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(Options):
    """How long is measured."""

    rounds: int = option(2, "how often every batch is timed", low=1, high=100)


OPTIONS = (CalibrateOptions, ModelOptions, MemoryOptions)


def add_parser(subparsers: Any) -> None:
    """Add the verb to the parser of `presize`."""
    parser = subparsers.add_parser(
        "calibrate",
        usage="presize calibrate --output FILE.json [flags]",
        description="Fit the simulator's device model to this machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_argument_group("Output")
    group.add_argument("--output", metavar="FILE.json", required=True, help="file for the device")
    group.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    add_flags(parser, OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from rich.console import Console

    from presize.cli.environment import describe
    from presize.cli.progress import Progress
    from presize.cli.summary import json_line
    from presize.simulate.calibrate import check_fit
    from presize.simulate.device import save_device

    values = gather(args, OPTIONS)
    output = Path(args.output)
    if output.exists() and not args.overwrite:
        raise ConfigError(f"{output} is there already; add --overwrite to replace it")
    if not output.parent.is_dir():
        raise ConfigError(f"output is {str(output)!r}; there is no directory {str(output.parent)!r}")
    check_fit()
    console = Console(stderr=True)
    with Progress(console) as progress:
        found = _calibrate(build(EngineOptions, values), build(CalibrateOptions, values).rounds, progress.report)
    errors = {"steps": found.steps, "error_median": found.error_median, "error_p90": found.error_p90}
    save_device(output, found.device, {**errors, **describe()})
    console.print(
        f"presize: {found.steps:,} steps; the modelled ones are {found.error_median:.1%} off (median), "
        f"{found.error_p90:.1%} (90 %)",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    sys.stdout.write(json_line({"device": asdict(found.device), **errors}))
    return 0


def _calibrate(options: EngineOptions, rounds: int, report: Report) -> Fit:
    from presize.engine.engine import Engine
    from presize.engine.hub import resolve
    from presize.engine.timing import peaks, time_steps
    from presize.simulate.calibrate import Observed, fit
    from presize.simulate.costs import Chunk
    from presize.simulate.device import DEVICES
    from presize.simulate.models import model_shape

    engine = Engine.load(replace(options, predictor="kaplan-meier"), report=report)
    engine.warm_up()
    time_steps(engine, 1)  # compiles what each shape needs
    steps = [
        Observed(step.decodes, step.context, tuple(Chunk(*chunk) for chunk in step.chunks), step.seconds)
        for step in time_steps(engine, rounds, report)
    ]
    best = peaks(engine)
    device = replace(
        DEVICES["cpu-2-cores"],
        name="calibrated",
        source=f"presize calibrate, {options.model}, {engine.runner.device.type}, {engine.runner.dtype}",
        memory_bytes=best.memory_bytes, bandwidth=best.bandwidth, flops=best.flops,
        link_bandwidth=best.bandwidth, host_bandwidth=best.bandwidth,
        bytes_per_value=float(engine.runner.dtype.itemsize),
    )  # fmt: skip
    return fit(device, model_shape(str(resolve(options.model))), steps)
