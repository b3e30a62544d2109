"""The default model, against transformers: tokens under every policy, and memory."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from devices import DEVICES

from presize.config import DEFAULT_MODEL
from presize.core.admission import POLICIES
from presize.engine.hub import resolve
from presize.engine.llm import LLM
from presize.engine.sampling_params import SamplingParams

pytestmark = pytest.mark.model

MOST = 10
POOLS = {"small": 224, "ample": 4096}
TEXT = (
    "The harbour was quiet in the early morning. Two fishermen sat on an upturned boat and mended a net, and an old "
    "dog slept beside them in the sun. In 1912 the town had eleven bakeries; today there are three. def add(a, b): "
    "return a + b. Water boils at 100 degrees, and ice melts at 0. Question: what is the capital of France? Answer: "
    "Paris. Once upon a time there was a king who had three daughters, and the youngest of them could speak with birds."
)
STARTS = (0, 0, 0, 9, 9, 22, 22, 30, 30, 41, 41, 55, 60, 60, 66, 70, 80, 80, 90, 3)
LENGTHS = (1, 2, 8, 16, 31, 32, 33, 4, 40, 12, 3, 9, 7, 24, 20, 5, 6, 10, 2, 50)


@pytest.fixture(scope="module")
def llm() -> Any:
    """``llm(pool, device)``: the model with each pool, loaded once."""
    made: dict[tuple[str, str], LLM] = {}

    def get(pool: str, device: str = "cpu") -> LLM:
        if (pool, device) not in made:
            made[pool, device] = LLM(DEFAULT_MODEL, dtype="float32", device=device, kv_tokens=POOLS[pool])
        return made[pool, device]

    return get


@pytest.fixture(scope="module")
def prompts(llm) -> list[list[int]]:
    ids = llm("ample").engine.tokenizer.encode(TEXT)
    chosen = [ids[start : start + length] for start, length in zip(STARTS, LENGTHS, strict=True)]
    assert [len(p) for p in chosen] == list(LENGTHS)
    return chosen


@pytest.fixture(scope="module")
def expected(prompts) -> list[list[int]]:
    """What transformers' generate answers in float32."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(resolve(DEFAULT_MODEL), dtype=torch.float32, local_files_only=True)
    pad, longest = model.config.eos_token_id, max(LENGTHS)
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts])
    seen = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    found = model.generate(ids, attention_mask=seen, max_new_tokens=MOST, do_sample=False, pad_token_id=pad)
    ends = [row.index(pad) + 1 if pad in row else MOST for row in found[:, longest:].tolist()]
    return [row[:end] for row, end in zip(found[:, longest:].tolist(), ends, strict=True)]


RUNS = [*((policy, "small") for policy in POLICIES), ("payback", "ample")]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("policy", "pool"), RUNS)
def test_greedy_answers_are_those_of_transformers_under_every_policy(llm, prompts, expected, policy, pool, device):
    model = llm(pool, device)
    model.engine.restart(policy=policy)
    found = model.generate(prompts, SamplingParams(temperature=0, max_tokens=MOST), use_tqdm=False)
    assert [output.outputs[0].token_ids for output in found] == expected
    if pool == "small" and policy == "on-demand":
        assert model.engine.stats.preemptions > 0


MEASURE = """
import sys
from pathlib import Path
from presize.engine.llm import LLM
from presize.engine.sampling_params import SamplingParams

llm = LLM(dtype="float32", device="cpu", kv_tokens=1024)
prompts = [[3 + 7 * i % 40000 + k for k in range(120)] for i in range(8)]
llm.generate(prompts, SamplingParams(max_tokens=8, ignore_eos=True), use_tqdm=False)
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_the_weights_and_the_pool_and_little_more():
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, timeout=300)
    resident = int(done.stdout) * 1024
    weights = (resolve(DEFAULT_MODEL) / "model.safetensors").stat().st_size
    pool = 1024 * 2 * 30 * 3 * 64 * 4  # tokens, keys and values, layers, heads, size, bytes
    assert resident < weights + pool + 600 * 2**20
