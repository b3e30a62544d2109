"""A long, unkind day for the server: thousands of requests, clients that go, lie, ask for too much, and are killed.

64 clients in 8 processes send 2,000 requests to a server with a tiny random model. Of these, 10 % disconnect at a
random moment, 5 % are malformed, 5 % exceed a limit; and every few seconds one of the processes is killed (kill -9)
and started again. In the end: every request that was not cut off by a kill has one outcome, and the right one; the
server has nothing in work, no block held, its memory has stayed where it was half-way, and it serves on. The engine
checks the integrity of its block pool whenever it is idle, and dies if it does not hold.

python benchmarks/soak.py --save
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
from filing import report
from served import Served, presize

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/engine"))

FLAGS = "--kv-tokens 2048 --threads 1 --max-body-bytes 65536 --max-num-seqs 32"
PROCESSES, CLIENTS = 8, 8
KILL_EVERY_S = 6.0
KINDS = (("answered", 0.8), ("disconnects", 0.1), ("malformed", 0.05), ("exceeds", 0.05))
MALFORMED = (
    b"{", b"[]", b'{"prompt": 5}', b'{"prompt": "x", "temperature": "hot"}', b'{"prompt": "x", "tools_": 1}',
    b'{"prompt": "x", "n": -1}', b'{"prompt": []}', b"\xff\xfe",
)  # fmt: skip
EXCEEDS = (
    ({"prompt": "the cat", "max_tokens": 100_000}, 400), ({"prompt": "the cat " * 2000, "max_tokens": 5}, 400),
    ({"prompt": "x" * 70_000, "max_tokens": 5}, 413), ({"prompt": "x", "n": 5000}, 400),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="file the result under benchmarks/results/")
    parser.add_argument("--worker", nargs=4, metavar=("URL", "SEED", "FIRST", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        url, seed, first, count = options.worker
        asyncio.run(work(url, int(seed), int(first), int(count)))
        return
    import tiny

    with tempfile.TemporaryDirectory() as folder:
        model = tiny.save(tiny.make_model("llama"), Path(folder))
        with presize(str(model), *FLAGS.split()) as server:
            result = soak(server, options.requests, options.seed)
    result["exit_status"] = server.status
    report("soak", result, save=options.save)
    wrong = result["wrong_outcomes"] or result["left_in_work"] or result["left_held"] or server.status
    sys.exit(1 if wrong or result["memory_growth"] > 0.1 else 0)


def soak(server: Served, requests: int, seed: int) -> dict[str, Any]:
    """Send everything; what came of it."""
    rng, started = random.Random(seed), time.monotonic()
    share = requests // PROCESSES
    running = [Worker(server.url, seed * 1000 + i, 0, share) for i in range(PROCESSES)]
    outcomes: Counter[str] = Counter()
    kills, next_kill, half = 0, started + KILL_EVERY_S, 0
    while running:
        time.sleep(0.1)
        done = sum(worker.done() for worker in running) + outcomes.total()
        if not half and done > requests / 2:
            half = server.memory()
        if time.monotonic() > next_kill:
            next_kill += KILL_EVERY_S
            victim = rng.choice(running)
            if victim.process.poll() is None:
                victim.process.kill()
                kills += 1
        for worker in [w for w in running if w.process.poll() is not None]:
            lines = worker.lines()
            outcomes.update(line["outcome"] for line in lines)
            running.remove(worker)
            if worker.process.returncode == -signal.SIGKILL and len(lines) < worker.count:
                running.append(Worker(server.url, worker.seed + 100, 0, worker.count - len(lines)))
            elif worker.process.returncode not in (0, -signal.SIGKILL):
                outcomes["worker failed"] += 1
    state = asyncio.run(settled(server.url))
    return {
        "requests": requests, "clients": PROCESSES * CLIENTS, "kills": kills,
        "seconds": round(time.monotonic() - started, 1), "outcomes": dict(outcomes),
        "wrong_outcomes": sum(count for name, count in outcomes.items() if name.startswith(("wrong", "worker"))),
        "left_in_work": state["in_work"], "left_held": state["held"], "server_outcomes": state["outcomes"],
        "memory_mb": round(server.memory() / 2**20), "memory_growth": round(server.memory() / max(half, 1) - 1, 4),
    }  # fmt: skip


class Worker:
    """A process of clients, and the lines that it has written."""

    def __init__(self, url: str, seed: int, first: int, count: int) -> None:
        self.seed, self.count = seed, count
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - as long as this object
        arguments = [url, str(seed), str(first), str(count)]
        self.process = subprocess.Popen([sys.executable, __file__, "--worker", *arguments], stdout=self._file)

    def lines(self) -> list[dict[str, Any]]:
        """Outcomes so far; the last line may be cut off by a kill."""
        # without a seek: the process writes at the place that the two share
        content = os.pread(self._file.fileno(), 2**24, 0)
        return [json.loads(line) for line in content.split(b"\n")[:-1]]

    def done(self) -> int:
        """How many there are."""
        return len(self.lines())


async def settled(url: str) -> dict[str, Any]:
    """The server's own figures once it is idle, or after half a minute."""
    async with aiohttp.ClientSession() as session:
        for _ in range(300):
            async with session.get(f"{url}/metrics") as response:
                text = await response.text()
            state = {
                "in_work": _metric(text, "presize_requests_in_work"),
                "held": _metric(text, "presize_kv_cache_usage_perc"),
            }
            if not any(state.values()):
                break
            await asyncio.sleep(0.1)
        async with session.post(f"{url}/v1/completions", json={"prompt": "the cat", "max_tokens": 3}) as response:
            assert response.status == 200, "the server must serve on"
    found = re.findall(r'presize_http_outcomes_total\{.*outcome="(\w+)"\} (\S+)', text)
    return {**state, "outcomes": {name: int(float(value)) for name, value in found}}


