# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The demo's evaluation of a family with random weights: every figure is that of the model whose row it is in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_elastic.core.cost import MemorySpec, memory, parameters
from nemo_elastic.core.manifest import Family
from nemo_elastic.data.folder import MANIFEST, PROBLEMS, DataFolder, problem_lines
from nemo_elastic.data.reasoning import Problem
from nemo_elastic.demo.demo_settings import FULL
from nemo_elastic.demo.evaluate import LENGTH, evaluate
from nemo_elastic.demo.words import build_words
from nemo_elastic.evaluation import accuracy
from nemo_elastic.evaluation.scoring import perplexity
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.runtime import load_family
from nemo_elastic.slicing.family_folder import write_family
from nemo_elastic.verdicts import closed
from tests.shapes import PARENT as SHAPE

WORDS = ["question:", "steps:", "answer:", *(f"w{i}" for i in range(269))]
PARENT = replace(SHAPE, vocab=len(WORDS) + 2)
MEMBERS = {"full": PARENT.full, "half": PARENT.uniform(keep=(0, 1, 3), hidden=8, ffn=8, mamba_heads=4)}
PROBLEM = [Problem(task, 1, "w1 w2", ("w3",), "w4", tokens=8) for task in ("add", "sort", "add")]
TOKENS = torch.tensor([[5, 6, 7]])
SETTINGS = replace(FULL, eval_tokens=2 * LENGTH, problems=2)


@dataclass
class Evaluated:
    """Folders, rows, and what the models say that solved problems."""

    folders: dict[str, Path]
    data: DataFolder
    rows: dict[str, dict[str, Any]]
    solvers: list[torch.Tensor]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    place = tmp_path_factory.mktemp("demo")
    text = " ".join(f"w{i * i % 269}" for i in range(3 * LENGTH))
    data = build_words(place / "data", WORDS, {"train": ["w1"], "train_long": ["w1"], "val": [text]})
    (data.path / PROBLEMS).write_text(problem_lines(PROBLEM))
    (data.path / MANIFEST).write_text(json.dumps(data.to_json() | {"held_out_problems": len(PROBLEM)}))
    folders = {}
    for seed, name in enumerate(("trained", "sorted", "unsorted")):
        state = NemotronH.random(PARENT, seed=seed).state_dict()
        folders[name] = write_family(place / name, PARENT, state, Family.of(PARENT, MEMBERS))
    solvers: list[torch.Tensor] = []
    solve = accuracy.answer_accuracy

    def watched(model: Any, *more: Any) -> Any:
        solvers.append(model(TOKENS))
        return solve(model, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accuracy, "answer_accuracy", watched)
        rows = evaluate(data.path, folders["trained"], folders["sorted"], folders["unsorted"], SETTINGS, print)
    return Evaluated(folders, DataFolder.open(data.path), {row["name"]: row for row in rows}, solvers)


def loss(evaluated: Evaluated, folder: str, member: str) -> float:
    model = load_family(evaluated.folders[folder]).select(member)
    return perplexity(model, evaluated.data.tokens("val"), LENGTH, max_tokens=SETTINGS.eval_tokens).nats


@pytest.mark.parametrize(
    ("row", "key", "folder", "member"),
    [
        ("parent", "loss", "sorted", "full"),
        ("full", "loss", "trained", "full"),
        ("half", "loss", "trained", "half"),
        ("half", "untrained_loss", "sorted", "half"),
        ("half", "unsorted_loss", "unsorted", "half"),
    ],
)
def test_a_loss_is_that_of_its_model(evaluated: Evaluated, row: str, key: str, folder: str, member: str) -> None:
    assert evaluated.rows[row][key] == pytest.approx(loss(evaluated, folder, member), rel=1e-6)


def test_the_parent_has_no_controls(evaluated: Evaluated) -> None:
    assert {evaluated.rows["parent"][key] for key in ("untrained_loss", "unsorted_loss", "recovered")} == {None}
    half, before = evaluated.rows["half"], evaluated.rows["parent"]["loss"]
    assert half["recovered"] == closed(half["untrained_loss"], half["loss"], before)


@pytest.mark.parametrize("name", MEMBERS)
def test_size_and_shape_are_those_of_the_member(evaluated: Evaluated, name: str) -> None:
    row, member = evaluated.rows[name], MEMBERS[name]
    assert row["parameters"] == parameters(PARENT, member)
    assert row["ratio"] == row["parameters"] / parameters(PARENT, PARENT.full)
    assert row["memory_bytes"] == memory(PARENT, member, MemorySpec(**row["memory"]))
    assert (row["hidden"], row["layers"], row["pattern"]) == (member.hidden, len(member.layers), member.pattern)


def test_problems_are_solved_by_the_parent_as_it_was_and_by_trained_members(evaluated: Evaluated) -> None:
    models = [("sorted", "full"), ("trained", "full"), ("trained", "half")]
    for actual, (folder, member) in zip(evaluated.solvers, models, strict=True):
        assert torch.equal(actual, load_family(evaluated.folders[folder]).select(member)(TOKENS))


def test_every_model_is_asked_the_first_problems(evaluated: Evaluated) -> None:
    for row in evaluated.rows.values():
        assert row["answers"]["total"] == 2 and set(row["accuracy_by_task"]) == {"add", "sort"}
        assert row["accuracy"] == row["answers"]["correct"] / 2
