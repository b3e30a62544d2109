"""The directory of online learning: killed at any moment, damaged, locked, of another base."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from online_parts import PLAIN, finish, header, linear, make_base, opened, queries, serve

from presize.errors import ConfigError, ModelError
from presize.predict.online.home import CURRENT, RESERVOIR, STATE, Counts, Home
from presize.predict.online.reservoir import Answer
from presize.predict.store import save

HERE = str(Path(__file__).parent)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path / "base")


def filled(directory: Path, base: Path, answers: int = 30) -> Home:
    """Open, with answers and a version that was taken over."""
    home = Home(directory, base)
    for query in queries(answers):
        home.reservoir.add(Answer.of(query, PLAIN, 50, False))
    home.counts.answers, home.counts.taken_over = answers, 1
    home.save(answers=True)
    save(directory / "candidate-a", header(), linear(120.0))
    home.take_over(directory / "candidate-a")
    return home


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# --- kill -9 --------------------------------------------------------------------------------------------------------

KILLED = """
import itertools, logging, os, shutil, signal, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
from online_parts import PLAIN, header, linear, queries
from test_online_home import filled
from presize.predict.online.home import Home
from presize.predict.online.reservoir import Answer
from presize.predict.store import save

root, base = Path(sys.argv[2]), Path(sys.argv[3])
EVENTS = {"open", "os.rename", "os.remove", "os.symlink", "os.mkdir", "os.rmdir", "os.link", "tempfile.mkstemp"}


def work(directory, first):
    home = filled(directory, base) if first else Home(directory, base)
    for query in queries(10, 5):
        home.reservoir.add(Answer.of(query, PLAIN, 50, False))
    home.counts.answers += 10
    home.save(answers=True)
    save(directory / "candidate-b", header(), linear(140.0))
    home.take_over(directory / "candidate-b")
    home.counts.taken_over += 1
    home.save(answers=False)
    home.close()


def die_at(n):
    left = n

    def hook(event, args):
        nonlocal left
        if event in EVENTS and any(isinstance(a, (str, Path)) and str(root) in str(a) for a in args):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


class Strict(logging.Handler):
    def emit(self, record):
        raise AssertionError(record.getMessage())


logging.getLogger("presize").addHandler(Strict())
logging.raiseExceptions = True
total = 0
for first in (True, False):
    template = root / f"template-{first}"
    if not first:
        filled(template, base).close()
    for n in itertools.count(1):
        directory = root / f"{first}-{n}"
        if not first:
            shutil.copytree(template, directory, symlinks=True)
        child = os.fork()
        if child == 0:
            die_at(n)
            work(directory, first)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        killed = os.WIFSIGNALED(status)
        assert killed or os.WEXITSTATUS(status) == 0, status
        home = Home(directory, base)  # logs, and so fails, if anything is damaged
        assert len(home.reservoir) in {0, 30, 40}, len(home.reservoir)
        assert home.counts.answers in {0, 30, 40}
        assert (home.current is None) == (home.version == 0)
        if not first:
            assert len(home.reservoir) >= 30 and home.version in {1, 2}
        known = {"lock", "base", "current", "reservoir.safetensors", "state.json", f"v{home.version:06d}"}
        assert {p.name for p in directory.iterdir()} <= known, list(directory.iterdir())
        before = home.version
        save(directory / "candidate-c", header(), linear(160.0))
        home.take_over(directory / "candidate-c")
        home.close()
        again = Home(directory, base)
        assert again.version == before + 1
        assert again.current.model.arrays()["intercept"] == np.float32(np.log(160.0))
        again.close()
        total += 1
        if not killed:
            assert (len(home.reservoir), before) == (40, 2)
            break
