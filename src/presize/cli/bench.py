"""`presize bench` and its kind `offline`: the same rows under several admission policies, in one engine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from presize.cli import bench_serve
from presize.cli.flags import add_flags, build, gather
from presize.cli.generate_options import GenerateOptions
from presize.cli.result_file import check_writable, save
from presize.cli.rows import Row, RowError, read_rows
from presize.cli.specs import registry_names
from presize.cli.text import did_you_mean, paragraphs
from presize.cli.work import Counts, Serving, at_least_one, engine_options, load_engine, open_input, run_rows
from presize.config import EngineOptions, SchedulerOptions
from presize.errors import ConfigError, shown

if TYPE_CHECKING:
    from presize.cli.progress import Progress

OPTIONS = (GenerateOptions, EngineOptions)
WARMUP_TOKENS = 8  # tokens for each warm-up row: enough to compile and to touch the memory

_EPILOG = paragraphs(
    "The rows are those of `presize generate`; see there. The weights are loaded once. Rounds are interleaved "
    "(a b a b), so that a machine that slows down slows all of them; the run shown is the one with the "
    "median tokens/s.",
    "The table goes to standard error; the last line on standard output is a JSON object with one object for each "
    "policy, or for each policy/order where --orders is given.",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared: the name in the results, the policy, the order."""

    name: str
    policy: str
    order: str


def add_parser(subparsers: Any) -> None:
    """Add the verb to the parser of `presize`."""
    bench = subparsers.add_parser("bench", description="Measure.", usage="presize bench {offline,serve} [flags]")
    kinds = bench.add_subparsers(dest="kind", metavar="KIND", required=True, title="kinds", prog="presize bench")
    parser = kinds.add_parser(
        "offline",
        help="all rows are there at the start: which policy is done first?",
        usage="presize bench offline PROMPTS.jsonl [--policies A,B] [flags]",
        description="Run the same rows under several admission policies and compare.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", metavar="PROMPTS.jsonl", help="the rows; - is standard input")
    group = parser.add_argument_group("Comparison")
    names = ", ".join(registry_names("policy"))
    group.add_argument(
        "--policies", metavar="A,B", help=f"policies, with commas (default: that of --policy; known: {names})"
    )
    group.add_argument(
        "--orders",
        metavar="A,B",
        help=f"each policy with each of these (default: that of --order; known: {', '.join(registry_names('order'))})",
    )
    group.add_argument("--repeats", metavar="N", type=int, default=1, help="rounds (default: 1)")
    group.add_argument(
        "--warmup", metavar="N", type=int, default=4, help="rows that are run first and not counted (default: 4)"
    )
    group.add_argument("--save-result", metavar="FILE", help="write all runs, hardware, versions and date as JSON")
    add_flags(parser, OPTIONS)
    bench_serve.add_kind(kinds)


def run(args: argparse.Namespace) -> int:
    """Run the verb; the exit status is 1 if a row failed."""
    if args.kind == "serve":
        return bench_serve.run(args)
    values = gather(args, OPTIONS)
    engine, options = engine_options(values), build(GenerateOptions, values)
    if args.repeats < 1 or args.warmup < 0:
        name, value, low = ("--repeats", args.repeats, 1) if args.repeats < 1 else ("--warmup", args.warmup, 0)
        raise ConfigError(f"flag {name} is {value}; it must be a whole number, at least {low}")
    plans = plans_of(args.policies, args.orders, engine)
    with open_input(args.input) as stream:
        rows = read_rows(stream, options.sampling(), model=engine.model, chat=options.chat)
        work = list(at_least_one(rows, args.input))
    if args.save_result:
        check_writable(args.save_result)
    return _compare(args, engine, plans, work)


def plans_of(policies: str | None, orders: str | None, options: SchedulerOptions) -> list[Plan]:
    """Every policy with every order; ConfigError that lists the known names for an unknown one."""
    chosen = _names("policy", "--policies", policies) if policies is not None else [options.policy]
    if orders is None:
        return [Plan(policy, policy, options.order) for policy in chosen]
    return [
        Plan(f"{policy}/{order}", policy, order) for policy in chosen for order in _names("order", "--orders", orders)
    ]


def _names(kind: str, flag: str, text: str) -> list[str]:
    known = registry_names(kind)
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ConfigError(f"flag {flag}: unknown {kind} {shown(name)}; known: {', '.join(known)}{hint}")
    return list(dict.fromkeys(names))


def _compare(args: argparse.Namespace, options: EngineOptions, plans: list[Plan], work: list[Row | RowError]) -> int:
    from rich.console import Console

    from presize.cli.answering import report_errors
    from presize.cli.progress import Progress
    from presize.cli.summary import json_line, print_table

    console = Console(stderr=True)
    runs: dict[str, list[dict[str, Any]]] = {plan.name: [] for plan in plans}
    seen: set[RowError] = set()
    with Progress(console) as progress:
        engine = load_engine(replace(options, policy=plans[0].policy, order=plans[0].order), progress.report)
        _warm_up(engine, work, args.warmup)
        for round_number in range(args.repeats):
            for plan in plans:
                rounds = f" {round_number + 1}/{args.repeats}" if args.repeats > 1 else ""
                progress.start(plan.name + rounds)
                errors: list[RowError] = []
                engine.restart(policy=plan.policy, order=plan.order, predictor=options.predictor)
                figures = _run_one(engine, work, errors, progress)
                runs[plan.name].append(figures)
                fresh = [error for error in errors if error not in seen]  # most fail under every policy alike
                seen.update(fresh)
                report_errors(console, fresh[:3], len(fresh))
    results = {name: median_run(of_plan) for name, of_plan in runs.items()}
    print_table(console, results)
    if args.save_result:
        from presize.cli.environment import describe

        record = {**describe(), "input": args.input, "options": asdict(options), "results": results, "runs": runs}
        save(args.save_result, json_line(record))
    sys.stdout.write(json_line(results))
    return 1 if any(figures["failed"] for figures in results.values()) else 0


def _warm_up(engine: Serving, work: Sequence[Row | RowError], rows: int) -> None:
    """Run a few short answers, so that compiling and first touches of memory are in nobody's figures."""
    some = [row for row in work if isinstance(row, Row)][:rows]
    short = [replace(row, params=replace(row.params, n=1, min_tokens=0, max_tokens=WARMUP_TOKENS)) for row in some]
    run_rows(engine, short, lambda row, output: None, lambda error: None, lambda counts: None)


def _run_one(
    engine: Serving, work: Sequence[Row | RowError], errors: list[RowError], progress: Progress
) -> dict[str, Any]:
    from presize.cli.summary import selected

    def on_step(counts: Counts) -> None:
        progress.update(counts, engine)

    counts = run_rows(engine, work, lambda row, output: None, errors.append, on_step)
    return selected(engine.stats.summary(failed=counts.failed))


def median_run(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The run with the median tokens/s (the lower one of two): a run that took place, not a mix of several."""
    ordered = sorted(runs, key=lambda figures: float(figures["tokens_per_second"]))
    return dict(ordered[(len(ordered) - 1) // 2])
