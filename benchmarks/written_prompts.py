"""Prompts that the default model writes itself, for training a predictor that may be shipped.

python benchmarks/written_prompts.py --count 6000 > written.jsonl

An instruction-tuned model that is given the start of a conversation up to where its user would speak goes on as the
user: it writes requests of the kinds it was tuned on (Magpie, Xu et al., 2024, arXiv 2406.08464). Half of them begin
with an opening of this project's own (``OPENINGS``), because left to itself the model mostly asks for advice. A row's
temperature is that of the answer to come, one of `corpus.TEMPERATURES` in turn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from corpus import TEMPERATURES

from presize import LLM, SamplingParams

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"  # the template's own
START = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
OPENINGS = """Write|Write a|Write a short|Write a poem|Write a story|Write an email|Write a function|Write code
|Rewrite|Rewrite the following sentence|Rewrite this sentence|Rephrase|Paraphrase|Edit|Correct the|Fix|Improve|Explain
|Explain why|Explain how|Describe|Describe the|Define|Summarize|Summarize the following|Name|Name a|Name three
|Name the|List|List five|Give|Give me|Give an example|Give three|Generate|Generate a|Generate a list|Create|Create a
|Make|Make a list|Compose|Design|Develop|Find|Find the|Identify|Identify the|Classify|Classify the following
|Categorize|Sort|Rank|Compare|Compare and|Contrast|Convert|Translate|Translate the following|Calculate|Compute|Solve
|Estimate|Determine|Evaluate|Analyze|Suggest|Suggest a|Recommend|Propose|Brainstorm|Predict|Imagine|Choose|Select|Pick
|Decide|Tell me|Tell me about|Answer|Answer the|Complete the|Fill in|Extract|Replace|Remove|Add|Reorder|Construct
|Formulate|Outline|Provide|Provide a|Discuss|Argue|Justify|What|What is|What are|What does|What would|Who|Who was|When
|When did|Where|Why|Why do|How|How many|How much|How do|How can|Which|Which of the following|Is|Is it|Are|Do|Does|Can
|Should|Would|In one word|In one sentence|Using|Given|Given the|Based on|Read the|For the following|Consider|Here is
|Please|Hi|Hello|I need|I want|My|The""".replace("\n", "")
LONGEST = 300  # tokens of a prompt; one that has not ended by then is not kept
SHORTEST = 12  # characters
BATCH = 512


def starts() -> Iterator[str]:
    """What the user's turn begins with: nothing, and the next opening, in turn."""
    while True:
        for opening in OPENINGS.split("|"):
            yield ""
            yield opening


def written(count: int, seed: int) -> Iterator[str]:
    """``count`` different prompts."""
    llm = LLM(kv_tokens=65536)
    seen: set[str] = set()
    opening = starts()
    while len(seen) < count:
        begins = [next(opening) for _ in range(min(BATCH, 2 * (count - len(seen)) + 16))]
        params = [SamplingParams(temperature=0.9, max_tokens=LONGEST, seed=seed + n) for n in range(len(begins))]
        seed += len(begins)
        for begin, output in zip(
            begins, llm.generate([START + begin for begin in begins], params, use_tqdm=False), strict=True
        ):
            (answer,) = output.outputs
            prompt = (begin + answer.text).strip()
            whole = answer.finish_reason == "stop" and len(prompt) >= SHORTEST and "\ufffd" not in prompt
            if whole and prompt not in seen and len(seen) < count:
                seen.add(prompt)
                yield prompt


def rows(count: int, seed: int) -> Iterator[dict[str, Any]]:
    for number, prompt in enumerate(written(count, seed)):
        temperature = TEMPERATURES[number % len(TEMPERATURES)]
        messages = [{"role": "user", "content": prompt}]
        yield {"id": f"written-{number}-{temperature:g}", "messages": messages, "temperature": temperature}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=6000, help="prompts (default 6000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first prompt (default 0)")
    arguments = parser.parse_args()
    for row in rows(arguments.count, arguments.seed):
        print(json.dumps(row, ensure_ascii=False), flush=True)