print(total)
"""


def test_killed_at_any_step_a_restart_goes_on(tmp_path: Path, base: Path) -> None:
    """A fork of one process is killed at its first, second, ... file operation; each time another goes on."""
    command = [sys.executable, "-c", KILLED, HERE, str(tmp_path / "work"), str(base)]
    (tmp_path / "work").mkdir()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert int(done.stdout) > 30, "else the steps were not seen"


def test_killed_while_it_retrains_a_restart_goes_on(tmp_path: Path, base: Path) -> None:
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from online_parts import *\n"
        "from presize.predict.online import learner\n"
        "wait = 'import os, sys, time\\nwhile os.getppid() == int(sys.argv[3]): time.sleep(0.01)'\n"
        "learner._COMMAND = (sys.executable, '-c', wait)\n"
        "online = Online(Path(sys.argv[2]), Path(sys.argv[3]), SchedulerOptions(), retrain_every=500)\n"
        "serve(online, 600, 150.0)\n"
        "while online.learner.retraining is None: time.sleep(0.01)\n"
        "(Path(sys.argv[2]) / online.learner.retraining.candidate).mkdir()\n"
        "print(online.learner.retraining.process.pid, flush=True)\n"
        "serve(online, 10**9, 150.0)"
    ).replace("10**9", "20000")
    directory = tmp_path / "on"
    with subprocess.Popen(
        [sys.executable, "-c", code, HERE, str(directory), str(base)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    while _alive(child):  # it sees that its parent has gone
        pass
    assert list(directory.glob("candidate-*"))
    online = opened(directory, base)
    assert names(directory) == ["base", "lock", RESERVOIR, STATE]
    assert len(online.learner.home.reservoir) >= 500
    assert online.counts.answers >= 500
    serve(online, 600, 150.0, seed=7)
    online.learner.turn()
    finish(online)
    assert online.counts.taken_over == 1
    online.close()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{process}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{}", b"nonsense", b'{"format": 1, "answers": -3}', b'{"format": 1, "x": 1}',
                                     b"[" * 5000])  # fmt: skip
def test_damaged_counts_are_set_aside(content: bytes, tmp_path: Path, base: Path, caplog: Any) -> None:
    filled(tmp_path / "on", base).close()
    (tmp_path / "on" / STATE).write_bytes(content)
    home = Home(tmp_path / "on", base)
    assert home.counts == Counts()
    assert (len(home.reservoir), home.version) == (30, 1)
    assert (tmp_path / "on" / f"{STATE}.damaged").read_bytes() == content
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    home.close()


def test_damaged_answers_are_set_aside(tmp_path: Path, base: Path, caplog: Any) -> None:
    filled(tmp_path / "on", base).close()
    content = (tmp_path / "on" / RESERVOIR).read_bytes()[:-7]
    (tmp_path / "on" / RESERVOIR).write_bytes(content)
    for _ in range(2):
        home = Home(tmp_path / "on", base)
        assert len(home.reservoir) == 0
        assert (home.counts.answers, home.version) == (30, 1)
        assert (tmp_path / "on" / f"{RESERVOIR}.damaged").read_bytes() == content
        home.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_damaged_version_is_set_aside_and_the_base_forecasts(tmp_path: Path, base: Path, caplog: Any) -> None:
    filled(tmp_path / "on", base).close()
    (tmp_path / "on" / CURRENT / "weights.safetensors").write_bytes(b"x")
    online = opened(tmp_path / "on", base)
    assert online.learner.version.number == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert (tmp_path / "on" / f"{CURRENT}.damaged" / "predictor.json").is_file()
    assert names(tmp_path / "on") == ["base", f"{CURRENT}.damaged", "lock", RESERVOIR, STATE]
    online.close()


def test_counts_come_back_as_they_were(tmp_path: Path, base: Path) -> None:
    home = Home(tmp_path / "on", base)
    home.counts.answers, home.counts.drifts, home.counts.retrained_at, home.counts.dropped = 9, 2, 5, 1
    home.save(answers=False)
    home.close()
    again = Home(tmp_path / "on", base)
    assert again.counts == home.counts
    assert json.loads((tmp_path / "on" / STATE).read_text()) == {"format": 1, **asdict(home.counts)}
    again.close()


# --- whose directory it is ------------------------------------------------------------------------------------------


def test_a_second_process_is_refused(tmp_path: Path, base: Path) -> None:
    home = Home(tmp_path / "on", base)
    code = (
        "import sys; from pathlib import Path; from presize.predict.online.home import Home; "
        "from presize.errors import ConfigError\n"
        "try: Home(Path(sys.argv[1]), Path(sys.argv[2]))\nexcept ConfigError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "on"), str(base)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "another process learns in it: name another directory, or end that process" in done.stdout
    home.close()
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""


def test_another_base_is_refused_and_the_own_is_not(tmp_path: Path, base: Path) -> None:
    Home(tmp_path / "on", base).close()
    other = make_base(tmp_path / "other", 90.0)
    with pytest.raises(ModelError, match="goes on from another predictor"):
        Home(tmp_path / "on", other)
    Home(tmp_path / "on", tmp_path / "on" / "base").close()


def test_a_directory_with_other_files_is_refused_and_left_alone(tmp_path: Path, base: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "mine" / ".git").mkdir()
    with pytest.raises(ConfigError, match="holds other files"):
        Home(tmp_path / "mine", base)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "mine" / ".git").is_dir()


def test_a_place_that_can_not_be_used_is_named(tmp_path: Path, base: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"learn_online is .*file; it can not be used: (File exists|Not a directory)"):
        Home(tmp_path / "file", base)
    (tmp_path / "on" / CURRENT).mkdir(parents=True)
    (tmp_path / "on" / "base").mkdir()
    with pytest.raises(ModelError, match="goes on from another predictor"):
        Home(tmp_path / "on", base)


def test_what_a_user_put_there_later_stays(tmp_path: Path, base: Path) -> None:
    filled(tmp_path / "on", base).close()
    (tmp_path / "on" / "notes.txt").write_text("x")
    (tmp_path / "on" / "v-of-mine").mkdir()
    (tmp_path / "on" / "v000099").mkdir()
    Home(tmp_path / "on", base).close()
    assert names(tmp_path / "on") == [
        "base", CURRENT, "lock", "notes.txt", RESERVOIR, STATE, "v-of-mine", "v000001"
    ]  # fmt: skip
