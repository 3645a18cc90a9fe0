# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the docstrings of the recipes show, and the executor of the page on clusters; test_docs.py has the pages."""

from __future__ import annotations

import ast
import re
import shlex
from typing import Any

import pytest

from tests.documentation import ROOT, blocks
from tests.test_docs import parse_python


def docstring(name: str) -> str:
    return ast.get_docstring(ast.parse((ROOT / "recipes" / f"{name}.py").read_text(encoding="utf-8"))) or ""


@pytest.mark.parametrize(("name", "count"), [("run", 3), ("tiny", 3), ("demo_chat", 1)])
def test_its_commands_parse(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = docstring(name).replace("\\\n", " ")
    commands = re.findall(rf"^ +(?:\$ )?(?:python|torchrun .*?) (recipes/{name}\.py .*)", text, re.MULTILINE)
    assert len(commands) == count
    for command in commands:
        with monkeypatch.context() as each:
            parse_python(shlex.split(command), each)


@pytest.mark.nemo
def test_the_python_of_the_table_runs() -> None:
    names: dict[str, Any] = {}
    exec("\n".join(re.findall(r">>> (.*)", docstring("families"))), names)
    assert names["recipe"].trainer.val_check_interval == 100


@pytest.mark.nemo
def test_the_executors_of_the_page_on_clusters() -> None:
    (block,) = [b for b in blocks("python", page=ROOT / "docs" / "clusters.md") if "def executors" in b.text]
    names: dict[str, Any] = {}
    exec(block.text, names)
    stage, cut = names["executors"](16, 8), names["executors"](1, 0)
    assert (stage.nodes, stage.ntasks_per_node, stage.partition) == (16, 8, "batch")
    assert (cut.nodes, cut.ntasks_per_node, cut.gpus_per_node, cut.partition) == (1, 1, None, "cpu")


@pytest.mark.nemo
def test_the_page_names_what_the_tiny_one_leaves() -> None:
    from nemo_elastic.hosts.common.tiny import PARENT_STEPS, TINY
    from nemo_elastic.hosts.nemo.curriculum.jobs import end_of, ranked_checkpoint, ranking_dir, stage_checkpoint

    left = {ranking_dir("/x"), ranked_checkpoint("/x"), end_of("/x/parent", PARENT_STEPS)}
    left |= {stage_checkpoint("/x", TINY, number) for number in (1, 2)}
    (block,) = [b for b in blocks("text", page=ROOT / "docs" / "recipes.md") if "parent/checkpoints" in b.text]
    assert left <= {f"/x/{line.split()[0]}" for line in block.text.splitlines()}
