"""Worker of benchmarks/vllm_scheduler.py: one closed batch in a fresh vLLM engine, seen from outside, token by token.

usage: vllm_cell.py MODEL_DIR WORK.json
WORK: {"prompts": [[ids]], "kv_tokens", "max_tokens", "dtype", "engine": arguments of LLM, "hints": null or [tokens]}
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any


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
    started = time.perf_counter()
    for index, (ids, hint) in enumerate(zip(prompts, hints, strict=True)):
        extra = None if hint is None else {"presize_output_tokens": hint}
        params = SamplingParams(temperature=0, max_tokens=work["max_tokens"], detokenize=False, extra_args=extra)
        engine.add_request(str(index), {"prompt_token_ids": ids}, params)
        times[str(index)] = []
    while engine.has_unfinished_requests():
        outputs = engine.step()
        now = time.perf_counter() - started
        for output in outputs:
            tokens = output.outputs[0].token_ids
            new = len(tokens) - len(times[output.request_id])
            times[output.request_id] += [now] * new
            if output.finished:
                answers[output.request_id] = list(tokens)
    ordered = [answers[str(index)] for index in range(len(prompts))]
    # marked, as vLLM's own lines go to stdout too
    print(
        "RESULT "
        + json.dumps({**figures(list(times.values())), "preemptions": counted(llm) - before, "answers": ordered})
    )


def counted(llm: Any) -> int:
    return int(sum(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions"))


def figures(times: list[list[float]]) -> dict[str, float]:
    """All requests came at 0."""
    tokens = sum(map(len, times))
    gaps = sorted(b - a for each in times for a, b in pairwise(each))
    latencies, firsts = sorted(each[-1] for each in times), sorted(each[0] for each in times)
    seconds = latencies[-1]
    return {
        "seconds": seconds,
        "output_tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "latency_mean_s": sum(latencies) / len(latencies),
        "latency_p50_s": at(latencies, 0.5),
        "latency_p99_s": at(latencies, 0.99),
        "ttft_mean_s": sum(firsts) / len(firsts),
        "itl_p50_s": at(gaps, 0.5),
        "itl_p99_s": at(gaps, 0.99),
        "longest_stall_s": gaps[-1],
    }


def at(ordered: list[float], q: float) -> float:
    return ordered[int(q * (len(ordered) - 1))]


if __name__ == "__main__":
    main(*sys.argv[1:])
