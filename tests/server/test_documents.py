"""What SECURITY.md, docs/serving.md and deploy/ say is true of the code."""

from __future__ import annotations

import json
import re
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from presize.cli.main import VERBS, build_parser
from presize.cli.specs import specs_of
from presize.config import EngineOptions, ServeOptions
from presize.engine.engine import Snapshot
from presize.engine.sampling_params import MAX_LOGPROBS, MAX_N, MAX_STOP_LENGTH, MAX_STOPS, MAX_TOKENS
from presize.server import guards
from presize.server.app import _ERRORS
from presize.server.http import HEAD_SECONDS
from presize.server.metrics import OUTCOMES, READING_SPEED_MS, Metrics
from presize.server.protocol import (
    MAX_FIELDS,
    MAX_MESSAGES,
    MAX_PRIORITY,
    MAX_PROMPTS,
    ChatRequest,
    CompletionRequest,
    Generation,
    Message,
)
from presize.server.run import _LAST_WORDS_S, _Process
from presize.server.view import EngineView

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SPECS = specs_of((ServeOptions, EngineOptions))


def document(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def table(text: str, head: str) -> list[list[str]]:
    """The rows below the head of a table."""
    lines = iter(text.splitlines())
    assert any(line.startswith(f"| {head} |") for line in lines), head
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def serving_parser() -> Any:
    return build_parser(next(verb for verb in VERBS if verb.name == "serve"))


# limits


def test_the_table_of_limits_has_the_codes_numbers() -> None:
    options, engine = ServeOptions(), EngineOptions()
    with socket.socket() as listener:
        http = _Process(options, engine, [], listener)._http(None).config
    parts = Message.model_json_schema()["properties"]["content"]["anyOf"][1]["maxItems"]
    flags = {
        "bytes of a request's head": ("max_header_bytes", options.max_header_bytes),
        "bytes of a body": ("max_body_bytes", options.max_body_bytes),
        "requests at the same time": ("max_connections", options.max_connections),
        "sequences that wait": ("max_queued_requests", options.max_queued_requests),
        "prompt tokens that wait": ("max_queued_tokens", options.max_queued_tokens),
        "sequences in a step": ("max_num_seqs", engine.max_num_seqs),
        "seconds of a request": ("request_timeout", options.request_timeout),
    }
    others = {
        "seconds until a head is complete": ("fixed", HEAD_SECONDS),
        "seconds between two parts of a body": ("fixed", guards._BODY_SECONDS),
        "seconds that an idle connection is kept after an answer": ("fixed", http.timeout_keep_alive),
        "prompts of a request": ("`prompt`", MAX_PROMPTS),
        "answers to a prompt": ("`n`", MAX_N),
        "tokens of an answer": ("`max_tokens`", MAX_TOKENS),
        "stop strings": ("`stop`", MAX_STOPS),
        "characters of a stop string": ("`stop`", MAX_STOP_LENGTH),
        "stop tokens": ("`stop_token_ids`", MAX_STOPS),
        "alternatives to a token": ("`logprobs`", MAX_LOGPROBS),
        "messages of a conversation": ("`messages`", MAX_MESSAGES),
        "parts of a message": ("`content`", parts),
        "fields of an object": ("any", MAX_FIELDS),
        "priority, either way": ("`priority`", MAX_PRIORITY),
    }
    expected = {name: (f"`{SPECS[option].flag}`", value) for name, (option, value) in flags.items()} | others
    rows = table(document("SECURITY.md"), "limit")
    assert {row[0]: (row[2], float(row[1].replace(",", ""))) for row in rows} == expected
    assert http.h11_max_incomplete_event_size == options.max_header_bytes


def test_statuses_are_those_of_the_openapi_document() -> None:
    rows = table(document("docs/serving.md"), "status")
    assert {int(row[0]) for row in rows} == set(_ERRORS)


# fields


@pytest.mark.parametrize("kind", [ChatRequest, CompletionRequest])
def test_every_field_is_documented(kind: type[Generation]) -> None:
    text = document("docs/serving.md")
    fields, rest = text.split("### Fields")[1].split("### The forecast")[0].split("Not looked at:")
    passed_over, refused = (set(re.findall(r"`(\w+)`", part)) for part in rest.split("Refused by name"))
    named = set(re.findall(r"`(\w+)`", " ".join(row[0] for row in table(fields, "field"))))
    assert set(kind.model_fields) <= named
    assert passed_over == kind.PASSED_OVER
    assert set(kind.REFUSED) <= refused
    assert refused <= set(ChatRequest.REFUSED) | set(CompletionRequest.REFUSED)


# metrics


@pytest.fixture(scope="module")
def published() -> dict[str, str]:
    """Prometheus' text of a server that has a view; by metric its type. Without `_created`."""
    metrics = Metrics("model", EngineOptions(slo_ttft_ms=100), compat=True)
    snapshot = Snapshot(
        running=1, waiting=2, kv_used_tokens=32, kv_booked_tokens=64, kv_capacity_tokens=128, output_tokens=5
    )
    metrics.view = EngineView(
        snapshot=snapshot, preemptions={"booking": 0, "memory": 1}, predictor="x", failures=0, late=0
    )
    found = re.findall(r"^# TYPE (\S+) (\S+)$", metrics.text().decode(), re.MULTILINE)
    return {name: kind for name, kind in found if not name.endswith("_created")}


def test_the_table_of_metrics_is_what_is_published(published: dict[str, str]) -> None:
    rows = table(document("docs/serving.md"), "metric")
    own = {name: kind for name, kind in published.items() if not name.startswith("vllm:")}
    assert {row[0].strip("`"): row[1] for row in rows} == own
    (outcomes,) = (row[2] for row in rows if row[0] == "`presize_http_outcomes_total`")
    assert all(f"`{outcome}`" in outcomes for outcome in OUTCOMES)


def test_metrics_under_vllms_names_are_listed(published: dict[str, str]) -> None:
    listed = re.findall(r"`(vllm:\w+)`", document("docs/serving.md"))
    assert sorted(listed) == sorted(name for name in published if name.startswith("vllm:"))


def test_the_reading_speed_is_the_codes() -> None:
    assert f"{READING_SPEED_MS:g} ms a token" in document("docs/serving.md")


def test_the_dashboard_asks_for_published_metrics_only(published: dict[str, str]) -> None:
    board = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    samples = set(published)
    samples |= {name + end for name, kind in published.items() if kind == "histogram" for end in ("_bucket", "_count")}
    asked = set()
    for panel in board["panels"]:
        assert panel["title"]
        assert panel["targets"]
        for target in panel["targets"]:
            names = set(re.findall(r"presize_\w+", target["expr"]))
            assert names <= samples, panel["title"]
            asked |= names
    forecasts = {name for name in published if name.startswith("presize_") and "predict" in name}
    assert forecasts <= {name.removesuffix("_bucket") for name in asked}, "what only this server can tell"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    corners = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(corners)) == len(corners)


