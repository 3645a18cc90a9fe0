# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Answers are counted right where they are: of problems worked out in text, and of questions by distance."""

from __future__ import annotations

import pytest

from nemo_elastic.data.build import EOS_ID, save_tokenizer, train_tokenizer
from nemo_elastic.data.reasoning import Problem
from nemo_elastic.errors import ElasticError
from nemo_elastic.evaluation import answer_accuracy
from nemo_elastic.verdicts import wilson

PROBLEMS = [
    Problem("chain_sum", 1, "12+34", ("12+34=46",), "46", 20),
    Problem("chain_sum", 2, "1+2+3", ("1+2=3", "3+3=6"), "6", 24),
    Problem("gcd", 1, "gcd 48 18", ("48%18=12", "18%12=6", "12%6=0"), "6", 30),
    Problem("gcd", 3, "gcd 9 3", ("9%3=0",), "3", 200),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer([p.text for p in PROBLEMS], 300), path)
    return path


class Replay:
    """Says what it is given for each question, and remembers how it was asked."""

    def __init__(self, folder, says):
        from nemo_elastic.formats.tokenizer import load_tokenizer

        self.tokenizer, self.says, self.calls = load_tokenizer(folder), says, []

    def generate(self, prompts, max_new_tokens, stop_ids):
        self.calls.append((prompts, max_new_tokens, stop_ids))
        assert all(ids[0] == EOS_ID for ids in prompts), "in training a problem follows the end of a document"
        texts = [self.says[self.tokenizer.decode(ids[1:])] for ids in prompts]
        return [[*self.tokenizer.encode(t).ids, EOS_ID] for t in texts]


def test_right_and_wrong_answers_are_counted_by_task_level_and_length(folder):
    says = {p.prompt: p.completion for p in PROBLEMS}
    says[PROBLEMS[1].prompt] = " 1+2=3\nanswer: 7\n"
    says[PROBLEMS[3].prompt] = " 9%3=0\nanswer: 3"  # not complete: no end of line
    result = answer_accuracy(Replay(folder, says), PROBLEMS, folder, batch=3)
    assert [a.correct for a in result.answers] == [True, False, True, False]
    assert [a.problem for a in result.answers] == PROBLEMS
    assert result.answers[0].text == PROBLEMS[0].completion
    figures = result.to_json()
    assert (figures["correct"], figures["total"], figures["accuracy"]) == (2, 4, 0.5)
    assert figures["by_task"]["gcd"] == {
        "correct": 1, "total": 2, "guessed": 1, "accuracy": 0.5, "interval": list(wilson(1, 2)),
    }  # fmt: skip
    assert figures["by_level"]["1"]["correct"] == 2 and figures["by_level"]["3"]["correct"] == 0
    assert {name: row["correct"] for name, row in figures["by_length"].items()} == {"long": 0, "short": 2}


def test_limits_leave_room_for_the_worked_solution(folder):
    says = {p.prompt: p.completion for p in PROBLEMS}
    model = Replay(folder, says)
    answer_accuracy(model, PROBLEMS, folder)
    prompts, limits, stops = model.calls[0]
    assert tuple(stops) == (EOS_ID,)
    needed = {p.prompt: len(model.tokenizer.encode(p.completion).ids) for p in PROBLEMS}
    for ids, limit in zip(prompts, limits):
        need = needed[model.tokenizer.decode(ids[1:])]
        assert limit == need + need // 4 + 8
    answer_accuracy(model, PROBLEMS, folder, max_new_tokens=5)
    assert list(model.calls[1][1]) == [5] * 4
    assert [len(p) for p, _, _ in model.calls] == [4, 4]


def test_refused(folder):
    model = Replay(folder, {})
    with pytest.raises(ElasticError, match="give at least one"):
        answer_accuracy(model, [], folder)
    with pytest.raises(ElasticError, match="max_new_tokens"):
        answer_accuracy(model, PROBLEMS, folder, max_new_tokens=0)
