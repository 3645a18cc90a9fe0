# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Names that the package takes from Megatron-Bridge and megatron-core exist in sources that are read, not imported.

NEMO_ELASTIC_BRIDGE_SOURCE lists folders of sources, separated like those of PATH: checkouts of Megatron-Bridge and of
Megatron-LM, or site-packages. A name that another version moved shows before that version can be installed.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from recipes.families import FAMILIES
from tests.workers import ROOT

FOLDERS = [Path(folder) for folder in os.environ.get("NEMO_ELASTIC_BRIDGE_SOURCE", "").split(os.pathsep) if folder]
HOSTS = ("megatron.bridge", "megatron.core")


def file_of(module: str, folders: list[Path]) -> Path | None:
    """A module's file, or the folder of a package without one."""
    path = module.replace(".", "/")
    tried = (root / f"{path}{end}" for f in folders for root in (f, f / "src") for end in (".py", "/__init__.py", ""))
    return next((file for file in tried if file.exists()), None)


def bound(body: list[ast.stmt]) -> Iterator[str]:
    """Names that a module's statements bind, also under a condition."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (name.asname or name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))
        else:
            for part in ("body", "orelse", "finalbody"):
                yield from bound(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from bound(handler.body)


def has(module: str, name: str, folders: list[Path]) -> bool:
    """Whether `from module import name` finds it."""
    if file_of(f"{module}.{name}", folders):
        return True
    file = file_of(module, folders)
    return file is not None and file.is_file() and name in bound(ast.parse(file.read_text(encoding="utf-8")).body)


def used(text: str, folders: list[Path]) -> Iterator[tuple[str, str]]:
    """Modules of the hosts that a file imports with a name from each, and attributes of modules that it imports.

    An import inside `try` or `else` may be another version's, and is left out.
    """
    tree = ast.parse(text)
    parts = [[node] if isinstance(node, ast.Try) else getattr(node, "orelse", []) for node in ast.walk(tree)]
    tried = {id(node) for part in parts if isinstance(part, list) for block in part for node in ast.walk(block)}
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        module = (node.module or "") if isinstance(node, ast.ImportFrom) and id(node) not in tried else ""
        for name in node.names if isinstance(node, ast.ImportFrom) and module.startswith(HOSTS) else ():
            yield module, name.name
            if file_of(f"{module}.{name.name}", folders):
                modules[name.asname or name.name] = f"{module}.{name.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            yield modules[node.value.id], node.attr


def missing(sources: dict[str, str], folders: list[Path]) -> set[str]:
    """What files use and the folders lack, as `file: module.name`; of hosts that the folders have."""
    there = tuple(host for host in HOSTS if file_of(host, folders))
    return {
        f"{file}: {module}.{name}"
        for file, text in sources.items()
        for module, name in used(text, folders)
        if module.startswith(there) and not has(module, name, folders)
    }


def test_a_name_that_moved_is_found(tmp_path: Path) -> None:
    package = tmp_path / "src" / "megatron" / "bridge"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("if True:\n    kept = 1\n")
    (package / "steps.py").write_text("def step(): ...\n")
    text = "from megatron.bridge import kept, moved, steps\nfrom megatron.core import x\nsteps.step()\nsteps.gone()\n"
    optional = "try:\n    from megatron.bridge.late import later\nexcept ImportError:\n    later = None\n"
    assert missing({"a.py": text + optional}, [tmp_path]) == {
        "a.py: megatron.bridge.moved", "a.py: megatron.bridge.steps.gone",
    }  # fmt: skip


def test_bridge_is_imported_in_one_package() -> None:
    package = ROOT / "nemo_elastic"
    importing = {
        file.parent.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        if any(module.startswith(HOSTS[0]) for module, _ in used(file.read_text(encoding="utf-8"), []))
    }
    assert importing == {"hosts/bridge"}


@pytest.mark.skipif(not FOLDERS, reason="NEMO_ELASTIC_BRIDGE_SOURCE names no folder of sources")
def test_every_name_that_the_package_uses_is_in_the_sources() -> None:
    assert any(file_of(host, FOLDERS) for host in HOSTS), f"{FOLDERS}: neither {' nor '.join(HOSTS)}"
    package = sorted((ROOT / "nemo_elastic").rglob("*.py"))
    sources = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in package}
    for name, row in FAMILIES.items():
        module, _, function = row.stock.partition(":")
        if module.startswith(HOSTS):
            sources[f"recipe {name}"] = f"from {module} import {function}"
    assert missing(sources, FOLDERS) == set()
