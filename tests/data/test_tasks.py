# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.data import tasks
from nemo_elastic.data.reasoning import generate


@given(st.integers(0, 999), st.lists(st.tuples(st.sampled_from("+-"), st.integers(0, 999)), min_size=1))
def test_running_sums_are_right(first: int, rest: list[tuple[str, int]]) -> None:
    expression = " ".join([str(first), *(f"{operator} {term}" for operator, term in rest)])
    question, steps, answer = tasks.chain_sum({"expression": expression})
    assert question == expression.replace(" ", "")
    assert len(steps) == len(rest)
    for step in steps:
        left, right = step.split("=")
        assert eval(left.replace("+-", "-").replace("--", "+")) == int(right)
    assert int(answer) == eval(expression)


@given(st.integers(1, 10**8), st.integers(1, 10**8))
def test_euclid_ends_at_the_gcd(a: int, b: int) -> None:
    _, steps, answer = tasks.gcd({"numbers": [a, b]})
    assert int(answer) == math.gcd(a, b)
    for step in steps:
        left, right = step.split("=")
        assert eval(left) == int(right)
    assert steps[-1].endswith("=0")


@given(st.lists(st.integers(0, 99), min_size=1, max_size=14), st.booleans())
def test_sorting_takes_one_at_a_time(numbers: list[int], up: bool) -> None:
    metadata = {"original_numbers": [f"{n}.0" for n in numbers], "direction": "ascending" if up else "descending"}
    question, steps, answer = tasks.number_sorting(metadata)
    assert question.split()[2:] == [str(n) for n in numbers]
    assert [int(n) for n in answer.split()] == sorted(numbers, reverse=not up)
    left = list(numbers)
    for step, number in zip(steps, answer.split()):
        taken, rest = step.removeprefix("take ").split(" left ")
        left.remove(int(taken))
        assert taken == number and [int(n) for n in rest.split()] == left


@given(st.lists(st.integers(0, 40), min_size=6, max_size=6))
def test_counts_go_there_and_back(state: list[int]) -> None:
    assert tasks._all_counts(tasks._counts(state)) == " ".join(map(str, state))


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
    _, steps, answer = tasks.color_cube_rotation(metadata)
    for side, step in zip(turns, steps, strict=True):
        getattr(cube, f"rotate_{side}_to_top")()
        assert step == " ".join(cube.colors[s].value for s in gym.Side)
    assert answer == cube.colors[gym.Side.LEFT].value


def test_machines_follow_the_rules() -> None:
    """Two B make an X, one B and one C make an A, and so on: the first rule that applies, every time."""
    found = {p.question: p for p in islice(generate("string_splitting", 1, 0), 500)}
    assert found["machines A2 B1"].steps == ("A1 B1 X2 Y1", "B1 X4 Y2", "B1 X3 Y1 Z1", "B1 X2 Z2")
    assert found["machines none"].answer == "none"
    assert found["machines B1"].steps == ("B1",)


def test_the_easiest_levels_are_easy() -> None:
    for name, most in (("chain_sum", 1), ("number_sorting", 2), ("color_cube_rotation", 1)):
        assert all(len(p.steps) <= most for p in islice(generate(name, 1, 0), 100))
