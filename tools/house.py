# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Count how much of the package knows what only one place should: the table in docs/design.md.

    .venv/bin/python tools/house.py > docs/tables/house.md

Code is counted, not what docstrings and comments say.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median

PACKAGE = Path(__file__).parents[1] / "nemo_elastic"
KINDS = ("mamba", "mlp", "attention")
HOSTS = ("nemo", "megatron", "lightning", "nemo_run", "nemo_elastic.hosts", "nemo_elastic.megatron")
LONG = 60
#: as they were in version 0.1
BEFORE = {"kinds": 36, "fused": 5, "split": 3, "lines": 24_520}


def named(tree: ast.AST) -> Iterator[str]:
    """Identifiers, and string constants that are no docstrings."""
    texts = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            yield node.value


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def main() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    sources = {path: path.read_text() for path in files}
    trees = {path: ast.parse(text) for path, text in sources.items()}
    kind = re.compile(rf"{'|'.join(KINDS).upper()}|(?:{'|'.join(KINDS)})(?:\..*)?")
    kinds = [p for p, tree in trees.items() if any(kind.fullmatch(name) for name in named(tree))]
    fused = [p for p, tree in trees.items() if any(re.search("qkv", name, re.IGNORECASE) for name in named(tree))]
    split = [p for p, text in sources.items() if re.search(r"\.split\(\[[^\]]*(?:inner|heads)", text)]
    long = [
        f"{path.relative_to(PACKAGE)}: {node.name}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or 0) - node.lineno + 1 > LONG
    ]
    lines = [len(text.splitlines()) for text in sources.values()]
    told = [
        p for p, tree in trees.items() if "train" in p.relative_to(PACKAGE).parts
        and any(name == host or name.startswith(f"{host}.") for name in imported(tree) for host in HOSTS)
    ]  # fmt: skip
    rows = [
        ("files that name a kind of layer", f"{BEFORE['kinds']}", len(kinds)),
        ("files that know Megatron's fused query-key-value projection", f"{BEFORE['fused']}", len(fused)),
        ("files that split Mamba's input projection", f"{BEFORE['split']}", len(split)),
        ("modules in `train/` that name a host", "", len(told)),
        ("files", "", len(files)),
        ("lines", f"{BEFORE['lines']:,}", f"{sum(lines):,}"),
        ("lines of the median file", "", round(median(lines))),
        (f"functions above {LONG} lines", "", len(long)),
    ]
    print("| Counted | In 0.1 | Now |", "| --- | ---: | ---: |", sep="\n")
    for what, before, now in rows:
        print(f"| {what} | {before} | {now} |")


if __name__ == "__main__":
    main()
