# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.data import reasoning
from nemo_elastic.data.reasoning import Problem, generate, long_weights, mixture, parse_answer, short_weights
from nemo_elastic.data.tasks import TASKS
from nemo_elastic.errors import ElasticError

CELLS = [(name, level) for name, task in TASKS.items() for level in range(1, len(task.levels) + 1)]
LINE = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), min_size=1)


@pytest.mark.parametrize(("task", "level"), CELLS)
def test_reasoning_gym_accepts_every_answer(task: str, level: int) -> None:
    gym = pytest.importorskip("reasoning_gym")
    for problem in islice(generate(task, level, 7), 20):
        assert problem.is_solved_by(problem.completion)
        assert problem.text == problem.prompt + problem.completion
        assert problem.prompt.endswith("\nsteps:")
    # the same check as in generate, from outside: its first question under the generator's own scoring
    problem = next(generate(task, level, 7))
    start = int.from_bytes(reasoning.hashlib.sha256(f"7 {task} {level}".encode()).digest()[:6], "big")
    dataset = gym.create_dataset(task, seed=start, size=1, **TASKS[task].levels[level - 1])
    assert dataset.score_answer(TASKS[task].to_gym(problem.answer), dataset[0]) == 1.0


def test_an_answer_that_the_scoring_refuses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "gcd", replace(TASKS["gcd"], to_gym=lambda answer: answer + "1"))
    with pytest.raises(ElasticError, match="gcd does not accept our answer"):
        next(generate("gcd", 1, 0))


def test_the_seed_fixes_everything() -> None:
    first, again, other = (list(islice(mixture(short_weights(), seed), 200)) for seed in (5, 5, 6))
    assert first == again
    assert len({p.question for p in first} & {p.question for p in other}) < 60  # easy levels have few questions
    assert {(p.task, p.level) for p in first} <= set(short_weights())
    assert {p.task for p in islice(mixture(long_weights(), 0), 100)} == set(TASKS)


def test_a_tenth_of_the_questions_is_held_out_whatever_the_seed() -> None:
    by_question: dict[str, bool] = {}
    for seed in (1, 2):
        for problem in islice(generate("number_sorting", 2, seed), 2000):
            assert by_question.setdefault(problem.question, problem.held_out) == problem.held_out
    assert 0.07 < sum(by_question.values()) / len(by_question) < 0.13


@given(st.lists(LINE, max_size=4), LINE.filter(str.strip))
def test_answers_are_read_back(steps: list[str], answer: str) -> None:
    steps = [s for s in steps if not s.startswith("answer: ")]
    problem = Problem("x", 1, "q", tuple(steps), answer.strip())
    assert parse_answer(problem.text) == parse_answer(problem.completion + "question: more\n") == problem.answer
    assert problem.is_solved_by(problem.completion)
    assert not problem.is_solved_by(problem.completion[:-1]), "an answer that did not end is no answer"
    assert not problem.is_solved_by(problem.completion.replace("answer:", "result:"))


@pytest.mark.parametrize(("task", "level", "message"), [("chess", 1, "task: 'chess'"), ("gcd", 9, "level: 9")])
def test_unknown_problems_are_refused(task: str, level: int, message: str) -> None:
    with pytest.raises(ElasticError, match=message):
        next(generate(task, level, 0))


def test_length_classes() -> None:
    problem = Problem("x", 1, "q", (), "a")
    assert problem.with_tokens(128).length == "short" and problem.with_tokens(129).length == "long"
