"""The default model in a real vLLM engine: the same texts, and the forecast in the engine's own process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

pytest.importorskip("vllm", reason="needs vllm; scripts/test_vllm makes an environment with it and runs these tests")

PRESIZE = Path(__file__).resolve().parents[2] / "src/presize"
MODEL = os.environ.get("PRESIZE_VLLM_MODEL", "")
pytestmark = pytest.mark.skipif(not MODEL, reason="PRESIZE_VLLM_MODEL names no directory of the default model")
# memory for few of the requests
ENGINE = {
    "model": MODEL, "dtype": "float32", "enforce_eager": True, "block_size": 32, "enable_prefix_caching": False,
    "max_num_seqs": 16, "num_gpu_blocks_override": 25, "max_model_len": 512,
}  # fmt: skip
SCRIPT = """
import json, sys
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.sampling_params import StructuredOutputsParams

if __name__ == "__main__":
    engine, adapter = json.loads(sys.argv[1]), sys.argv[2]
    llm = LLM(disable_log_stats=False, enable_lora=bool(adapter), **engine)
    questions = ["Name a river.", "Write a poem on tea.", "What is 2 + 2?", "List ten animals.", "Why is the sky blue?"]
    talks = [[{"role": "user", "content": f"{q} ({n})"}] for n in range(3) for q in questions]
    free = SamplingParams(temperature=0, max_tokens=120)
    bound = SamplingParams(temperature=0, max_tokens=120, structured_outputs=StructuredOutputsParams(regex="[a-z]{90}"))
    lora = LoRARequest("other", 1, adapter) if adapter else None
    outputs = llm.chat(
        talks, [bound if adapter and n % 3 == 0 else free for n in range(len(talks))], use_tqdm=False,
        lora_request=[lora if n % 2 else None for n in range(len(talks))],
    )
    counters = {m.name: m.value for m in llm.get_metrics() if hasattr(m, "value")}
    answers = [[list(o.outputs[0].token_ids), o.outputs[0].text] for o in outputs]
    print("RESULT" + json.dumps([answers, counters]))
"""


RANKS = """
import asyncio, json, sys
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM

async def answers(options):
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(data_parallel_size=2, **options))

    async def one(number):
        talk = f"<|im_start|>user\\nWrite a poem on tea ({number}).<|im_end|>\\n<|im_start|>assistant\\n"
        greedy = SamplingParams(temperature=0, max_tokens=100)
        return [list(o.outputs[0].token_ids) async for o in engine.generate(talk, greedy, request_id=str(number))][-1]

    print("RESULT" + json.dumps(await asyncio.gather(*map(one, range(24)))))
    engine.shutdown()

if __name__ == "__main__":
    asyncio.run(answers(json.loads(sys.argv[1])))
"""


def run(tmp_path: Path, script: str, given: dict[str, Any], *arguments: str) -> tuple[Any, str]:
    """What the script prints behind RESULT, and its log; ``given`` goes to the engine."""
    (tmp_path / "script.py").write_text(script)
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "2",
        "VLLM_NO_USAGE_STATS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), json.dumps({**ENGINE, **given}), *arguments],
        capture_output=True, text=True, env=environment, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    return json.loads(line.removeprefix("RESULT")), done.stdout + done.stderr


def generate(tmp_path: Path, adapter: str = "", **given: Any) -> tuple[list[Any], dict[str, float], str]:
    """(token ids and text) of each answer, vLLM's counters, log."""
    (answers, counters), log = run(tmp_path, SCRIPT, given, adapter)
    return answers, counters, log


def write_adapter(directory: Path) -> str:
    """A LoRA adapter that changes the queries of every layer."""
    config = json.loads((Path(MODEL) / "config.json").read_text())
    rng, width, rank = np.random.default_rng(0), config["hidden_size"], 8
    tensors = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{name}.weight": rng.normal(0, 0.05, shape).astype(
            np.float32
        )
        for layer in range(config["num_hidden_layers"])
        for name, shape in (("A", (rank, width)), ("B", (width, rank)))
    }
    directory.mkdir()
    save_file(tensors, directory / "adapter_model.safetensors")
    described = {"peft_type": "LORA", "r": rank, "lora_alpha": 32, "target_modules": ["q_proj"], "bias": "none"}
    (directory / "adapter_config.json").write_text(json.dumps(described))
    return str(directory)


def agreeing(some: list[Any], others: list[Any]) -> float:
    return sum(a == b for a, b in zip(some, others, strict=True)) / len(some)


def test_the_same_texts_with_fewer_preemptions(tmp_path: Path) -> None:
    """Texts up to where the arithmetic of another batch decides otherwise, as stock vLLM's own do among themselves."""
    stock, stock_counters, _ = generate(tmp_path)
    ours, counters, log = generate(
        tmp_path,
        scheduler_cls="presize.integrations.vllm.PresizeScheduler",
        additional_config={"presize": {"order": "gittins", "predictor": str(*PRESIZE.glob("predict/shipped/*"))}},
    )
    assert "schedules: policy payback, order gittins" in log
    assert "Presize failed" not in log
    assert agreeing(stock, ours) >= 0.8
    assert counters["vllm:num_preemptions"] < stock_counters["vllm:num_preemptions"]


def test_drafts_of_speculative_decoding_count_as_output(tmp_path: Path) -> None:
    ngrams = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}
    plain, _, _ = generate(tmp_path)
    ours, counters, log = generate(
        tmp_path,
        speculative_config=ngrams,
        scheduler_cls="presize.integrations.vllm.PresizeScheduler",
        additional_config={"presize": {"order": "gittins-preemptive", "aging": 1.0}},
    )
    assert "schedules: policy payback, order gittins-preemptive" in log
    assert "Presize failed" not in log
    assert counters["vllm:spec_decode_num_accepted_tokens"] > 0
    assert agreeing(plain, ours) >= 0.8


def test_adapters_and_grammars_are_served_as_by_vllm(tmp_path: Path) -> None:
    """Every second request by a LoRA adapter, every third by a grammar, by an order that may interrupt."""
    adapter = write_adapter(tmp_path / "adapter")
    stock, _, _ = generate(tmp_path, adapter)
    ours, _, log = generate(
        tmp_path,
        adapter,
        scheduler_cls="presize.integrations.vllm.PresizeScheduler",
        additional_config={"presize": {"order": "gittins-preemptive", "aging": 1.0}},
    )
    assert "schedules: policy payback, order gittins-preemptive" in log
    assert "Presize failed" not in log
    assert agreeing(stock, ours) >= 0.8
    plain, _, _ = generate(tmp_path)
    for number, (tokens, text) in enumerate(ours):
        if number % 3 == 0:
            assert re.fullmatch("[a-z]{90}", text)
        elif number % 2:
            assert tokens != plain[number][0], "the adapter changes nothing"


def test_each_data_parallel_rank_schedules_for_itself(tmp_path: Path) -> None:
    stock, _ = run(tmp_path, RANKS, {})
    given = {"scheduler_cls": "presize.integrations.vllm.PresizeScheduler", "additional_config": {"presize": {}}}
    ours, log = run(tmp_path, RANKS, given)
    for rank in range(2):
        assert re.search(rf"EngineCore_DP{rank}\b.*schedules: policy payback", log)
    assert "Presize failed" not in log
    assert agreeing(stock, ours) >= 0.8
