"""What `presize simulate` and `presize plan` share: flags, the trace, a simulation with progress."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from presize.cli.bench import Plan, plans_of
from presize.cli.flags import add_flags, build, gather
from presize.cli.specs import registry_names
from presize.cli.summary import FIELDS
from presize.config import SchedulerOptions
from presize.simulate.options import SimulateOptions

if TYPE_CHECKING:
    from presize.cli.work import Report
    from presize.simulate.cluster import Result
    from presize.simulate.costs import StepCosts
    from presize.simulate.traces import Trace

OPTIONS = (SimulateOptions, SchedulerOptions)
SIMULATED_FIELDS: dict[str, tuple[str, str]] = {
    **FIELDS,
    "failed": ("refused", ""),
    "ttft_p99_s": ("time to first token, p99", "s"),
    "tpot_mean_s": ("time per token after it, mean", "ms"),
    "tpot_p99_s": ("time per token after it, p99", "ms"),
    "slo_attainment": ("requests within all objectives", "%"),
}
TRACES = (
    "TRACE: a CSV file with time, prompt and answer length (Azure's and BurstGPT's), JSON lines (Mooncake's, or what "
    "`presize generate` and `collect` wrote), JSON (ShareGPT's, or a result of `presize bench serve --save-detailed`), "
    "any of them compressed (.gz), or the word synthetic."
)
PREDICTORS = (
    "Predictors: kaplan-meier (which auto is here), ewma and max-tokens as in the engine; oracle is the truth of the "
    "trace; noisy blurs it (--forecast-error, --forecast-bias); adversary forecasts one token for the longest answers. "
    "A learned predictor reads prompts, which a trace does not have."
)


def add_simulation_flags(parser: argparse.ArgumentParser) -> None:
    """The trace, what is compared, and all options."""
    parser.add_argument("trace", metavar="TRACE", help="the requests, or synthetic")
    group = parser.add_argument_group("Comparison")
    names, orders = ", ".join(registry_names("policy")), ", ".join(registry_names("order"))
    group.add_argument(
        "--policies", metavar="A,B", help=f"policies, with commas (default: that of --policy; known: {names})"
    )
    group.add_argument(
        "--orders", metavar="A,B", help=f"each policy with each of these (default: that of --order; known: {orders})"
    )
    add_flags(parser, OPTIONS)


class Simulation:
    """The trace and the devices that the arguments ask for; ConfigError for what is wrong with them."""

    def __init__(self, args: argparse.Namespace) -> None:
        from presize.simulate.cluster import step_costs
        from presize.simulate.predictions import check_options
        from presize.simulate.traces import load_trace

        values = gather(args, OPTIONS)
        self.options, self.scheduler = build(SimulateOptions, values), build(SchedulerOptions, values)
        check_options(self.scheduler)
        self.plans = plans_of(args.policies, args.orders, self.scheduler)
        self.costs: StepCosts = step_costs(self.options)
        self.trace: Trace = load_trace(args.trace, self.options, self.costs.model.max_positions)

    def run(
        self, plan: Plan, report: Report, trace: Trace | None = None, changes: Mapping[str, Any] | None = None
    ) -> Result:
        """One plan, with some of the simulation's options changed."""
        from presize.simulate.cluster import simulate, step_costs

        options = replace(self.options, **(changes or {}))
        scheduler = replace(self.scheduler, policy=plan.policy, order=plan.order)
        costs = step_costs(options) if changes else self.costs
        return simulate(trace or self.trace, options, scheduler, costs=costs, report=report)


def shown_figures(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the JSON object, in their order; no objective, no attainment."""
    return {name: figures[name] for name in SIMULATED_FIELDS if figures[name] is not None}
