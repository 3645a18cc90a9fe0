# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.data import reasoning
from nemo_elastic.data.reasoning import TASKS, Problem, generate, long_weights, mixture, parse_answer, short_weights
from nemo_elastic.errors import ElasticError

LINE = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), min_size=1)


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


# ------------------------------------------------------------------ the tasks


@given(st.integers(0, 999), st.lists(st.tuples(st.sampled_from("+-"), st.integers(0, 999)), min_size=1))
def test_running_sums_are_right(first: int, rest: list[tuple[str, int]]) -> None:
    expression = " ".join([str(first), *(f"{operator} {term}" for operator, term in rest)])
    question, steps, answer = reasoning.chain_sum({"expression": expression})
    assert question == expression.replace(" ", "")
    assert len(steps) == len(rest)
    for step in steps:
        left, right = step.split("=")
        assert eval(left.replace("+-", "-").replace("--", "+")) == int(right)
    assert int(answer) == eval(expression)


@given(st.integers(1, 10**8), st.integers(1, 10**8))
def test_euclid_ends_at_the_gcd(a: int, b: int) -> None:
    _, steps, answer = reasoning.gcd({"numbers": [a, b]})
    assert int(answer) == math.gcd(a, b)
    for step in steps:
        left, right = step.split("=")
        assert eval(left) == int(right)
    assert steps[-1].endswith("=0")


@given(st.lists(st.integers(0, 99), min_size=1, max_size=14), st.booleans())
def test_sorting_takes_one_at_a_time(numbers: list[int], up: bool) -> None:
    metadata = {"original_numbers": [f"{n}.0" for n in numbers], "direction": "ascending" if up else "descending"}
    question, steps, answer = reasoning.number_sorting(metadata)
    assert question.split()[2:] == [str(n) for n in numbers]
    assert [int(n) for n in answer.split()] == sorted(numbers, reverse=not up)
    left = list(numbers)
    for step, number in zip(steps, answer.split()):
        taken, rest = step.removeprefix("take ").split(" left ")
        left.remove(int(taken))
        assert taken == number and [int(n) for n in rest.split()] == left


@given(st.lists(st.sampled_from(["right", "front", "left", "back", "bottom"]), min_size=1, max_size=20))
def test_every_turn_of_the_cube_is_that_of_reasoning_gym(turns: list[str]) -> None:
    gym = pytest.importorskip("reasoning_gym.cognition.color_cube_rotation")
    colors = list(gym.Color)[:6]
    cube = gym.Cube(dict(zip(gym.Side, colors)))
    metadata = {
        "initial_state": {side.value: color.value for side, color in cube.colors.items()},
        "rotations": turns,
        "target_side": "left",
    }
    _, steps, answer = reasoning.color_cube_rotation(metadata)
    for side, step in zip(turns, steps, strict=True):
        getattr(cube, f"rotate_{side}_to_top")()
        assert step == " ".join(cube.colors[s].value for s in gym.Side)
    assert answer == cube.colors[gym.Side.LEFT].value


def test_machines_follow_the_rules() -> None:
    """Two B make an X, one B and one C make an A, and so on: the first rule that applies, every time."""
    actual = {p.question: p for p in islice(generate("string_splitting", 1, 0), 500)}
    assert actual["machines A2 B1"].steps == ("A1 B1 X2 Y1", "B1 X4 Y2", "B1 X3 Y1 Z1", "B1 X2 Z2")
    assert actual["machines none"].answer == "none"
    assert actual["machines B1"].steps == ("B1",)
