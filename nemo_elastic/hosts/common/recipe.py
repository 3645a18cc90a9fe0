# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A host's recipe, as rules see it: fields by one name on every host, each at the dotted path that the host has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError, bad

from .changes import Changes, made_by

__all__ = ["Recipe", "TokenFiles"]

#: a field, the token files that it names, and shares of their splits; None where files are not shared
TokenFiles = tuple[str, Sequence[str], str | None]


class Recipe(ABC):
    """A recipe as the rules see it. A host adds a table of paths, one of refused values, and a few functions.

    Args:
        made: the host's own recipe.
        changes: if they began before.
        ranked: what a ranking has left, where the run starts from that.

    Attributes:
        paths: name -> dotted path, as an override spells it. Other names are paths themselves; a field that a host
            has not is None.
        refused: field -> the values that a family can have, and the words for them, which follow `needs` in errors.
        checkpoint: what the host calls a checkpoint of its own.
        text: how a recipe names text.
        ranking: how one starts from a ranking.
    """

    paths: Mapping[str, str]
    refused: Mapping[str, tuple[Collection[Any], str]]
    needs: str = ""
    checkpoint: str = "checkpoint"
    text: str
    ranking: str

    def __init__(self, made: Any, changes: Changes | None = None, ranked: str | None = None) -> None:
        self.made, self.ranked = made, ranked
        self.changes = changes or Changes(made)

    def path(self, name: str) -> str:
        return self.paths.get(name, name)

    def at(self, name: str) -> str:
        """A field in errors."""
        return f"recipe.{self.path(name)}"

    def bad(self, name: str, allowed: str) -> ElasticError:
        """The error for a field with a value that is not allowed, to be raised."""
        value = self.get(name)
        return bad(self.at(name), getattr(made_by(value), "__name__", value), allowed)

    def get(self, name: str) -> Any:
        value = self.made
        for part in self.path(name).split("."):
            value = getattr(value, part, None)
        return value

    def ranks(self, kind: str) -> int:
        """Ranks along a kind of parallelism."""
        return self.get(kind) or 1

    def put(self, name: str, value: Any, reason: str = "") -> None:
        """Set a field that has another value; the reason is printed with the change."""
        if self.get(name) != value:
            self._set(name, value)
        if reason:
            self.changes.reasons[self.path(name)] = reason

    def fill(self, fields: Mapping[str, Any]) -> None:
        """Write down the fields that the host has."""
        for name in fields.keys() & self.paths.keys():
            self._set(name, fields[name])

    def _set(self, name: str, value: Any) -> None:
        owner, _, last = self.path(name).rpartition(".")
        setattr(self.get(owner) if owner else self.made, last, value)

    @property
    def starts_ranked(self) -> bool:
        """Whether the first stage finds a ranking, of another run's or its own checkpoints."""
        folder = self.get("own checkpoints")
        return self.ranked is not None or (folder is not None and Path(folder).exists())

    def warmup(self, total_steps: int) -> tuple[str, int] | None:
        """Steps of warm-up, and the field that says so."""
        steps = self.get("warmup")
        return None if steps is None else (self.at("warmup"), steps)

    @abstractmethod
    def check_kind(self) -> None:
        """Raise unless the recipe trains a Nemotron-H that is not elastic yet."""

    @abstractmethod
    def check_data(self, block: ElasticConfig, stage: int) -> None:
        """Raise for data of the host's own kinds that no family can be trained on."""

    @property
    @abstractmethod
    def answers(self) -> bool:
        """Whether the data are prompts and answers: only answers count in the loss."""

    @abstractmethod
    def random_data(self) -> str | None:
        """What makes random tokens, None where the data are text."""

    @abstractmethod
    def data(self) -> Mapping[str, Sequence[str]]:
        """What the data are read from, by the field that names it."""

    @abstractmethod
    def token_files(self) -> TokenFiles:
        """The files to be looked at before a run."""

    @abstractmethod
    def vocabularies(self) -> Mapping[str, int | None]:
        """Sizes that have to fit the teacher's vocabulary; None where one is not known before the run."""

    @abstractmethod
    def vocabulary(self) -> int | None:
        """Rows of the embedding, padded as the host pads them; None where a tokenizer would have to be downloaded."""

    @abstractmethod
    def other_schedule(self, total_steps: int) -> tuple[str, str] | None:
        """A field by which rates would fall otherwise than a family's, and its value."""
