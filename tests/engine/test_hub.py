"""From names to directories: what is accepted, what is refused and how it is said, and what is remembered."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import sys
from pathlib import Path

import pytest

from presize.config import DEFAULT_MODEL
from presize.engine import hub
from presize.errors import ModelError

GGUF = b"GGUF, not really"


@pytest.fixture(autouse=True)
def conversions(tmp_path, monkeypatch) -> list[Path]:
    """A cache of the test's own, and a conversion that only counts."""
    done: list[Path] = []

    def convert(gguf, target, report):
        done.append(gguf)
        model_directory(target, "config.json", "model.safetensors")

    monkeypatch.setattr(hub, "convert_gguf", convert)
    monkeypatch.setenv("PRESIZE_CACHE", str(tmp_path / "cache"))
    return done


def model_directory(path: Path, *names: str) -> Path:
    path.mkdir(parents=True)
    for name in names:
        (path / name).write_text("{}")
    return path


def test_a_cache_that_can_not_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "mine.gguf").write_bytes(GGUF)
    monkeypatch.setenv("PRESIZE_CACHE", str(tmp_path / "mine.gguf" / "cache"))
    with pytest.raises(ModelError, match=r"cache .*mine.gguf/cache can not be used .*set PRESIZE_CACHE"):
        hub.resolve(str(tmp_path / "mine.gguf"))


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.setenv("PRESIZE_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert hub.cache_dir() == Path("/home/x/.cache/presize")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert hub.cache_dir() == Path("/xdg/presize")
    monkeypatch.setenv("PRESIZE_CACHE", "~/mine")
    assert hub.cache_dir() == Path("/home/x/mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRESIZE_CACHE", "relative")
    assert hub.cache_dir() == tmp_path / "relative"


def test_a_directory_is_taken_as_it_is(tmp_path):
    path = model_directory(tmp_path / "m", "config.json", "model-00001-of-00002.safetensors", "pytorch_model.bin")
    assert hub.resolve(str(path)) == path


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("config.json", "pytorch_model.bin"), r"only in pytorch_model\.bin, a pickle"),
        (("config.json",), "no weights"),
        (("model.safetensors",), r"no config\.json"),
        (("model.gguf",), "give the .gguf file itself"),
    ],
)
def test_a_directory_that_can_not_be_loaded_says_why(tmp_path, names, message):
    with pytest.raises(ModelError, match=message):
        hub.resolve(str(model_directory(tmp_path / "m", *names)))


def test_a_gguf_file_is_hashed_once_and_converted_once(tmp_path, conversions, monkeypatch):
    file = tmp_path / "mine.gguf"
    file.write_bytes(GGUF)
    found = hub.resolve(str(file))
    assert found == tmp_path / "cache" / "models-v1" / f"gguf-{hashlib.sha256(GGUF).hexdigest()}"
    assert conversions == [file]
    monkeypatch.setattr(hub, "sha256", None)
    assert hub.resolve(str(file)) == found
    assert conversions == [file]
    assert not list(found.parent.glob("*.partial"))


def test_a_moved_or_changed_gguf_file_is_hashed_again(tmp_path, conversions):
    file, moved = tmp_path / "mine.gguf", tmp_path / "moved.gguf"
    file.write_bytes(GGUF)
    found = hub.resolve(str(file))
    file.rename(moved)
    assert hub.resolve(str(moved)) == found
    assert conversions == [file]
    moved.write_bytes(GGUF[::-1])
    os.utime(moved, ns=(1, 1))
    assert hub.resolve(str(moved)) != found
    assert conversions == [file, moved]


@pytest.mark.parametrize("name", ["nonsense", "", "a/b/c", "./missing/model", "missing/model.gguf", "~x/y", "a/b\n"])
def test_an_unknown_name_lists_what_is_accepted(name):
    with pytest.raises(
        ModelError, match=rf"give a packaged name \({DEFAULT_MODEL}.*, a directory .*\.gguf.*owner/name"
    ):
        hub.resolve(name)


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "model.bin").touch()
    with pytest.raises(ModelError, match="no model that Presize can find"):
        hub.resolve(str(tmp_path / "model.bin"))


def test_a_hub_model_is_asked_for_once_and_without_pickles_or_code(tmp_path, monkeypatch):
    import huggingface_hub

    path, asked, reports = model_directory(tmp_path / "m", "config.json", "model.safetensors"), [], []
    wanted = ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"]

    def download(name, *, allow_patterns, ignore_patterns, tqdm_class):
        asked.append(name)
        filtered = huggingface_hub.utils.filter_repo_objects(
            [*wanted, "pytorch_model.bin", "model.pt", "code.py", "onnx/config.json", "consolidated.safetensors"],
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
        )
        assert list(filtered) == wanted
        with tqdm_class(total=0, unit="B", unit_scale=True, desc="bytes", mininterval=0) as bar:
            bar.total = 70
            bar.update(7)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    for _ in range(2):
        assert hub.resolve("owner/name", report=lambda *progress: reports.append(progress)) == path
    assert stderr.getvalue() == ""
    assert ("downloading", 7, 70) in reports
    assert asked == ["owner/name"]
    hub.resolve("owner/name", refresh=True)
    (path / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        hub.resolve("owner/name")
    assert len(asked) == 3


def hub_error(name: str) -> Exception:
    """One of the hub's errors, whose constructors want an HTTP response."""
    import huggingface_hub.errors as errors

    cls = getattr(errors, name)
    error = cls.__new__(cls)
    error.args = ("404 Client Error\nRequest ID: 1",)
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (lambda: hub_error("RepositoryNotFoundError"), f"no model owner/name.*{DEFAULT_MODEL}"),
        (lambda: hub_error("GatedRepoError"), "accept the conditions of owner/name.*hf auth login"),
        (lambda: hub_error("LocalEntryNotFoundError"), "check the network"),
        (lambda: ConnectionError("no route\nto host"), r"\(ConnectionError: no route\): check the network"),
        (lambda: OSError(errno.ENOSPC, "No space left on device"), "disk is full.*HF_HOME"),
        (RuntimeError, r"\(RuntimeError\)"),
    ],
)
def test_every_failure_of_the_hub_is_one_sentence(monkeypatch, error, message):
    import huggingface_hub

    def download(*_, **__):
        raise error()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelError, match=message) as caught:
        hub.resolve("owner/name")
    assert "\n" not in str(caught.value)
