"""Runs what README.md shows: every `presize` command of a ``console`` block, and every ``python`` block.

Commands run in an empty folder with examples/ beside them, in the order of the page, so that one may use what an
earlier one wrote. `scripts/...` lines must name a script that exists; the test run itself executes them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def main() -> int:
    """Exit status 1, and the command's own output, at the first thing that is not true."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "examples", Path(folder) / "examples")
        for kind, text in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")):
            commands = [[sys.executable, "-W", "error", "-c", text]] if kind == "python" else _commands(text)
            for command in commands:
                count += 1
                result = subprocess.run(
                    command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600
                )
                if result.returncode:
                    print(f"README.md: this fails: {command[-1]}\n{result.stdout}{result.stderr}", file=sys.stderr)
                    return 1
    print(f"README.md: {count} commands are true")
    return 0


def _commands(text: str) -> list[list[str]]:
    commands = []
    for line in re.findall(r"^\$ (.*(?:\\\n.*)*)", text, re.MULTILINE):
        if line.startswith("scripts/"):
            if not (ROOT / line.split()[0]).exists():
                raise SystemExit(f"README.md names {line.split()[0]}, which does not exist")
        elif line.startswith("presize "):
            commands.append(["bash", "-c", line])
    return commands


if __name__ == "__main__":
    sys.exit(main())
