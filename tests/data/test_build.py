# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_elastic.data.build import build_data
from nemo_elastic.data.corpus import read_corpus
from nemo_elastic.data.folder import SPLITS, DataFolder
from nemo_elastic.errors import ElasticError

from .conftest import SMALL


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_seed_gives_the_same_bytes(small: DataFolder, small_sources: list[Path], tmp_path: Path) -> None:
    """In another process, because Python and the tokenizers library both randomise their hash tables."""
    code = (
        "import sys; from nemo_elastic.data.build import build_data; "
        f"build_data(sys.argv[1], sys.argv[2:], **{SMALL!r})"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path / "again"), *map(str, small_sources)]
    subprocess.run(command, check=True, env=environment)
    assert contents(tmp_path / "again") == contents(small.path)


def test_another_seed_gives_other_problems(small: DataFolder, small_sources: list[Path], tmp_path: Path) -> None:
    other = build_data(tmp_path / "other", small_sources, **{**SMALL, "seed": 4})
    assert other.digest != small.digest
    assert other.corpus == small.corpus


def test_splits_share_no_file_and_no_problem(small: DataFolder, small_sources: list[Path]) -> None:
    tokenizer = small.tokenizer()
    text = {name: tokenizer.decode(small.tokens(name).tolist(), skip_special_tokens=False) for name in SPLITS}
    held_out = set(text["val"].split("<eos>"))
    questions = {d.split("\nsteps:")[0] for d in held_out if d.startswith("question: ")}
    assert len(questions) == small.splits["val"].problems > 0
    for name in ("train", "train_long"):
        documents = text[name].split("<eos>")
        assert not questions & {d.split("\nsteps:")[0] for d in documents}
        corpus = read_corpus(small_sources)
        assert {d.text for d in corpus.train} <= set(documents)
        assert not {d.text for d in corpus.held_out} & set(documents)
    for problem in small.problems():
        assert f"question: {problem.question}\nsteps:" not in text["train"] + text["train_long"]


def test_every_split_has_its_share_of_problems(small: DataFolder) -> None:
    for name, info in small.splits.items():
        assert info.problem_tokens / info.tokens == pytest.approx(0.25, abs=0.03 if name == "val" else 0.005)
    assert small.splits["train"].problems > 2 * small.splits["train_long"].problems


def test_no_problems_when_none_are_wanted(small_sources: list[Path], tmp_path: Path) -> None:
    plain = build_data(tmp_path / "plain", small_sources[:2], vocab=300, reasoning=0, seed=0)
    assert plain.held_out_problems == 0 and plain.problems() == []
    assert all(info.problems == 0 for info in plain.splits.values())
    assert "reasoning-gym" not in plain.made_with
    assert plain.splits["train"].tokens == plain.splits["train_long"].tokens


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab": 10}, "vocab: 10"),
        ({"reasoning": 0.95}, "reasoning: 0.95"),
        ({"reasoning": float("nan")}, "reasoning: nan"),
        ({"seed": -1}, "seed: -1"),
        ({"held_out_problems": 1.5}, "held_out_problems: 1.5"),
        ({"sources": ["gone"]}, "gone: no such file"),
    ],
)
def test_bad_values_are_refused_and_leave_nothing(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ElasticError, match=message):
        build_data(tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept(small: DataFolder, small_sources: list[Path]) -> None:
    before = contents(small.path)
    with pytest.raises(ElasticError, match="already exists"):
        build_data(small.path, small_sources)
    assert contents(small.path) == before


def test_progress_is_told(small_sources: list[Path], tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    build_data(tmp_path / "x", small_sources[:2], **SMALL, progress=lambda *told_now: told.append(told_now))
    names = list(dict.fromkeys(name for name, _ in told))
    assert names[0] == "reading text" and names[-1] == "writing" and "making long problems" in names
    assert all(0 <= share <= 1 for _, share in told)
