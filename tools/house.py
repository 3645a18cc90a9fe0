# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Count lines, files and rules of checkouts: .venv/bin/python tools/house.py [CHECKOUT ...]."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import grimp

KINDS = re.compile(r"MAMBA|MLP|ATTENTION|(?:mamba|mlp|attention)(?:\..*)?")
LONG, SHORT = 60, 60


def lines(files: list[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)


def named(tree: ast.AST) -> Iterator[str]:
    """Identifiers and string constants."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def circles(root: Path) -> int:
    """Pairs of modules that import each other, also through others."""
    sys.path.insert(0, str(root))
    try:
        graph = grimp.build_graph("nemo_elastic", cache_dir=None)
    finally:
        sys.path.remove(str(root))
    graph.remove_module("nemo_elastic")  # its public names are imported when they are asked for
    reached = {module: graph.find_downstream_modules(module) for module in graph.modules}
    return sum(b in reached[a] and a in reached[b] for a, b in combinations(reached, 2))


def counts(root: Path) -> dict[str, int]:
    """What is counted in a checkout."""
    files = sorted((root / "nemo_elastic").rglob("*.py"))
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    functions = [n for tree in trees for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    public = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {
        "lines": lines(files),
        "files": len(files),
        f"files below {SHORT} lines": sum(lines([path]) < SHORT for path in files),
        "public functions and classes": sum(
            isinstance(node, public) and not node.name.startswith("_") for tree in trees for node in tree.body
        ),
        f"functions above {LONG} lines": sum((f.end_lineno or 0) - f.lineno + 1 > LONG for f in functions),
        "pairs of files that import each other": circles(root),
        "files that name a kind of layer": sum(any(map(KINDS.fullmatch, named(tree))) for tree in trees),
        **{f"lines of {part}": lines([*(root / part).rglob("*.py")]) for part in ("tests", "benchmarks", "tools")},
    }


if __name__ == "__main__":
    for checkout in sys.argv[1:] or [Path(__file__).parents[1]]:
        rows = counts(Path(checkout).resolve()).items()
        print(checkout, *(f"{count:>7,}  {what}" for what, count in rows), sep="\n")
