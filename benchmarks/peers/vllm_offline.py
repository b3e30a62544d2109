"""Worker of benchmarks/policies.py: vLLM at its defaults on the same token ids.

usage: vllm_offline.py MODEL_DIR WORK.json    (WORK: {"prompts": [[ids]], "kv_tokens", "max_tokens", "dtype"})
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main(model: str, work_path: str) -> None:
    from vllm import LLM, SamplingParams

    work = json.loads(Path(work_path).read_text())
    llm = LLM(
        model=model, dtype=work["dtype"], enforce_eager=True, block_size=32, enable_prefix_caching=False,
        num_gpu_blocks_override=work["kv_tokens"] // 32 + 1,  # one block is vLLM's own null block
        max_model_len=2048, disable_log_stats=False, max_num_seqs=256,
    )  # fmt: skip
    prompts = [{"prompt_token_ids": ids} for ids in work["prompts"]]
    llm.generate(prompts[:2], SamplingParams(temperature=0, max_tokens=4), use_tqdm=False)
    started = time.perf_counter()
    outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=work["max_tokens"]), use_tqdm=False)
    seconds = time.perf_counter() - started
    tokens = sum(len(o.outputs[0].token_ids) for o in outputs)
    preemptions = sum(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions")
    latencies = sorted(o.metrics.last_token_ts - o.metrics.queued_ts for o in outputs)
    print(
        json.dumps(
            {
                "requests": len(outputs),
                "output_tokens": tokens,
                "seconds": seconds,
                "tokens_per_second": tokens / seconds,
                "preemptions": int(preemptions),
                "latency_mean_s": sum(latencies) / len(latencies),
                "latency_p99_s": latencies[int(0.99 * (len(latencies) - 1))],
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
