"""The option ``threads`` holds for everything that the engine runs."""

from __future__ import annotations

import subprocess
import sys

import pytest
import tiny

MEASURE = """
import os
import sys
from presize.engine.llm import LLM
from presize.engine.sampling_params import SamplingParams


def own(task=os.getpid()):
    return int(open(f"/proc/self/task/{task}/stat").read().rsplit(")")[1].split()[11])


def ticks():
    return sum(map(own, os.listdir("/proc/self/task")))


llm = LLM(sys.argv[1], device="cpu", dtype="float32", threads=1, kv_tokens=4096)
prompts, params = [[5 + i] * 20 for i in range(8)], SamplingParams(max_tokens=40, ignore_eos=True)
llm.generate(prompts, params, use_tqdm=False)
all_before, own_before = ticks(), own()
llm.generate(prompts, params, use_tqdm=False)
print(ticks() - all_before, own() - own_before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_thread_is_one_thread(tmp_path):
    model = tiny.make_model("llama", hidden_size=512, intermediate_size=2048)
    directory = tiny.save(model, tmp_path)
    command = [sys.executable, "-c", MEASURE, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    total, main = map(int, done.stdout.split())
    assert main > 5, "too little work to tell"
    assert total - main <= 0.1 * total