def _metric(text: str, name: str) -> float:
    match = re.search(rf"^{name}\{{.*\}} (\S+)$", text, re.MULTILINE)
    assert match is not None, name
    return float(match.group(1))


async def work(url: str, seed: int, first: int, count: int) -> None:
    """CLIENTS clients share ``count`` requests; one line of JSON for each."""
    numbers = iter(range(first, first + count))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:

        async def client() -> None:
            for number in numbers:
                rng = random.Random(f"{seed}-{number}")
                kind = rng.choices([k for k, _ in KINDS], [share for _, share in KINDS])[0]
                outcome = await ACTIONS[kind](session, url, rng)
                print(json.dumps({"kind": kind, "outcome": outcome}), flush=True)

        await asyncio.gather(*(client() for _ in range(CLIENTS)))


async def answered(session: aiohttp.ClientSession, url: str, rng: random.Random) -> str:
    """Streamed or whole; 429 is an answer, too."""
    body = {"prompt": "the cat " * rng.randint(1, 20), "max_tokens": rng.randint(1, 120), "stream": rng.random() < 0.7}
    async with session.post(f"{url}/v1/completions", json=body) as response:
        text = await response.text()
        if response.status == 429:
            return "told to come back" if "retry-after" in response.headers else "wrong: 429 without a time"
        if response.status != 200:
            return f"wrong: {response.status} {text[:80]}"
        if body["stream"]:
            return (
                "answered"
                if text.count("data: [DONE]") == 1 and text.count('"finish_reason":"') == 1
                else "wrong: stream"
            )
        return "answered" if json.loads(text)["choices"][0]["finish_reason"] else "wrong: no reason"


async def disconnects(session: aiohttp.ClientSession, url: str, rng: random.Random) -> str:
    """Goes away before the answer, or in its midst."""
    body = {
        "prompt": "the cat " * rng.randint(1, 20),
        "max_tokens": 400,
        "stream": rng.random() < 0.7,
        "ignore_eos": True,
    }
    try:
        async with asyncio.timeout(rng.uniform(0.0, 0.5)), session.post(f"{url}/v1/completions", json=body) as response:
            await response.read()
    except TimeoutError:
        return "went away"
    return "answered" if response.status == 200 else "told to come back"


async def malformed(session: aiohttp.ClientSession, url: str, rng: random.Random) -> str:
    """Not what the endpoint takes."""
    headers = {"content-type": "application/json"}
    async with session.post(f"{url}/v1/completions", data=rng.choice(MALFORMED), headers=headers) as response:
        return "told what is wrong" if response.status == 400 else f"wrong: {response.status} for malformed"


async def exceeds(session: aiohttp.ClientSession, url: str, rng: random.Random) -> str:
    """More than is allowed."""
    body, status = rng.choice(EXCEEDS)
    async with session.post(f"{url}/v1/completions", json=body) as response:
        return "told the limit" if response.status == status else f"wrong: {response.status} for {status}"


ACTIONS = {"answered": answered, "disconnects": disconnects, "malformed": malformed, "exceeds": exceeds}

if __name__ == "__main__":
    main()
