"""Worker of benchmarks/decode.py: vLLM. usage: vllm_decode.py MODEL_DIR DTYPE SEQUENCES PROMPT_TOKENS NEW_TOKENS"""

from __future__ import annotations

import json
import sys
import time


def main(model: str, dtype: str, sequences: int, prompt_tokens: int, new_tokens: int) -> None:
    from vllm import LLM, SamplingParams

    prompts = [
        {"prompt_token_ids": [(i * 7 + j * 13) % 40_000 + 100 for j in range(prompt_tokens)]} for i in range(sequences)
    ]
    llm = LLM(
        model=model, dtype=dtype, enforce_eager=True, block_size=32, enable_prefix_caching=False, max_model_len=2048,
        num_gpu_blocks_override=sequences * -(-(prompt_tokens + new_tokens) // 32) + 64,
    )  # fmt: skip
    llm.generate(prompts, SamplingParams(temperature=0, max_tokens=4, ignore_eos=True), use_tqdm=False)
    started = time.perf_counter()
    outputs = llm.generate(
        prompts, SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True), use_tqdm=False
    )
    seconds = time.perf_counter() - started
    print(json.dumps({"tokens_per_second": sum(len(o.outputs[0].token_ids) for o in outputs) / seconds}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