# commands and files


def test_flags_that_are_named_exist() -> None:
    known = {spec.flag for spec in SPECS.values()} | {"--config"}
    foreign = {"--build-arg", "--constraint", "--file", "--tag", "--rm", "--publish", "--volume", "--stop-timeout"}
    foreign |= {"--now", "--unit", "--follow", "--version"}
    for name in ("docs/serving.md", "SECURITY.md"):
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", document(name))) <= known | foreign


def test_shown_commands_can_be_parsed() -> None:
    commands = re.findall(r"^\$ (presize serve.*)$", document("docs/serving.md"), re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        serving_parser().parse_args(shlex.split(command)[1:])


def unit(name: str) -> list[str]:
    """Values of a setting of the systemd unit."""
    return re.findall(rf"^{name}=(.*)$", (DEPLOY / "presize.service").read_text(encoding="utf-8"), re.MULTILINE)


def test_systemd_waits_longer_than_the_server_drains() -> None:
    (start,), (patience,) = unit("ExecStart"), unit("TimeoutStopSec")
    args = serving_parser().parse_args(shlex.split(start)[1:])
    assert float(patience) > float(args.shutdown_timeout) + 3 * _LAST_WORDS_S
    (files,) = unit("LimitNOFILE")
    assert int(files) > ServeOptions().max_connections


def test_systemd_gives_it_one_directory_to_write_to() -> None:
    (variables,), (directory,) = unit("Environment"), unit("CacheDirectory")
    paths = dict(pair.split("=") for pair in variables.split())
    assert set(paths) == {"PRESIZE_CACHE", "HF_HOME", "NUMBA_CACHE_DIR"}
    assert all(path == f"%C/{directory}" or path.startswith(f"%C/{directory}/") for path in paths.values())
    for setting in ("DynamicUser", "NoNewPrivileges"):
        assert unit(setting) == ["yes"]
    assert unit("ProtectSystem") == ["strict"]
    assert unit("Restart") == ["on-failure"]


def test_compose_waits_longer_than_the_server_drains() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert set(services) == {"presize", "prometheus", "grafana"}
    server = services["presize"]
    args = serving_parser().parse_args(["serve", *server["command"]])
    assert float(server["stop_grace_period"].removesuffix("s")) > float(args.shutdown_timeout) + 3 * _LAST_WORDS_S
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service.get("ports", []))


def test_prometheus_scrapes_the_server_of_the_compose_file() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["presize:8000"]}]


def test_the_image_runs_without_rights_and_sets_options_that_exist() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    assert re.search(r"^USER \d+$", text, re.MULTILINE)
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
    assert json.loads(entry) == ["presize", "serve"]
    (check,) = re.findall(r"HEALTHCHECK .*? CMD (.*)$", text, re.MULTILINE)
    program = json.loads(check)
    assert program[:2] == ["python", "-c"]
    compile(program[2], "HEALTHCHECK", "exec")
    variables = set(re.findall(r"(PRESIZE_\w+)=", text)) - {"PRESIZE_CACHE"}
    assert variables <= {spec.env for spec in SPECS.values()}


def test_pages_that_are_linked_exist() -> None:
    for name in ("docs/serving.md", "SECURITY.md"):
        for target in re.findall(r"\]\(([^)#]+)", document(name)):
            assert (ROOT / name).parent.joinpath(target).exists(), target
