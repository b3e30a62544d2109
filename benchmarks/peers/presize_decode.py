"""Worker of benchmarks/decode.py: Presize. usage: presize_decode.py DTYPE SEQUENCES PROMPT_TOKENS NEW_TOKENS"""

from __future__ import annotations

import json
import statistics
import sys
import time

from presize import LLM, SamplingParams


def main(dtype: str, sequences: int, prompt_tokens: int, new_tokens: int) -> None:
    prompts = [[(i * 7 + j * 13) % 40_000 + 100 for j in range(prompt_tokens)] for i in range(sequences)]
    llm = LLM(dtype=dtype, kv_tokens=sequences * -(-(prompt_tokens + new_tokens) // 32) * 32, policy="worst-case")
    llm.generate(prompts, SamplingParams(temperature=0, max_tokens=4, ignore_eos=True), use_tqdm=False)
    llm.engine.restart()
    started = time.perf_counter()
    outputs = llm.generate(
        prompts, SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True), use_tqdm=False
    )
    seconds = time.perf_counter() - started
    costs = llm.engine.scheduler.costs.costs
    runner = llm.engine.runner
    print(
        json.dumps(
            {
                "tokens_per_second": sum(len(o.outputs[0].token_ids) for o in outputs) / seconds,
                "decode_step_ms": 1e3 * statistics.median(g for o in outputs for g in o.metrics.token_gaps_s),
                "prefill_tokens_per_second": 1 / costs.prefill_s,
                "parameters": runner.config.num_parameters,
                "kv_bytes_per_token": 2
                * runner.config.num_layers
                * runner.config.num_kv_heads
                * runner.config.head_size
                * runner.dtype.itemsize,
                "weight_bytes_per_parameter": runner.decoder.embedding.dtype.itemsize,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
