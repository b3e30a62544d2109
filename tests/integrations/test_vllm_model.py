"""The default model in a real vLLM engine: the same texts, and the forecast in the engine's own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vllm; scripts/test_vllm makes an environment with it and runs these tests")

PRESIZE = Path(__file__).resolve().parents[2] / "src/presize"
MODEL = os.environ.get("PRESIZE_VLLM_MODEL", "")
SCRIPT = """
import json, sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    model, given = sys.argv[1], json.loads(sys.argv[2])
    llm = LLM(
        model=model, dtype="float32", enforce_eager=True, block_size=32, enable_prefix_caching=False, max_num_seqs=16,
        num_gpu_blocks_override=25, max_model_len=512, disable_log_stats=False, **given,
    )
    questions = ["Name a river.", "Write a poem on tea.", "What is 2 + 2?", "List ten animals.", "Why is the sky blue?"]
    outputs = llm.chat(
        [[{"role": "user", "content": f"{q} ({n})"}] for n in range(3) for q in questions],
        SamplingParams(temperature=0, max_tokens=120), use_tqdm=False,
    )
    preemptions = sum(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions")
    print("RESULT" + json.dumps([[list(o.outputs[0].token_ids) for o in outputs], preemptions]))
"""


def generate(tmp_path: Path, **given: Any) -> tuple[list[Any], int, str]:
    (tmp_path / "generate.py").write_text(SCRIPT)
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "2",
        "VLLM_NO_USAGE_STATS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(tmp_path / "generate.py"), MODEL, json.dumps(given)],
        capture_output=True, text=True, env=environment, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    tokens, preemptions = json.loads(line.removeprefix("RESULT"))
    return tokens, int(preemptions), done.stdout + done.stderr


@pytest.mark.skipif(not MODEL, reason="PRESIZE_VLLM_MODEL names no directory of the default model")
def test_the_same_texts_with_fewer_preemptions(tmp_path: Path) -> None:
    """Texts up to where the arithmetic of another batch decides otherwise, as stock vLLM's own do among themselves."""
    stock, stock_preemptions, _ = generate(tmp_path)
    ours, preemptions, log = generate(
        tmp_path,
        scheduler_cls="presize.integrations.vllm.PresizeScheduler",
        additional_config={"presize": {"order": "gittins", "predictor": str(*PRESIZE.glob("predict/shipped/*"))}},
    )
    assert "schedules: policy payback, order gittins" in log
    assert "Presize failed" not in log
    assert sum(a == b for a, b in zip(stock, ours, strict=True)) >= 0.8 * len(stock)
    assert preemptions < stock_preemptions
