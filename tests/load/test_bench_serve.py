"""`presize bench serve` as a whole: with a real `presize serve` on a tiny model, and with servers that misbehave."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from fake import DONE, Answer, Fake, delta, hello, refuse, stream, usage
from serving import Server

import presize
from presize.cli.main import main

Bench = Callable[..., tuple[int, dict[str, Any], str]]
Start = Callable[[Answer], Fake]
Write = Callable[..., Path]
COUNTERS = {
    "success": ("presize_http_outcomes_total", {"outcome": "success"}),
    "refused": ("presize_http_outcomes_total", {"outcome": "refused"}),
    "input": ("presize_prompt_tokens_total", {}),
    "output": ("presize_generation_tokens_total", {}),
}


class Change:
    """How far the server's counters have gone on since this was made."""

    def __init__(self, server: Server) -> None:
        self._server, self._before = server, self._look(server)

    @staticmethod
    def _look(server: Server) -> dict[str, float]:
        return {name: server.metric(metric, **labels) for name, (metric, labels) in COUNTERS.items()}

    def __getitem__(self, name: str) -> float:
        return self._look(self._server)[name] - self._before[name]


def test_the_counts_are_the_servers(server: Server, bench: Bench, write: Write) -> None:
    rows = [{"prompt": f"number {i}", "max_tokens": 1 + i % 7} for i in range(30)]
    change = Change(server)
    status, found, error = bench(
        server.url, "--dataset-path", write("x.jsonl", *rows), "--warmups", 0, "--max-concurrency", 4
    )
    assert status == 0
    assert (found["num_prompts"], found["completed"], found["failed"], found["model_id"]) == (30, 30, 0, "tiny")
    assert found["completed"] == change["success"]
    assert found["total_input_tokens"] == change["input"] > 0
    assert found["total_output_tokens"] == change["output"] > 0
    assert found["max_concurrent_requests"] == 4
    assert "output throughput" in error
    assert "num_prompts is 1,000; usable rows, each of which is sent once: 30" in error


