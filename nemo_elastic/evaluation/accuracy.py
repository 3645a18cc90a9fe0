# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Accuracy on held-out problems with worked solutions, and on questions about a document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_elastic.data.encoded import end_of
from nemo_elastic.data.reasoning import Problem
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.tokenizer import FamilyTokenizer
from nemo_elastic.io.values import integer
from nemo_elastic.verdicts import wilson

from .scoring import Generates, greedy_answers


@dataclass(frozen=True)
class Answer:
    """One problem and a model's answer.

    Attributes:
        problem: the problem.
        text: the model's continuation of `problem.prompt`.
        correct: whether the first complete answer in it is the right one.
    """

    problem: Problem
    text: str
    correct: bool


@dataclass(frozen=True)
class Accuracy:
    """Answers of one model, in the order of the problems."""

    answers: tuple[Answer, ...]

    @property
    def total(self) -> int:
        return len(self.answers)

    @property
    def correct(self) -> int:
        return sum(a.correct for a in self.answers)

    @property
    def share(self) -> float:
        """Correct answers of all, 0 to 1."""
        return self.correct / self.total

    @property
    def guessed(self) -> int:
        """Problems solved without reading them, by each task's most frequent answer."""
        tasks = self.by(lambda p: p.task).values()
        return sum(Counter(a.problem.answer for a in task.answers).most_common(1)[0][1] for task in tasks)

    @property
    def interval(self) -> tuple[float, float]:
        """95% confidence interval (Wilson) of the share of correct answers."""
        return wilson(self.correct, self.total)

    def by(self, key: Callable[[Problem], Any]) -> dict[Any, Accuracy]:
        """The same for each value of `key`, in ascending order: `by(lambda p: p.task)`."""
        groups: dict[Any, list[Answer]] = {}
        for answer in self.answers:
            groups.setdefault(key(answer.problem), []).append(answer)
        return {value: Accuracy(tuple(groups[value])) for value in sorted(groups)}

    def to_json(self) -> dict[str, Any]:
        """Counts with their intervals: in all, by task, by level, and by length class."""

        def counts(part: Accuracy) -> dict[str, Any]:
            counted = {"correct": part.correct, "total": part.total, "guessed": part.guessed, "accuracy": part.share}
            return counted | {"interval": list(part.interval)}

        out = counts(self)
        for name in ("task", "level", "length"):
            groups = self.by(lambda p, name=name: getattr(p, name))
            out[f"by_{name}"] = {str(value): counts(part) for value, part in groups.items()}
        return out


def answer_accuracy(
    member: Generates,
    problems: Sequence[Problem],
    tokenizer_dir: str | Path,
    max_new_tokens: int | None = None,
    batch: int = 128,
) -> Accuracy:
    """Generate answers to held-out problems and compare them.

    The tokenizer is that of the model's training. By default an answer may have a quarter more tokens than the worked
    solution, and 8.
    """
    if not problems:
        raise ElasticError("problems: give at least one")
    batch = integer("batch", batch, 1, "a positive integer")
    if max_new_tokens is not None:
        max_new_tokens = integer("max_new_tokens", max_new_tokens, 1, "a positive integer")
    opened = FamilyTokenizer.read(Path(tokenizer_dir))
    tokenizer, end = opened.tokenizer, end_of(opened, Path(tokenizer_dir))

    def encode(texts: Iterable[str]) -> list[list[int]]:
        return [e.ids for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    # In training a problem follows the end of another document.
    prompts = [[end, *ids] for ids in encode(p.prompt for p in problems)]
    solutions = [len(ids) for ids in encode(p.text for p in problems)]
    limits = [max_new_tokens or _limit(n + 1 - len(p)) for n, p in zip(solutions, prompts, strict=True)]
    new = greedy_answers(member, prompts, limits, end, batch)
    texts = tokenizer.decode_batch(new, skip_special_tokens=True)
    return Accuracy(tuple(Answer(p, t, p.is_solved_by(t)) for p, t in zip(problems, texts, strict=True)))


def _limit(solution: int) -> int:
    return solution + solution // 4 + 8
