# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Count the package's size, and how much of it knows what only one place should: the table in docs/design.md.

    .venv/bin/python tools/house.py > docs/tables/house.md
    .venv/bin/python tools/house.py --root CHECKOUT   # another checkout's column alone

Code is counted, not what docstrings and comments say, but for the rows of lines.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import grimp
import networkx

KINDS = ("mamba", "mlp", "attention")
HOSTS = ("nemo", "megatron", "lightning", "nemo_run", "nemo_elastic.hosts", "nemo_elastic.megatron")
LONG, SHORT = 60, 60
#: roles that both hosts have, under the same name in either folder
TWINS = ("nemo", "bridge")
#: what a row counted in commit 751eb0ca, which a review read whole
BEFORE = {
    "lines": 58_085,
    "lines of code": 35_876,
    "files": 360,
    "files below 60 lines": 57,
    "public functions and classes": 1_436,
    "functions above 60 lines": 6,
    "circles of files, benchmarks included": 2,
    "names of files that two folders have": 4,
    "files that name a kind of layer": 17,
    "files that know Megatron's fused query-key-value projection": 4,
    "files that split Mamba's input projection": 1,
    "modules in `train/` that name a host or a format": 0,
    "lines of tests": 65_480,
}


def docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                yield first.value


def named(tree: ast.AST) -> Iterator[str]:
    """Identifiers, and string constants that are no docstrings."""
    texts = {id(text) for text in docstrings(tree)}
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


def code_lines(text: str, tree: ast.AST) -> int:
    """Lines with code: no blank line, no line of comments or docstrings alone."""
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    coded: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            coded.update(range(token.start[0], token.end[0] + 1))
    for node in docstrings(tree):
        coded.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(coded)


def public_names(tree: ast.Module) -> int:
    """Functions and classes of a module that others may use."""
    return sum(
        isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_")
        for node in tree.body
    )


def circles(root: Path, package: str) -> list[list[str]]:
    """Modules that import each other in a loop, imports inside of functions and for types included."""
    sys.path.insert(0, str(root))
    try:
        graph = grimp.build_graph(package, cache_dir=None)
    finally:
        sys.path.remove(str(root))
    # the package's own file hands public names on, each of which it imports when it is asked for
    arrows = networkx.DiGraph(
        (module, other)
        for module in graph.modules
        for other in graph.find_modules_directly_imported_by(module)
        if package not in (module, other)
    )
    return [sorted(group) for group in networkx.strongly_connected_components(arrows) if len(group) > 1]


def stems_used_twice(package: Path, files: list[Path]) -> list[str]:
    """Names that two files have; a role that each host has once, in its own folder, counts once."""
    counts: Counter[str] = Counter()
    for path in files:
        host = next((part for part in path.relative_to(package).parts[:-1] if part in TWINS), "")
        if not path.stem.startswith("__"):
            counts[f"{path.stem} {host}"] += 1
    stems = Counter(name.partition(" ")[0] for name in counts if not name.endswith(tuple(TWINS)))
    stems.update({name.partition(" ")[0] for name in counts if name.endswith(tuple(TWINS))})
    return sorted(stem for stem in stems if stems[stem] > 1 or any(counts[f"{stem} {h}"] > 1 for h in ("", *TWINS)))


def counted(root: Path) -> Mapping[str, int]:
    """What each row of the table counts, in a checkout."""
    package = root / "nemo_elastic"
    files = sorted(package.rglob("*.py"))
    sources = {path: path.read_text(encoding="utf-8") for path in files}
    trees = {path: ast.parse(text) for path, text in sources.items()}
    kind = re.compile(rf"{'|'.join(KINDS).upper()}|(?:{'|'.join(KINDS)})(?:\..*)?")
    lengths = [len(text.splitlines()) for text in sources.values()]
    return {
        "lines": sum(lengths),
        "lines of code": sum(code_lines(sources[path], tree) for path, tree in trees.items()),
        "files": len(files),
        f"files below {SHORT} lines": sum(length < SHORT for length in lengths),
        "public functions and classes": sum(public_names(tree) for tree in trees.values()),
        f"functions above {LONG} lines": sum(
            (node.end_lineno or 0) - node.lineno + 1 > LONG
            for tree in trees.values()
            for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        ),
        "circles of files, benchmarks included": len(circles(root, "nemo_elastic")) + len(circles(root, "benchmarks")),
        "names of files that two folders have": len(stems_used_twice(package, files)),
        "files that name a kind of layer": sum(any(kind.fullmatch(n) for n in named(t)) for t in trees.values()),
        "files that know Megatron's fused query-key-value projection": sum(
            any(re.search("qkv", name, re.IGNORECASE) for name in named(tree)) for tree in trees.values()
        ),
        "files that split Mamba's input projection": sum(
            bool(re.search(r"\.split\(\[[^\]]*(?:inner|heads)", text)) for text in sources.values()
        ),
        "modules in `train/` that name a host or a format": sum(
            any(name == other or name.startswith(f"{other}.") for name in imported(trees[path]) for other in outside)
            for path in files
            if path.relative_to(package).parts[0] == "train"
            for outside in [(*HOSTS, "nemo_elastic.formats")]
        ),
        "lines of tests": sum(len(p.read_text(encoding="utf-8").splitlines()) for p in root.glob("tests/**/*.py")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", type=Path, help="another checkout: print what is counted there alone")
    root = parser.parse_args().root
    if root is not None:
        for what, count in counted(root.resolve()).items():
            print(f"{count:>7,}  {what}")
        return
    print("| Counted | At 751eb0ca | Now |", "| --- | ---: | ---: |", sep="\n")
    for what, count in counted(Path(__file__).parents[1]).items():
        print(f"| {what} | {BEFORE[what]:,} | {count:,} |")


if __name__ == "__main__":
    main()