def test_made_up_prompts_have_the_lengths_that_were_asked_for(server: Server, bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    change = Change(server)
    status, found, _ = bench(
        server.url, "--num-prompts", 20, "--input-len", 120, "--output-len", 10, "--random-range-ratio", 0.5,
        "--save-result", path, "--save-detailed", "--warmups", 2, "--slo-e2el-ms", 1e6,
    )  # fmt: skip
    assert status == 0
    assert change["success"] == 20 + 2 + 2  # and two warm-ups, and two probes
    saved = orjson.loads(path.read_bytes())
    assert found.items() <= saved.items()
    assert saved["output_lens"] == saved["asked_output_lens"]
    assert 5 <= min(saved["output_lens"]) < max(saved["output_lens"]) <= 15
    assert sum(saved["output_lens"]) == found["total_output_tokens"]
    assert sum(saved["input_lens"]) == found["total_input_tokens"]
    for got, asked in zip(saved["input_lens"], saved["asked_input_lens"], strict=True):
        assert got == pytest.approx(asked, abs=20)  # words of this tokenizer are of one to eight tokens
    assert saved["finish_reasons"] == ["length"] * 20
    assert saved["errors"] == [""] * 20
    assert all(len(gaps) < max(length, 1) for gaps, length in zip(saved["itls"], saved["output_lens"], strict=True))
    assert all(
        ttft + sum(gaps) <= latency * (1 + 1e-9)
        for ttft, gaps, latency in zip(saved["ttfts"], saved["itls"], saved["latencies"], strict=True)
    )
    assert saved["slo_attainment"] == 1
    assert saved["client"]["versions"]["presize"]


def test_a_trace_is_replayed(server: Server, bench: Bench, write: Write) -> None:
    rows = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    rows += [f"2024-01-01 00:00:{i:02},{50 + i},{5 + i}" for i in range(10)]
    status, found, _ = bench(server.url, "--dataset-path", write("x.csv", *rows), "--time-scale", 0.01)
    assert status == 0
    assert found["total_output_tokens"] == sum(5 + i for i in range(10))
    assert found["offered_request_rate"] == pytest.approx(100)
    assert found["mean_client_queue_time_ms"] >= 0


def test_sharegpt_and_the_other_endpoint(server: Server, bench: Bench, write: Write) -> None:
    talks = [{"conversations": [{"from": "human", "value": f"say {i}"}]} for i in range(6)]
    change = Change(server)
    status, found, error = bench(
        server.url + "/v1", "--dataset-path", write("x.json", [*talks, {}]), "--endpoint", "completions",
        "--output-len", 4, "--request-rate", 1000, "--burstiness", 0.5, "--num-prompts", 5, "--warmups", 0,
    )  # fmt: skip
    assert (status, found["completed"], found["backend"]) == (0, 5, "openai")
    assert found["total_input_tokens"] == change["input"]
    assert "conversation 7: it has no list `conversations`" in error
    assert "1 of 7 rows can not be used" in error


def test_a_request_that_the_server_refuses_is_a_failure_of_its_own(server: Server, bench: Bench, write: Write) -> None:
    change = Change(server)
    rows = [{"prompt": "short"}, {"prompt": "long " * 600}, {"messages": [{"role": "system", "content": "be brief"}]}]
    status, found, error = bench(
        server.url, "--dataset-path", write("x.jsonl", *rows), "--output-len", 3, "--warmups", 0
    )
    assert status == 1
    assert (found["completed"], found["failed"], found["rejected"]) == (1, 2, 0)
    assert found["failures"] == {"http 400": 2}
    assert found["completed"] == change["success"]
    assert "2 x http 400: " in error


def test_what_there_is_no_room_for_is_rejected(tiny_model: Path, bench: Bench) -> None:
    server = Server(tiny_model, "--max-num-seqs", "1", "--max-queued-requests", "1")
    try:
        change = Change(server)
        status, found, error = bench(
            server.url, "--num-prompts", 12, "--input-len", 20, "--output-len", 50, "--warmups", 0
        )
        assert status == 0
        assert found["completed"] + found["rejected"] == 12
        assert found["rejected"] == found["failed"] == change["refused"] > 0
        assert found["completed"] == change["success"] - 2 > 0  # and two probes
        assert "x http 429: " in error
    finally:
        assert server.stop() == 0


def test_the_key_is_sent_and_never_shown(
    fake: Start, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def locked(request: web.Request, body: Any) -> web.StreamResponse:
        if request.headers.get("authorization") != "Bearer open-sesame":
            return refuse(401, "a valid key is needed")
        return await hello(request, body)

    server, path = fake(locked), tmp_path / "result.json"
    flags = ("--num-prompts", 3, "--save-result", path, "--save-detailed")
    assert bench(server.url, *flags)[0::2] == (
        1, "presize: error: a probe of 16 words, to see how many tokens they are, failed: http 401: a valid key is "
        "needed\n",
    )  # fmt: skip
    monkeypatch.setenv("OPENAI_API_KEY", "open-sesame")
    status, found, error = bench(server.url, *flags)
    assert (status, found["completed"]) == (0, 3)
    assert "sesame" not in error + path.read_text()
    status, _, error = bench(server.url, *flags, "--api-key", "wrong")
    assert status == 1


def test_flags_environment_and_yaml(fake: Start, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, config = fake(hello), tmp_path / "load.yaml"
    config.write_text("num_prompts: 4\nrequest_rate: .inf\noutput_len: 9\n")
    monkeypatch.setenv("PRESIZE_OUTPUT_LEN", "8")
    status, found, _ = bench(server.url, "--config", config, "--ignore-eos")
    assert (status, found["completed"], found["request_rate"]) == (0, 4, "inf")
    assert [body["max_tokens"] for body in server.seen[-4:]] == [8] * 4
    assert all(body["ignore_eos"] for body in server.seen[-4:])


def test_a_server_that_does_not_know_ignore_eos_says_so_before_the_run(fake: Start, bench: Bench) -> None:
    async def strict(request: web.Request, body: Any) -> web.StreamResponse:
        return refuse(422, "unexpected field ignore_eos") if "ignore_eos" in body else await hello(request, body)

    url = fake(strict).url
    status, _, error = bench(url, "--num-prompts", 2)
    assert status == 1
    assert error == "presize: error: the warm-up request failed: http 422: unexpected field ignore_eos\n"
    assert bench(url, "--num-prompts", 2, "--no-ignore-eos")[0] == 0


def test_retries_are_counted(fake: Start, bench: Bench) -> None:
    seen: dict[str, int] = {}

    async def second_time(request: web.Request, body: Any) -> web.StreamResponse:
        prompt = body["messages"][0]["content"]
        seen[prompt] = seen.get(prompt, 0) + 1
        if body["max_tokens"] == 77 and seen[prompt] < 2:
            return refuse(429, "busy", **{"retry-after": "0"})
        return await hello(request, body)

    status, found, error = bench(fake(second_time).url, "--num-prompts", 5, "--output-len", 77, "--retry")
    assert (status, found["completed"], found["retries"]) == (0, 5, 5)
    assert "sent again" in error


def test_a_server_that_does_not_count(fake: Start, bench: Bench) -> None:
    async def uncounted(request: web.Request, body: Any) -> web.StreamResponse:
        return await stream(request, delta("a"), delta("b"), delta("c", "length"), DONE)

    status, found, error = bench(fake(uncounted).url, "--num-prompts", 2, "--input-len", 5)
    assert status == 0
    assert (found["total_output_tokens"], found["requests_without_usage"]) == (6, 2)
    assert "the server does not count tokens" in error
    assert "their frames are counted instead" in error


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (
            ["--base-url", "http://127.0.0.1:1"],
            1,
            "the server at http://127.0.0.1:1 can not be reached: Connection ref",
        ),
        (["--base-url", "localhost"], 2, "base_url is 'localhost'"),
        (["--request-rate", "0"], 2, "request_rate is '0'; it must be a number from 1e-06 to inf"),
        (["--dataset-path", "none.csv"], 2, "none.csv can not be read: No such file"),
        (["--save-result", os.path.join("none", "x.json")], 2, "can not be written"),
        (["--max-concurency", "5"], 2, "did you mean --max-concurrency?"),
        (["prompts.jsonl"], 2, "unknown argument 'prompts.jsonl'"),
    ],
)
def test_errors_are_one_sentence(flags: list[str], status: int, words: str, capsys: Any) -> None:
    assert main(["bench", "serve", *flags]) == status
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.startswith("presize: error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_limit_on_open_files_is_raised_or_told(fake: Start) -> None:
    resource = pytest.importorskip("resource")
    code = (
        "import resource, sys; from presize.cli.main import main; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), 128)); sys.exit(main(sys.argv[2:]))"
    )
    source = str(Path(presize.__file__).resolve().parents[1])
    url = fake(hello).url

    def run(soft: int, *flags: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", code, str(soft), "bench", "serve", "--base-url", url, *flags]
        return subprocess.run(
            line, env={**os.environ, "PYTHONPATH": source}, capture_output=True, text=True, check=False
        )

    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 128
    done = run(128, "--num-prompts", "500")
    assert done.returncode == 2
    assert "the system allows 128 files (ulimit -n); give --max-concurrency 64 or less" in done.stderr
    assert run(40, "--num-prompts", "60", "--input-len", "5").returncode == 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_the_figures_so_far(signum: int, fake: Start, tmp_path: Path) -> None:
    """The server signals the client itself, in the middle of its third answer."""
    started, processes = threading.Event(), []
    count = 0

    async def answer(request: web.Request, body: Any) -> web.StreamResponse:
        nonlocal count
        count += 1
        if count < 3:
            return await stream(request, delta("a", "stop"), usage(4, 1), DONE)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(delta("half"))
        assert started.wait(30)
        processes[0].send_signal(signum)
        await asyncio.Event().wait()  # until the client goes
        raise AssertionError

    path = tmp_path / "result.json"
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "{i}"}}\n' for i in range(9)))
    source = str(Path(presize.__file__).resolve().parents[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "presize.cli.main", "bench", "serve", "--base-url", fake(answer).url, "--dataset-path",
         str(rows), "--max-concurrency", "1", "--warmups", "0", "--save-result", str(path), "--save-detailed"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": source},
    )  # fmt: skip
    processes.append(process)
    started.set()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    found = orjson.loads(out.splitlines()[-1])
    assert (found["completed"], found["failed"], found["unfinished"], found["num_prompts"]) == (2, 0, 7, 9)
    assert "unfinished" in err
    assert "Traceback" not in err
    saved = orjson.loads(path.read_bytes())
    assert saved["errors"][:2] == ["", ""]
    assert saved["errors"][2].startswith("unfinished: ")
