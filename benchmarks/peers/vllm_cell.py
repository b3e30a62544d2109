"""Worker of benchmarks/vllm_scheduler.py: some requests in a fresh vLLM engine, seen from outside, token by token.

usage: vllm_cell.py MODEL_DIR WORK.json
WORK: {"prompts": [[ids]], "arrivals": [seconds, ascending], "kv_tokens", "max_tokens", "dtype", "engine": arguments of
LLM, "hints": null or [tokens]}
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from itertools import pairwise
from pathlib import Path
from typing import Any

GOOD_TTFT_S, GOOD_TPOT_S = 5.0, 0.1875  # reading speed, as in servers.py


def main(model: str, work_path: str) -> None:
    from vllm import LLM, SamplingParams

    work = json.loads(Path(work_path).read_text())
    llm = LLM(
        model=model, dtype=work["dtype"], enforce_eager=True, block_size=32, enable_prefix_caching=False,
        num_gpu_blocks_override=work["kv_tokens"] // 32 + 1,  # one block is vLLM's own null block
        max_model_len=2048, disable_log_stats=False, max_num_seqs=256, **work["engine"],
    )  # fmt: skip
    prompts, hints = work["prompts"], work["hints"] or [None] * len(work["prompts"])
    llm.generate([{"prompt_token_ids": ids} for ids in prompts[:2]], SamplingParams(max_tokens=4), use_tqdm=False)
    before = counted(llm)
    engine = llm.llm_engine
    times: dict[str, list[float]] = {}
    answers: dict[str, list[int]] = {}
    arrivals: list[float] = work["arrivals"]
    coming = deque(range(len(prompts)))
    started = time.perf_counter()
    while coming or engine.has_unfinished_requests():
        now = time.perf_counter() - started
        if not engine.has_unfinished_requests() and arrivals[coming[0]] > now:
            time.sleep(arrivals[coming[0]] - now)
            continue
        while coming and arrivals[coming[0]] <= now:
            index = coming.popleft()
            extra = None if hints[index] is None else {"presize_output_tokens": hints[index]}
            params = SamplingParams(temperature=0, max_tokens=work["max_tokens"], detokenize=False, extra_args=extra)
            engine.add_request(str(index), {"prompt_token_ids": prompts[index]}, params)
            times[str(index)] = []
        outputs = engine.step()
        now = time.perf_counter() - started
        for output in outputs:
            tokens = output.outputs[0].token_ids
            new = len(tokens) - len(times[output.request_id])
            times[output.request_id] += [now] * new
            if output.finished:
                answers[output.request_id] = list(tokens)
    ordered = [answers[str(index)] for index in range(len(prompts))]
    found = figures([times[str(index)] for index in range(len(prompts))], arrivals)
    # marked, as vLLM's own lines go to stdout too
    print("RESULT " + json.dumps({**found, "preemptions": counted(llm) - before, "answers": ordered}))


def counted(llm: Any) -> int:
    return int(sum(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions"))


def figures(times: list[list[float]], arrivals: list[float]) -> dict[str, float]:
    """Of each request, when its tokens came and when it did; good is one within both bounds."""
    tokens = sum(map(len, times))
    gaps = sorted(b - a for each in times for a, b in pairwise(each))
    firsts = [each[0] - came for each, came in zip(times, arrivals, strict=True)]
    latencies = [each[-1] - came for each, came in zip(times, arrivals, strict=True)]
    paces = [(each[-1] - each[0]) / max(len(each) - 1, 1) for each in times]
    seconds = max(each[-1] for each in times) - arrivals[0]
    good = sum(f <= GOOD_TTFT_S and p <= GOOD_TPOT_S for f, p in zip(firsts, paces, strict=True))
    return {
        "seconds": seconds,
        "output_tokens": tokens,
        "tokens_per_second": tokens / seconds,
        **spread("latency", latencies),
        **spread("ttft", firsts),
        **spread("tpot", paces),
        "goodput": good / seconds,
        "itl_p50_s": at(gaps, 0.5),
        "itl_p99_s": at(gaps, 0.99),
        "longest_stall_s": gaps[-1],
    }


def spread(name: str, values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    quantiles = {f"{name}_p{round(100 * q)}_s": at(ordered, q) for q in (0.5, 0.9, 0.99)}
    return {f"{name}_mean_s": sum(values) / len(values), **quantiles}


def at(ordered: list[float], q: float) -> float:
    return ordered[int(q * (len(ordered) - 1))]


if __name__ == "__main__":
    main(*sys.argv[1:])
