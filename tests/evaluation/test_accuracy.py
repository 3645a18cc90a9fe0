# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Answers are counted right where they are: of problems worked out in text, and of questions by distance."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nemo_elastic.core.family import Parent
from nemo_elastic.data.build import EOS_ID, save_tokenizer, train_tokenizer
from nemo_elastic.data.reasoning import Problem
from nemo_elastic.errors import ElasticError
from nemo_elastic.evaluation import answer_accuracy
from nemo_elastic.nn.nemotron_h import NemotronH
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
    assert figures["by_length"] == {
        "long": {"correct": 0, "total": 1, "guessed": 1, "accuracy": 0.0, "interval": list(wilson(0, 1))},
        "short": {
            "correct": 2,
            "total": 3,
            "guessed": 2,
            "accuracy": pytest.approx(2 / 3),
            "interval": list(wilson(2, 3)),
        },
    }


def test_limits_leave_room_for_the_worked_solution(folder):
    says = {p.prompt: p.completion for p in PROBLEMS}
    model = Replay(folder, says)
    answer_accuracy(model, PROBLEMS, folder)
    prompts, limits, stops = model.calls[0]
    assert tuple(stops) == (EOS_ID,)
    needed = {p.prompt: len(model.tokenizer.encode(p.completion).ids) + 1 for p in PROBLEMS}
    for ids, limit in zip(prompts, limits):
        need = needed[model.tokenizer.decode(ids[1:])]
        assert need <= limit <= 1.3 * need + 9
    answer_accuracy(model, PROBLEMS, folder, max_new_tokens=5)
    assert list(model.calls[1][1]) == [5] * 4
    assert [len(p) for p, _, _ in model.calls] == [4, 4]


def test_a_model_that_learned_the_problems_solves_them(folder):
    """End to end: prompts, decoding and parsing fit what a model was trained on."""
    from nemo_elastic.formats.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder)
    parent = Parent(
        "M-M*-", hidden=32, vocab=300, ffn=64, mamba_heads=4, mamba_head_dim=8, mamba_groups=2, state=8,
        attention_heads=4, kv_heads=2, attention_head_dim=8,
    )  # fmt: skip
    model = NemotronH.random(parent)
    before = answer_accuracy(model, PROBLEMS[:2], folder)
    documents = [[EOS_ID, *tokenizer.encode(p.text).ids, EOS_ID] for p in PROBLEMS[:2]]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        for ids in documents:
            logits = model(torch.tensor([ids[:-1]]))
            F.cross_entropy(logits[0], torch.tensor(ids[1:])).backward()
        optimizer.step()
    after = answer_accuracy(model, PROBLEMS[:2], folder)
    assert before.correct == 0
    assert after.correct == 2 and [a.text for a in after.answers] == [p.completion for p in PROBLEMS[:2]]


def test_refused(folder, tmp_path):
    model = Replay(folder, {})
    with pytest.raises(ElasticError, match="give at least one"):
        answer_accuracy(model, [], folder)
    with pytest.raises(ElasticError, match="no tokenizer"):
        answer_accuracy(model, PROBLEMS, tmp_path)
    with pytest.raises(ElasticError, match="max_new_tokens"):
        answer_accuracy(model, PROBLEMS, folder, max_new_tokens=0)
