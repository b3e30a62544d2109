"""A .gguf file to a directory in Hugging Face form, by transformers' own GGUF reader."""

from __future__ import annotations

import errno
import importlib
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from presize.errors import ModelError

# report(stage, done, total): what is being done and how far it is, in bytes; total 0 means that nobody knows.
Progress = Callable[[str, int, int], None]

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

# GGUF files whose `tokenizer.ggml.pre` is one of these split every digit off before GPT-2's pattern applies
# (llama-vocab.cpp of llama.cpp). transformers gives them GPT-2's pattern alone, with which "\n\n1." and two
# spaces before a digit become other tokens than the model was trained on.
_DIGITS_FIRST = {"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"}


def check_space(directory: Path, needed: int) -> None:
    """ModelError unless the disk of ``directory`` has ``needed`` bytes free."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise ModelError(
            f"the model needs {needed / 1e9:.1f} GB of disk and {directory} has {free / 1e9:.1f} GB free: "
            "free some, or set PRESIZE_CACHE to a directory on another disk"
        )


def convert_gguf(gguf: Path, target: Path, report: Progress) -> None:
    """Write ``gguf``'s model and tokenizer into the new directory ``target``.

    The weights are dequantised to float32, which holds every value of the file exactly. ModelError, with the
    file's name, if it is not GGUF, is damaged or has an architecture that transformers does not read; an OSError
    of a full disk passes through.
    """
    report("converting", 0, 0)
    needed, pre = _read_header(gguf)
    check_space(target.parent, needed)
    try:
        with _quiet_transformers():
            _convert(gguf, target, digits_first=pre in _DIGITS_FIRST)
    except Exception as error:  # transformers raises nearly anything on a file it does not know
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        if "os error 28" in str(error):  # safetensors' own error class, of a full disk
            raise OSError(errno.ENOSPC, "No space left on device", str(target)) from error
        raise ModelError(f"{gguf} can not be converted: {first_line(error)}") from error
    for pattern in ("config.json", "tokenizer.json", "model*.safetensors"):
        if not any(target.glob(pattern)):
            raise ModelError(f"{gguf} can not be converted: transformers wrote no {pattern}")
    for file in target.iterdir():  # safetensors are written 0600, which hides a shared cache from other users
        shutil.copymode(target / "config.json", file)


def _convert(gguf: Path, target: Path, *, digits_first: bool) -> None:
    import torch
    import transformers
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    for key in ("local_files_only", "trust_remote_code"):  # how it was loaded is not part of the tokenizer
        tokenizer.init_kwargs.pop(key, None)
    if digits_first and isinstance(tokenizer.backend_tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel):
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    # transformers 5.0 has no GgufConfig and always dequantises; later ones have to be asked.
    if hasattr(transformers, "GgufConfig"):
        source["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _read_header(gguf: Path) -> tuple[int, str]:
    """Bytes of the weights as float32, and the name of the pre-tokenizer ("" if the file has none)."""
    try:
        from gguf import GGUFReader

        reader = GGUFReader(gguf)
        pre = reader.get_field("tokenizer.ggml.pre")
        return 4 * sum(int(t.n_elements) for t in reader.tensors), str(pre.contents()) if pre else ""
    except Exception as error:  # numpy's and gguf's many ways to say that the bytes make no sense
        raise ModelError(f"{gguf} is not a GGUF file or is damaged: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Class and first line of another library's error, to quote in one of ours."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bars, log lines or warnings from transformers inside; as before after."""
    logging: Any = importlib.import_module("transformers.utils.logging")  # half of it has no types
    # Some versions dequantise under a bar of tqdm's own, which transformers' switch does not reach.
    reader: Any = SimpleNamespace()
    with suppress(ImportError):
        reader = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    verbosity, bars, bar = logging.get_verbosity(), logging.is_progress_bar_enabled(), getattr(reader, "tqdm", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()
        reader.tqdm = lambda tensors, **_: tensors
        try:
            yield
        finally:
            reader.tqdm = bar
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
