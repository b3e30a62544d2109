"""`presize` itself: verbs, help, exit codes, no tracebacks, no slow imports, a frozen surface."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import presize
from presize.cli import main as main_module
from presize.cli.main import VERBS, build_parser, main
from presize.errors import CapacityError, ConfigError, ModelError
from presize.version import __version__

ROOT = Path(__file__).resolve().parents[2]
SAMPLING = """
    --chat --no-chat --temperature --max-tokens --min-tokens --top-p --top-k --min-p --presence-penalty
    --frequency-penalty --repetition-penalty --seed --stop --stop-token-ids --ignore-eos --no-ignore-eos --n
    --logprobs
"""
ENGINE = """
    --model --dtype --device --threads --kv-tokens --max-model-len --max-num-seqs --max-num-batched-tokens --policy
    --order --predictor --lengths --learn-online --risk --payback --watermark --reserve-tokens --slo-ttft-ms
    --slo-tpot-ms --aging --config
"""
COMMON = SAMPLING + ENGINE
SERVER = """
    --host --port --served-model-name --api-key --api-key-file --stream-interval --cors-origin --ssl-certfile
    --ssl-keyfile
    --max-queued-requests --max-queued-tokens --max-connections --max-body-bytes --max-header-bytes
    --request-timeout --shutdown-timeout --stuck-after --log-format --log-interval --metrics-compat
"""
# A flag that goes or is renamed breaks somebody's script: change this list only on purpose, and tell of it.
SIMULATION = """
    --policies --orders --device --model --tensor-parallel --pipeline-parallel --weights-on-host --kv-tokens
    --max-num-seqs --max-num-batched-tokens --num-requests --time-scale --request-rate --burstiness --max-tokens
    --truncate --no-truncate --input-len --output-len --length-distribution --length-spread --seed --forecast-error
    --forecast-bias --adversary-share --replicas --router --policy --order --predictor --lengths --learn-online --risk
    --payback --watermark --reserve-tokens --slo-ttft-ms --slo-tpot-ms --aging --config
