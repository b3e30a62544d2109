"""Worker of benchmarks/decode.py: OpenVINO GenAI on the GGUF itself, continuous batching.

usage: openvino_decode.py MODEL.gguf quantised|bfloat16 SEQUENCES PROMPT_TOKENS NEW_TOKENS
"""

from __future__ import annotations

import json
import sys
import time


def main(model: str, arithmetic: str, sequences: int, prompt_tokens: int, new_tokens: int) -> None:
    import openvino_genai as genai

    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = 2
    scheduler.max_num_seqs = 256
    scheduler.max_num_batched_tokens = 512
    scheduler.enable_prefix_caching = False
    # a group size of 0 turns the quantisation of activations off
    plain = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0, "INFERENCE_PRECISION_HINT": "bf16", "KV_CACHE_PRECISION": "bf16"}
    properties = plain if arithmetic == "bfloat16" else {}
    pipeline = genai.LLMPipeline(model, "CPU", scheduler_config=scheduler, **properties)
    config = genai.GenerationConfig()
    config.do_sample = False
    config.ignore_eos = True
    config.apply_chat_template = False
    ids = [[(i * 7 + j * 13) % 40_000 + 100 for j in range(prompt_tokens)] for i in range(sequences)]
    prompts = pipeline.get_tokenizer().decode(ids)
    config.max_new_tokens = config.min_new_tokens = 4
    pipeline.generate(prompts, config)
    config.max_new_tokens = config.min_new_tokens = new_tokens
    started = time.perf_counter()
    pipeline.generate(prompts, config)
    seconds = time.perf_counter() - started
    print(json.dumps({"tokens_per_second": sequences * new_tokens / seconds}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
