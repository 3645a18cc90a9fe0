# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What scripts import from this repository is there, also in those that no test runs; and names say what they hold."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: folders that are imported from here
OURS = ("nemo_elastic", "benchmarks", "tools", "tests", "recipes")
#: those of which some run by hand alone
SCRIPTS = sorted(path for folder in ("benchmarks", "tools", "recipes") for path in (ROOT / folder).rglob("*.py"))
#: they fit whatever a variable holds, so no variable is called so; `tools/words.txt` has words that prose goes without
EMPTY = {"told", "found", "at_hand"}


@cache
def names_of(module: Path) -> frozenset[str]:
    """What a module's own lines bind, at its top level and under conditions there."""
    names: set[str] = set()
    left: list[ast.AST] = [*ast.parse(module.read_text()).body]
    while left:
        node = left.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        left += ast.iter_child_nodes(node)
    return frozenset(names)


def missing(path: Path) -> list[str]:
    """What a file asks of this repository and does not find there."""
    out = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            place = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
        elif node.module is not None and node.module.partition(".")[0] in OURS:
            place = ROOT.joinpath(*node.module.split("."))
        else:
            continue
        module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        bound = names_of(module) if module.is_file() else frozenset()
        if not module.is_file() and not place.is_dir():
            out.append(f"line {node.lineno}: no module {node.module}")
        elif "__getattr__" not in bound:
            lost = [a.name for a in node.names if a.name != "*" and a.name not in bound]
            out += [f"line {node.lineno}: {node.module or '.'} has no {name}" for name in lost
                    if not (place / name).is_dir() and not (place / f"{name}.py").is_file()]  # fmt: skip
    return out


def test_what_is_imported_is_there():
    assert {str(path): lost for path in SCRIPTS if (lost := missing(path))} == {}


def test_what_is_missing_is_reported(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from nemo_elastic.config.block import ElasticConfig, Nothing\nimport os\n")
    assert missing(script) == ["line 1: nemo_elastic.config.block has no Nothing"]
    script.write_text(
        "def f():\n    from benchmarks.nowhere import x\n    from benchmarks import output, bench_step\n"
    )
    assert missing(script) == ["line 2: no module benchmarks.nowhere"]


def called(path: Path) -> set[str]:
    """Names of variables, parameters, attributes and functions in a file."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {getattr(node, kind, None) for node in nodes for kind in ("id", "arg", "attr", "name")} - {None}


def test_names_say_what_they_hold():
    paths = sorted(path for folder in OURS for path in (ROOT / folder).rglob("*.py"))
    assert {str(path): names for path in paths if (names := EMPTY & called(path))} == {}
