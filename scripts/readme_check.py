"""Runs what README.md shows: every `presize` or `curl` command of a ``console`` block, and every ``python`` block.

Commands run in an empty folder with examples/ beside them, in the order of the page, so that one may use what an
earlier one wrote. A command that ends in & is a server: it is waited for until it says that it is ready, and is ended
after the last command. `scripts/...` lines must name a script that exists; the test run itself executes them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def main() -> int:
    """Exit status 1, and the command's own output, at the first thing that is not true."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    count = 0
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        shutil.copytree(ROOT / "examples", Path(folder) / "examples")
        for kind, text in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")):
            commands = [[sys.executable, "-W", "error", "-c", text]] if kind == "python" else _commands(text)
            for command in commands:
                count += 1
                if command[-1].endswith("&"):
                    _start(command[-1].rstrip("& "), folder, environment, servers)
                    continue
                result = subprocess.run(
                    command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600
                )
                if result.returncode:
                    print(f"README.md: this fails: {command[-1]}\n{result.stdout}{result.stderr}", file=sys.stderr)
                    return 1
    print(f"README.md: {count} commands are true")
    return 0


def _start(line: str, folder: str, environment: dict[str, str], servers: ExitStack) -> None:
    log = servers.enter_context((Path(folder) / "server.log").open("w+", encoding="utf-8"))
    server = servers.enter_context(
        subprocess.Popen(["bash", "-c", f"exec {line}"], cwd=folder, env=environment, stdout=log, stderr=log)
    )
    servers.callback(server.terminate)
    end = time.monotonic() + 120
    while " ready " not in Path(log.name).read_text(encoding="utf-8"):
        if server.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"README.md: this fails: {line}\n{Path(log.name).read_text(encoding='utf-8')}")
        time.sleep(0.1)


def _commands(text: str) -> list[list[str]]:
    commands = []
    for line in re.findall(r"^\$ (.*(?:\\\n.*)*)", text, re.MULTILINE):
        if line.startswith("scripts/"):
            if not (ROOT / line.split()[0]).exists():
                raise SystemExit(f"README.md names {line.split()[0]}, which does not exist")
        elif line.startswith(("presize ", "curl ")):
            commands.append(["bash", "-c", line])
    return commands


if __name__ == "__main__":
    sys.exit(main())
