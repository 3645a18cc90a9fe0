# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.data import build
from nemo_elastic.data.build import EOS_ID, build_data, read_texts
from nemo_elastic.data.folder import SPLITS, DataFolder
from nemo_elastic.data.reasoning import TASKS
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.tokenizer import FamilyTokenizer

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
        train, validation, _ = read_texts(small_sources)
        assert {row.text for row in train} <= set(documents)
        assert not {row.text for row in validation} & set(documents)
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


def test_progress_is_reported(small_sources: list[Path], tmp_path: Path) -> None:
    reports: list[tuple[str, float]] = []
    build_data(tmp_path / "x", small_sources[:2], **SMALL, progress=lambda *now: reports.append(now))
    names = list(dict.fromkeys(name for name, _ in reports))
    assert names[0] == "reading text" and names[-1] == "writing" and "making long problems" in names
    assert all(0 <= share <= 1 for _, share in reports)


# ------------------------------------------------------------------ from texts and problems to documents


@pytest.fixture(scope="module")
def tokenizer(small: DataFolder) -> FamilyTokenizer:
    return FamilyTokenizer.read(small.tokenizer_dir)


@pytest.fixture(scope="module")
def pools(tokenizer: FamilyTokenizer) -> dict[str, build.Pool]:
    return {length: build.fill_pool(tokenizer, length, 1, 20_000, 60) for length in ("short", "long")}


def test_pools_hold_what_was_asked_for(pools: dict[str, build.Pool]) -> None:
    for length, pool in pools.items():
        sizes = [len(ids) for ids in pool.train]
        assert 20_000 <= sum(sizes) < 20_000 + max(sizes)
        assert len(pool.held_out) >= 60
        low, high = (1, 128) if length == "short" else (129, 500)
        assert all(low <= size - 1 <= high for size in sizes)
        assert all(ids[-1] == EOS_ID for ids in pool.train)
        for problem, ids in pool.held_out.values():
            assert problem.held_out and problem.length == length and problem.tokens == len(ids) - 1


def test_nothing_held_out_is_trained_on(tokenizer: FamilyTokenizer, pools: dict[str, build.Pool]) -> None:
    held_out = {p.question for pool in pools.values() for p, _ in pool.held_out.values()}
    for pool in pools.values():
        texts = [tokenizer.decode(ids.tolist()) for ids in pool.train]
        assert not held_out & {text.split("\n")[0].removeprefix("question: ") for text in texts}


def test_chosen_problems_are_balanced(pools: dict[str, build.Pool]) -> None:
    chosen = build.choose_problems(pools, 60)
    assert len(chosen) == 60 == len({(p.task, p.question) for p in chosen})
    assert Counter(p.length for p in chosen) == {"short": 40, "long": 20}
    assert {p.task for p in chosen[:15]} == set(TASKS)
    easiest = [p for p in chosen if p.level == 1]
    assert {p.task for p in easiest} == set(TASKS) and len(easiest) >= 10
    assert build.choose_problems(pools, 12) == chosen[:12]
    assert build.choose_problems({"short": build.Pool(), "long": build.Pool()}, 12) == []


def test_the_long_split_repeats_some_short_problems(pools: dict[str, build.Pool]) -> None:
    problems = build.long_problems(pools, 10_000)
    short = sum(len(ids) for ids in problems if len(ids) <= 129)
    assert 10_000 <= sum(map(len, problems)) < 10_501
    assert 0.19 < short / 10_000 < 0.22


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=5), st.integers(0, 30))
def test_held_out_files_are_cut_and_no_problem_follows_half_a_file(sizes: list[int], count: int) -> None:
    files = [np.append(np.arange(size) + 10_000 * (n + 1), EOS_ID) for n, size in enumerate(sizes)]
    problems = [np.array([2, n + 100, EOS_ID]) for n in range(count)]
    split = build.val_split(files, problems, 0)
    assert all(0 < len(d) <= build.VAL_PIECE for d in split.documents)
    stream = np.concatenate(split.documents)
    assert sorted(stream) == sorted(np.concatenate([*files, *problems]))
    assert all(stream[at - 1] == EOS_ID for at in np.flatnonzero(stream == 2) if at)
    assert (split.problems, split.problem_tokens) == (count, 3 * count)


def test_a_split_is_every_document_once() -> None:
    files, problems = [np.array([n]) for n in range(5)], [np.array([n, n]) for n in range(5, 9)]
    split = build.shuffled(files, problems, 0)
    assert sorted(int(d[0]) for d in split.documents) == list(range(9))
    assert (split.problems, split.problem_tokens) == (4, 8)


def test_an_eos_inside_of_a_text_is_no_end_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "VAL_PIECE", 2)
    file = np.array([5, EOS_ID, 7, EOS_ID, 9, EOS_ID])  # each of its pieces ends in one
    split = build.val_split([file], [np.array([6, EOS_ID])], seed=0)
    assert split.problems == 1 and sorted(map(tuple, split.documents)) == [
        (5, EOS_ID), (6, EOS_ID), (7, EOS_ID), (9, EOS_ID)
    ]  # fmt: skip
