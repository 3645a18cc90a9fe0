# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every module has its tests: in the file of its name, or in one that `mirrors.yaml` names and that reaches it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import yaml

import nemo_elastic

ROOT = Path(__file__).parents[1]
PACKAGE, TESTS = ROOT / "nemo_elastic", ROOT / "tests"
TABLE = yaml.safe_load((TESTS / "mirrors.yaml").read_text(encoding="utf-8"))
#: module, as a path in the package -> files of tests that test it under another name
ROWS: dict[str, list[str]] = {module: files.split() for module, files in TABLE["modules"].items()}
#: files of tests whose name is that of what several modules keep together
TOGETHER: list[str] = TABLE["together"]
MODULES = sorted(
    p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py") if p.name not in ("__init__.py", "__main__.py")
)
HELPERS = {*TESTS.rglob("*.py"), *ROOT.glob("recipes/*.py")}
STEMS = {p.stem for p in HELPERS}
THERE = {p.relative_to(TESTS).as_posix() for p in TESTS.rglob("test_*.py")}


def mirror(module: str) -> str:
    """`a/b.py` -> `a/test_b.py`."""
    return Path(module).with_name(f"test_{Path(module).name}").as_posix()


def name(path: Path) -> str:
    """As it is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


#: all of the package, but for what it gives as a whole
FILES = {name(p): p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.name != "__init__.py"}


@cache
def words(path: Path) -> frozenset[str]:
    """What a file imports, anywhere in it, and its texts with the full names in them: it may start these."""
    named: set[str] = set()
    said_of_itself: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr):  # comes before what is in it
            said_of_itself.add(id(node.value))
        elif isinstance(node, ast.Import):
            named.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            base = ".".join([*parents, *filter(None, [node.module])])
            named |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said_of_itself:
            named |= {node.value, *re.findall(r"(?:nemo_elastic|tests)[\w.]*\w", node.value)}
            named |= {".".join(pair) for pair in re.findall(r"from (nemo_elastic[\w.]*) import (\w+)", node.value)}
    return frozenset(named)


@cache
def helpers(file: Path) -> set[Path]:
    """The helpers and recipes that a file of tests imports or starts."""
    used: set[Path] = set()
    for word in words(file):
        if word.removesuffix(".py").rpartition(".")[2] in STEMS:
            at = f"{word.replace('.', '/')}.py"
            used |= {file.parent / word, file.parent / f"{word}.py", ROOT / at, ROOT / "recipes" / at} & HELPERS
    return used


@cache
def reached(file: str) -> set[str]:
    """What a file of tests imports of the package, and what that imports; a command is imported where it is run."""
    seen, new = set[Path](), {TESTS / file}
    while new:
        seen |= new
        new = set[Path]().union(*map(helpers, new)) - seen
    said = set[str]().union(*map(words, seen))
    said |= {f"nemo_elastic.cli.cmd_{word}" for word in said}
    said |= {f"nemo_elastic{home}" for public, home in nemo_elastic._HOME.items() if f"nemo_elastic.{public}" in said}
    used = FILES.keys() & said
    for one in [*used]:  # packages and commands only hand on what others do
        if FILES[one].name == "__init__.py" or FILES[one].parent.name == "cli":
            used |= FILES.keys() & words(FILES[one])
    return used.union(*(words(FILES[one]) for one in used))


def reaches(file: str, module: str) -> bool:
    """Whether a file of tests, or what it imports, imports a module; `serving/engine` is imported by vLLM alone."""
    if module.startswith("serving/engine/") and file.startswith("vllm/"):
        return True
    return name(PACKAGE / module) in reached(file)


def test_every_module_has_its_tests() -> None:
    without = [f"{module}: tests/{mirror(module)}" for module in MODULES if mirror(module) not in THERE]
    assert [line for line in without if line.partition(":")[0] not in ROWS] == [], "write these, or rows"


def test_a_row_is_of_a_module_without_a_file_of_its_name() -> None:
    assert [module for module in ROWS if module not in MODULES or mirror(module) in THERE] == []


def test_the_tests_of_a_module_are_there_and_reach_it() -> None:
    pairs = [(file, module) for module in MODULES for file in ROWS.get(module, [mirror(module)])]
    assert [pair for pair in pairs if not (TESTS / pair[0]).is_file() or not reaches(*pair)] == []


def test_a_file_of_tests_belongs_to_a_module_or_to_several() -> None:
    of_modules = {*map(mirror, MODULES), *(file for files in ROWS.values() for file in files)}
    of_package = {file for file in THERE if not file.startswith("benchmarks/")}
    assert sorted(of_package - of_modules) == sorted(TOGETHER)
