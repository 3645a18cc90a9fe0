# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`metrics.json`: the figures that a finished run leaves, read leniently."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from typing import Any

from ..errors import ElasticError, bad

VERSION = 1
#: nothing that a run measures is larger, or closer to 0; what is could not be drawn
LARGEST = 1e30
#: members of a run that can be shown; more than this is no family
MOST_NAMES = 100
_NUMBERS = (
    "parameters", "ratio", "memory_bytes", "loss", "perplexity", "accuracy", "untrained_loss", "unsorted_loss",
    "recovered", "hidden", "layers",
)  # fmt: skip


@dataclass(frozen=True)
class MemberResult:
    """Final figures of one member; None for what was not measured.

    Attributes:
        name: Of the member; the parent is the first.
        loss: Held-out nats per token after training; perplexity is its exponential.
        accuracy: Share of problems answered correctly; accuracy_by_task: the same by task.
        untrained_loss: Of the same shape cut from the sorted parent before training; unsorted_loss: from the parent
            as it was stored.
        recovered: Share of the gap between the untrained cut and the parent that training closed.
    """

    name: str
    parameters: float | None = None
    ratio: float | None = None
    memory_bytes: float | None = None
    loss: float | None = None
    perplexity: float | None = None
    accuracy: float | None = None
    accuracy_by_task: Mapping[str, float] = field(default_factory=dict)
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
        seconds: Phase -> wall time.
        bigram_loss: Held-out nats per token of a bigram model of the same tokens.
        parent_start, parent_end: Held-out loss of the parent around its training.
        targets: What the run was held against, JSON values.
    """

    members: tuple[MemberResult, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    bigram_loss: float | None = None
    parent_start: float | None = None
    parent_end: float | None = None
    targets: Mapping[str, Any] = field(default_factory=dict)

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
        return cls(
            members=tuple(_member(row, f"{where}: members[{i}]") for i, row in enumerate(rows)),
            seconds={
                k: float(v) for k, v in _mapping(data, "seconds", where).items() if _number(v, where) is not None
            },
            bigram_loss=_number(data.get("bigram_loss"), f"{where}: bigram_loss"),
            parent_start=_number(parent.get("start"), f"{where}: parent_loss.start"),
            parent_end=_number(parent.get("end"), f"{where}: parent_loss.end"),
            targets=_mapping(data, "targets", where),
        )


def _member(row: Any, where: str) -> MemberResult:
    if not isinstance(row, dict) or not isinstance(row.get("name"), str) or not row["name"]:
        raise ElasticError(f"{where}: not a mapping with a name")
    values = {key: _number(row.get(key), f"{where}.{key}") for key in _NUMBERS}
    tasks = _mapping(row, "accuracy_by_task", where)
    known = {k: v for k, raw in tasks.items() if (v := _number(raw, f"{where}.accuracy_by_task.{k}")) is not None}
    pattern = row.get("pattern") or ""
    if not isinstance(pattern, str):
        raise bad(f"{where}.pattern", pattern, "text")
    return MemberResult(name=row["name"], pattern=pattern, accuracy_by_task=known, **values)


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
