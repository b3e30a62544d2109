"""An import may only point down; what is light stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import presize

ROOT = Path(presize.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

# from the bottom up; packages of one height do not know each other
HEIGHTS = [
    {"version"},
    {"errors"},
    {"registry", "config", "figures", "traces", "whole_file"},
    {"theory", "optim"},
    {"core"},
    {"predict"},
    {"engine", "simulate"},
    {"server", "load", "integrations"},
    {"cli"},
]
HEIGHT_OF = {name: height for height, names in enumerate(HEIGHTS) for name in names}
# the package itself hands out the engine's names, but only when they are asked for
TOP = "__init__"

CORE_MAY_IMPORT = {
    "__future__", "abc", "bisect", "collections", "dataclasses", "enum", "functools", "heapq", "itertools", "math",
    "numpy", "operator", "presize", "typing",
}  # fmt: skip
IO_AND_CLOCKS = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}


def imports(source: str, package: tuple[str, ...] = ()) -> set[str]:
    """Dotted names of all that a module imports, wherever the statement stands; ``package`` resolves relative ones."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += [node.module] if node.module else []
            found |= {".".join([*base, alias.name]) for alias in node.names}
        elif isinstance(node, ast.Call) and _callee(node) in {"import_module", "__import__"}:
            found |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return found


def _callee(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def layer_of(dotted: str) -> str | None:
    """The layer that a dotted name belongs to; None outside of Presize, "" for the package itself."""
    parts = dotted.split(".")
    if parts[0] != "presize":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in HEIGHT_OF else ""


def upward(layer: str, source: str, package: tuple[str, ...] = ()) -> set[str]:
    """Imports of a module of ``layer`` that do not point down, nor stay within the layer."""
    bad = set()
    for name in imports(source, package):
        target = layer_of(name)
        if target is None or target == layer:
            continue
        if target == "" or HEIGHT_OF[target] >= HEIGHT_OF[layer]:
            bad.add(name)
    return bad


def where(path: Path) -> tuple[str, tuple[str, ...]]:
    """Layer and package of a module of Presize."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0], ("presize", *parts[:-1])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    layer, package = where(path)
    if layer == TOP:
        return
    assert layer in HEIGHT_OF, f"{layer} has no place among the layers"
    assert upward(layer, path.read_text(encoding="utf-8"), package) == set()


@pytest.mark.parametrize("path", sorted((ROOT / "core").glob("*.py")), ids=lambda path: path.name)
def test_core_has_no_torch_no_input_or_output_and_no_clock(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert {name.split(".")[0] for name in imports(source, ("presize", "core"))} <= CORE_MAY_IMPORT
    calls = {_callee(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}
    assert calls & IO_AND_CLOCKS == set()


@pytest.mark.parametrize(
    "source",
    [
        "import presize.engine.engine",
        "from presize.engine import engine",
        "from presize import LLM",
        "import presize",
        "from presize.predict.base import Query as Q",
        "def f():\n    from presize.cli import main",
        "if TYPE_CHECKING:\n    import presize.server",
        "import importlib\nimportlib.import_module('presize.engine')",
        "from ..predict import base",
        "from .. import predict",
    ],
)
def test_an_import_that_points_up_is_seen(source: str) -> None:
    assert len(upward("core", source, ("presize", "core"))) == 1


@pytest.mark.parametrize(
    "source",
    ["import numpy", "from presize.config import option", "from presize.core import ledger", "from . import ledger"],
)
def test_an_import_that_points_down_is_not(source: str) -> None:
    assert upward("core", source, ("presize", "core")) == set()


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("presize", {"torch", "numba", "numpy", "transformers"}),
        ("presize.core.scheduler", {"torch", "numba", "transformers"}),
        ("presize.predict", {"torch", "numba", "transformers"}),
        ("presize.cli.shape, presize.simulate.shapes", {"torch", "numba", "transformers", "matplotlib"}),
        (
            "presize.cli.dynamics, presize.theory.scan_snap.experiments",
            {"torch", "numba", "transformers", "matplotlib"},
        ),
    ],
)
def test_light_modules_load_no_heavy_ones(modules: str, heavy: set[str]) -> None:
    """In a process of its own, as this one has loaded everything."""
    code = f"import sys, {modules}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(modules.split(", ")) <= set(loaded)
    assert heavy & set(loaded) == set()
