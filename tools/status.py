# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What was run where, by the tests of `tools/status.yaml` and their markers: tables of docs/status.md and clusters.md.

    .venv/bin/python tools/status.py

Ends in an error where a test that the file names does not exist.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import yaml

from nemo_elastic.core.kinds.registry import KINDS
from nemo_elastic.slicing.card import axis_title

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "tools" / "status.yaml"
PLACES = ("NeMo", "Megatron-Bridge", "transformers", "vLLM", "llama.cpp", "own runtime")
ONE, SEVERAL = "one process", "ranks"


@cache
def marks(file: Path) -> dict[str, set[str]]:
    """Function -> markers that it or its file has."""
    tree = ast.parse(file.read_text())

    def names(node: ast.AST) -> Iterator[str]:
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Attribute) and part.value.attr == "mark":
                yield part.attr

    whole = {
        name
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "pytestmark"
        for name in names(node)
    }
    return {
        node.name: whole | {name for mark in node.decorator_list for name in names(mark)}
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def cell(entry: list[str] | dict[str, list[str]] | str | None) -> str:
    """Where the tests of a feature run, or why there are none.

    Raises:
        KeyError: no such test.
    """
    if entry is None or isinstance(entry, str):
        return entry or ""
    ((word, tests),) = entry.items() if isinstance(entry, dict) else [("", entry)]
    own = [marks(ROOT / "tests" / file)[name] for file, name in (test.split("::") for test in tests)]
    return word or (SEVERAL if any("dist" in each for each in own) else ONE)


def table(group: str, places: Sequence[str]) -> str:
    """The rows of a group, over the places that they are for."""
    lines = [f"| | {' | '.join(places)} |", "|---|" + "---|" * len(places)]
    for feature, entries in yaml.safe_load(FILE.read_text())[group].items():
        if unknown := set(entries) - set(places):
            raise KeyError(f"{feature}: {min(unknown)}")
        lines.append(f"| {feature} | {' | '.join(cell(entries.get(place)) for place in places)} |")
    return "\n".join(lines) + "\n"


def kinds() -> str:
    """The table of kinds of layers and what members may have less of."""
    lines = ["| Layers | letter | members may have fewer | each layer its own |", "|---|---|---|---|"]
    for kind in KINDS.values():
        own = [axis_title(axis.name) for axis in kind.axes if axis.per_layer]
        axes = ", ".join(axis_title(axis.name) for axis in kind.axes)
        lines.append(f"| {kind.name} | `{kind.symbol}` | {axes} | {', '.join(own)} |")
    return "\n".join(lines) + "\n"


def gpu() -> str:
    """What waits for a GPU."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    waiting = sum("gpu" in own for file in files for own in marks(file).values())
    return f"On a GPU: never yet. {waiting} tests wait for one: `make test-gpu`, `nemo-elastic doctor --kernels`.\n"


def pages() -> dict[str, str]:
    """Name in docs/tables -> what it says."""
    layouts = f"{table('layouts', PLACES[:2])}\n{gpu()}"
    return {"status.md": f"{table('features', PLACES)}\n{kinds()}", "status_layouts.md": layouts}


if __name__ == "__main__":
    for name, text in pages().items():
        (ROOT / "docs" / "tables" / name).write_text(text)
