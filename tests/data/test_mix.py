# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.data import mix
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.data.tasks import TASKS
from nemo_elastic.data.tokenizer import EOS_ID


@pytest.fixture(scope="module")
def pools(small: DataFolder) -> dict[str, mix.Pool]:
    return {length: mix.fill_pool(small.tokenizer(), length, 1, 20_000, 60) for length in ("short", "long")}


def test_pools_hold_what_was_asked_for(pools: dict[str, mix.Pool]) -> None:
    for length, pool in pools.items():
        sizes = [len(ids) for ids in pool.train]
        assert 20_000 <= sum(sizes) < 20_000 + max(sizes)
        assert len(pool.held_out) >= 60
        low, high = (1, 128) if length == "short" else (129, 500)
        assert all(low <= size - 1 <= high for size in sizes)
        assert all(ids[-1] == EOS_ID for ids in pool.train)
        for problem, ids in pool.held_out.values():
            assert problem.held_out and problem.length == length and problem.tokens == len(ids) - 1


def test_nothing_held_out_is_trained_on(small: DataFolder, pools: dict[str, mix.Pool]) -> None:
    tokenizer = small.tokenizer()
    held_out = {p.question for pool in pools.values() for p, _ in pool.held_out.values()}
    for pool in pools.values():
        texts = [tokenizer.decode(ids.tolist()) for ids in pool.train]
        assert not held_out & {text.split("\n")[0].removeprefix("question: ") for text in texts}


def test_pools_are_fixed_by_the_seed(small: DataFolder, pools: dict[str, mix.Pool]) -> None:
    again = mix.fill_pool(small.tokenizer(), "short", 1, 20_000, 60)
    assert all((a == b).all() for a, b in zip(pools["short"].train, again.train, strict=True))
    other = mix.fill_pool(small.tokenizer(), "short", 2, 20_000, 60)
    assert [len(ids) for ids in other.train] != [len(ids) for ids in again.train]


def test_chosen_problems_are_balanced(pools: dict[str, mix.Pool]) -> None:
    chosen = mix.choose_problems(pools, 60)
    assert len(chosen) == 60 == len({(p.task, p.question) for p in chosen})
    assert Counter(p.length for p in chosen) == {"short": 40, "long": 20}
    assert {p.task for p in chosen[:15]} == set(TASKS)
    easiest = [p for p in chosen if p.level == 1]
    assert {p.task for p in easiest} == set(TASKS) and len(easiest) >= 10
    assert mix.choose_problems(pools, 12) == chosen[:12]
    assert mix.choose_problems({"short": mix.Pool(), "long": mix.Pool()}, 12) == []


def test_the_long_split_repeats_some_short_problems(pools: dict[str, mix.Pool]) -> None:
    problems = mix.long_problems(pools, 10_000)
    short = sum(len(ids) for ids in problems if len(ids) <= 129)
    assert 10_000 <= sum(map(len, problems)) < 10_501
    assert 0.19 < short / 10_000 < 0.22


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=5), st.integers(0, 30))
def test_held_out_files_are_cut_and_no_problem_follows_half_a_file(sizes: list[int], count: int) -> None:
    files = [np.append(np.arange(size) + 10_000 * (n + 1), EOS_ID) for n, size in enumerate(sizes)]
    problems = [np.array([2, n + 100, EOS_ID]) for n in range(count)]
    split = mix.val_split(files, problems, 0)
    assert all(0 < len(d) <= mix.VAL_PIECE for d in split.documents)
    stream = np.concatenate(split.documents)
    assert sorted(stream) == sorted(np.concatenate([*files, *problems]))
    assert all(stream[at - 1] == EOS_ID for at in np.flatnonzero(stream == 2) if at)
    assert (split.problems, split.problem_tokens) == (count, 3 * count)


def test_a_split_is_every_document_once() -> None:
    files, problems = [np.array([n]) for n in range(5)], [np.array([n, n]) for n in range(5, 9)]
    split = mix.shuffled(files, problems, 0)
    assert sorted(int(d[0]) for d in split.documents) == list(range(9))
    assert (split.problems, split.problem_tokens) == (4, 8)