"""
SURFACE = {
    "simulate": "--rates --save-plot --save-result" + SIMULATION,
    "plan": "--attainment --vary --most" + SIMULATION,
    "calibrate": """
        --output --overwrite --rounds --model --dtype --device --threads --kv-tokens --max-model-len --max-num-seqs
        --max-num-batched-tokens --config
    """,
    "serve": SERVER + ENGINE,
    "generate": "--output --resume --overwrite" + COMMON,
    "collect": "--output --resume --overwrite --samples" + COMMON,
    "learn": """
        --output --overwrite --model --predictor --teacher --prompts --variants --held-out --licence --seed --config
    """,
    "evaluate": "--model --save-plot --config",
    "explain": "--model --raw --no-raw --max-tokens --temperature --config",
    "bench offline": "--policies --orders --repeats --warmup --save-result" + COMMON,
    "bench serve": """
        --base-url --model --endpoint --api-key --temperature --output-len --ignore-eos --no-ignore-eos
        --dataset-name --dataset-path --num-prompts --shuffle --no-shuffle --seed --input-len --random-range-ratio
        --max-total-len --request-rate --burstiness --max-concurrency --time-scale --timeout --retry --no-retry
        --warmups --slo-ttft-ms --slo-tpot-ms --slo-e2el-ms --save-result --save-detailed --no-save-detailed
        --config
    """,
    "shape": "--params --model --device --context --layer-us --head-size --embedding-rank --save-plot --config",
    "dynamics syn-small": "--eta-z --eta-ratio --optimizer --steps --seed --save-plot --save-gif --config",
    "dynamics syn-medium": "--classes --eta-z --eta-ratio --seeds --save-plot --config",
    "dynamics wikitext": "--text --layers --rate --steps --vocabulary --seed --save-plot --save-gif --config",
    "dynamics watch": "--script-args --log --every --save-plot --config",
}

VERB_NAMES = [
    "pull", "serve", "generate", "collect", "learn", "evaluate", "explain", "simulate", "plan", "calibrate", "bench",
    "optim", "shape", "dynamics",
]  # fmt: skip


def python(code: str, *, stdout: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    source = str(Path(presize.__file__).resolve().parents[1])
    environ = {**os.environ, "PYTHONPATH": source}
    return subprocess.run(
        [sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, text=True, env=environ, check=False
    )


@pytest.mark.parametrize("verb", list(SURFACE))
def test_the_flags_are_frozen(verb: str) -> None:
    parser: Any = build_parser(next(v for v in VERBS if v.name == verb.split(maxsplit=1)[0]))
    for word in verb.split():
        parser = parser._subparsers._group_actions[0].choices[word]
    found = [name for name in parser._option_string_actions if name.startswith("--") and name != "--help"]
    assert sorted(found) == sorted(SURFACE[verb].split())


def test_the_verbs_are_frozen() -> None:
    assert [verb.name for verb in VERBS] == VERB_NAMES


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_import_nothing_slow(flag: str) -> None:
    code = (
        "import sys; from presize.cli.main import main; status = main([sys.argv[1]]) if len(sys.argv) > 1 else "
        f"main([{flag!r}]); slow = {{'torch', 'numpy', 'transformers', 'rich', 'yaml', 'orjson', 'numba'}}; "
        "print('slow:', sorted(slow & set(sys.modules))); sys.exit(status)"
    )
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("slow: []\n")
    assert ("usage: presize" if flag == "--help" else f"presize {__version__}\n") in done.stdout


def test_help_of_a_verb_does_not_import_torch() -> None:
    done = python("import sys; from presize.cli.main import main; main(['generate', '--help']); "
                  "print('torch' in sys.modules)")  # fmt: skip
    assert done.stdout.endswith("False\n")


def test_help_teaches(capsys: Any) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb.name} " in text and verb.line in text for verb in VERBS)
    assert "Examples:" in text
    assert all(len(line) <= 120 for line in text.splitlines())


@pytest.mark.parametrize("verb", [*VERB_NAMES, *(name for name in SURFACE if " " in name)])
def test_help_of_every_verb(verb: str, capsys: Any) -> None:
    assert main([*verb.split(), "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: presize {verb.partition(' ')[0]}")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", f"a verb is missing; known: {', '.join(VERB_NAMES)}"),
        ("generat", f"unknown verb 'generat'; known: {', '.join(VERB_NAMES)}; did you mean generate?"),
        ("--verson", "did you mean --version?"),
        ("bench ofline", "choose from"),
        ("bench", "required: KIND"),
        ("generate", "required: IN.jsonl, --output"),
        ("generate x", "required: --output"),
        ("generate x --outptu y", "did you mean --output?"),
        ("generate x --output y --kv-token 5", "known: --help, --output, --resume"),
        ("generate x --output y z", "unknown argument 'z'"),
        ("generate x --output y -q", "unknown flag '-q'"),
        ("generate x --output y --seed", "expected one argument"),
        ("pull --polcy x", "unknown flag '--polcy'"),
    ],
)
def test_usage_errors(line: str, words: str, capsys: Any) -> None:
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.startswith("presize: error: ")
    assert captured.err.count("\n") == 1
    assert "--help" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ConfigError("kv_tokens is 1"), 2, "kv_tokens is 1"),
        (ModelError("model.gguf is\n  damaged"), 1, "model.gguf is damaged"),
        (CapacityError("too long"), 1, "too long"),
        (MemoryError(), 1, "out of memory"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (PermissionError(13, "Permission denied", "x.bin"), 1, "x.bin: Permission denied"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 1, "pip install 'presize[engine]'"),
    ],
)
def test_errors_are_one_sentence(
    error: Exception, status: int, words: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dispatch(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr(main_module, "_dispatch", dispatch)
    assert main(["generate"]) == status
    text = capsys.readouterr().err
    assert text.startswith("presize: error: ")
    assert words in text
    assert text.count("\n") == 1
    monkeypatch.setenv("PRESIZE_DEBUG", "1")
    assert main(["generate"]) == status
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def dispatch(argv: list[str]) -> int:
        raise AssertionError("free + held != capacity")

    monkeypatch.setattr(main_module, "_dispatch", dispatch)
    with pytest.raises(AssertionError):
        main(["generate"])


def test_a_reader_that_has_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = python("import sys; from presize.cli.main import main; sys.exit(main(['--help']))", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_standard_output_is_one_sentence() -> None:
    with open("/dev/full", "w") as full:
        done = python("import sys; from presize.cli.main import main; sys.exit(main(['--help']))", stdout=full)
    assert (done.returncode, done.stderr) == (1, "presize: error: No space left on device\n")


def test_docs_are_what_the_parsers_say() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "cli_reference.py"))
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert text == script["reference"](), "run: python scripts/cli_reference.py"
