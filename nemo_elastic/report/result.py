# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`metrics.json`: the figures that a finished run leaves, read leniently."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import ElasticError, bad
from ..verdicts import SHARED, wilson

VERSION = 1
#: nothing that a run measures is larger, or closer to 0; what is could not be drawn
LARGEST = 1e30
#: members of a run that can be shown; more than this is no family
MOST_NAMES = 100
_COUNT = "a count from 1"
_NUMBERS = (
    "parameters", "ratio", "loss", "perplexity", "accuracy", "untrained_loss", "unsorted_loss",
    "recovered", "hidden", "layers",
)  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """Answers to held-out problems: how many are right, of how many, and as many as a guess gets."""

    correct: int
    total: int
    guessed: int = 0

    @property
    def beats_chance(self) -> bool:
        """Whether more are right than a guess gets, by more than the share's interval."""
        return self.interval[0] * self.total > self.guessed

    @property
    def interval(self) -> tuple[float, float]:
        """Of 95% around the share."""
        return wilson(self.correct, self.total)

    def to_json(self) -> dict[str, Any]:
        return {"correct": self.correct, "total": self.total, "guessed": self.guessed, "interval": list(self.interval)}


@dataclass(frozen=True)
class MemberResult:
    """Final figures of one member; None for what was not measured.

    Attributes:
        name: Of the member; the parent is the first.
        loss: Held-out nats per token after training; perplexity is its exponential.
        accuracy: Share of problems answered correctly.
        answers: What that share is of; answers_by_task: the same by task.
        untrained_loss: Of the same shape cut from the sorted parent before training; unsorted_loss: from the parent
            as it was stored.
        recovered: Share of the gap between the untrained cut and the parent that training closed; None where
            the gap is too small (see `verdicts.closed`).
    """

    name: str
    parameters: float | None = None
    ratio: float | None = None
    loss: float | None = None
    perplexity: float | None = None
    accuracy: float | None = None
    answers: Answers | None = None
    answers_by_task: Mapping[str, Answers] = field(default_factory=dict)
    untrained_loss: float | None = None
    unsorted_loss: float | None = None
    recovered: float | None = None
    hidden: float | None = None
    layers: float | None = None
    pattern: str = ""


@dataclass(frozen=True)
class Results:
    """Final figures of a run.

    Attributes:
        members: The parent first, then from the largest.
        seconds: Phase -> wall time; total: of the whole run.
        bigram_loss: Held-out nats per token of a bigram model of the same tokens.
        parent_end: Held-out loss of the parent after its training.
        targets: What the run was held against, JSON values.
    """

    members: tuple[MemberResult, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    total: float | None = None
    bigram_loss: float | None = None
    parent_end: float | None = None
    targets: Mapping[str, Any] = field(default_factory=dict)

    @property
    def before(self) -> MemberResult | None:
        """The parent before elastic training: the first, where a member of its size follows."""
        first, second = (*self.members, None, None)[:2]
        same = first and second and first.parameters is not None and first.parameters == second.parameters
        return first if same else None

    def member(self, name: str) -> MemberResult | None:
        return next((m for m in self.members if m.name == name), None)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str) -> Results:
        """Read the file's content.

        Raises:
            ElasticError: Another version, or a part of the wrong type.
        """
        if data.get("version") != VERSION:
            raise bad(f"{where}: version", data.get("version"), f"this release reads version {VERSION}")
        parent = _mapping(data, "parent_loss", where)
        rows = data.get("members", [])
        if not isinstance(rows, list):
            raise ElasticError(f"{where}: members is not a list")
        few(rows, f"{where}: members")
        members = [_member(row, f"{where}: members[{i}]") for i, row in enumerate(rows)]
        times = _mapping(data, "seconds", where)
        seconds = {k: float(v) for k, v in times.items() if _number(v, where) is not None}
        return cls(
            members=tuple(_judged(m, members[0].loss) for m in members),
            total=seconds.pop("total", None),
            seconds=seconds,
            bigram_loss=_number(data.get("bigram_loss"), f"{where}: bigram_loss"),
            parent_end=_number(parent.get("end"), f"{where}: parent_loss.end"),
            targets=_mapping(data, "targets", where),
        )


def _member(row: Any, where: str) -> MemberResult:
    if not isinstance(row, dict) or not isinstance(row.get("name"), str) or not row["name"]:
        raise ElasticError(f"{where}: not a mapping with a name")
    values = {key: _number(row.get(key), f"{where}.{key}") for key in _NUMBERS}
    pattern = row.get("pattern") or ""
    if not isinstance(pattern, str):
        raise bad(f"{where}.pattern", pattern, "text")
    answers = _answers(row.get("answers"), f"{where}.answers")
    by_task = _mapping(_mapping(row, "answers", where), "by_task", f"{where}.answers")
    return MemberResult(
        name=row["name"], pattern=pattern, answers=answers,
        answers_by_task={k: a for k, v in by_task.items() if (a := _answers(v, f"{where}.answers.by_task.{k}"))},
        **values,
    )  # fmt: skip


def _judged(m: MemberResult, parent_loss: float | None) -> MemberResult:
    """Without a share of a gap that is none."""
    if m.untrained_loss is None or parent_loss is None:
        return m
    return m if m.untrained_loss - parent_loss >= SHARED else replace(m, recovered=None)


def _answers(data: Any, where: str) -> Answers | None:
    """What `evaluation.Accuracy.to_json` gives of one model or task."""
    if data is None:
        return None
    fields = {"guessed": 0, **data} if isinstance(data, dict) else {}
    counts: list[Any] = [fields.get(key) for key in ("correct", "total", "guessed")]
    if any(type(n) is not int for n in counts) or not 0 <= min(counts) <= max(counts) == counts[1] or not (
        1 <= counts[1] <= LARGEST
    ):  # fmt: skip
        raise bad(where, data, "counts correct, guessed and total, none above the last")
    return Answers(*counts)


def few(members: Sized, where: str) -> None:
    """Raise where there are more members than a picture has room for."""
    if len(members) > MOST_NAMES:
        raise bad(where, len(members), f"at most {MOST_NAMES} can be shown")


def _mapping(data: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = data.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ElasticError(f"{where}: {key} is not a mapping")
    return value


def _number(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
        raise bad(where, value, f"a number between {-LARGEST:g} and {LARGEST:g}, or null")
    return value if abs(value) >= 1 / LARGEST else 0.0
