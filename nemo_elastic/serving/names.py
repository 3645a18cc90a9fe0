# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a client may write for `model`: a member, the family, or a pair of members that share an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_elastic.core.manifest import FILE
from nemo_elastic.errors import bad
from nemo_elastic.formats.registry import read_shapes

#: between the member that thinks and the one that answers
THEN = ">"


@dataclass(frozen=True)
class Choice:
    """Who answers a request.

    Attributes:
        member: who answers, or who thinks where there is a `then`.
        then: who takes over when the thinking ends; None where one member does everything.
    """

    member: str
    then: str | None = None

    @property
    def name(self) -> str:
        """As a client writes it."""
        return self.member if self.then is None else f"{self.member}{THEN}{self.then}"


class Names:
    """The names of one family.

    Args:
        members: names, largest first.
        family: other names of the largest member, such as that of the folder. A member's own name goes first.
        unlisted: names of it that are taken, but told to nobody: its path.
    """

    def __init__(self, members: Sequence[str], family: Sequence[str] = (), unlisted: Sequence[str] = ()) -> None:
        self.members, self.unlisted = tuple(members), tuple(unlisted)
        taken = {*self.members, *self.pairs, ""}
        self.aliases = tuple(dict.fromkeys(name for name in family if name not in taken))

    @property
    def largest(self) -> str:
        """Who answers where nobody is named."""
        return self.members[0]

    @property
    def pairs(self) -> tuple[str, ...]:
        """A smaller member that thinks, a larger one that answers."""
        smaller = {large: self.members[i + 1 :] for i, large in enumerate(self.members)}
        return tuple(Choice(small, large).name for large in self.members for small in smaller[large])

    @property
    def listed(self) -> tuple[str, ...]:
        """What `/v1/models` lists: members, largest first, then other names of the largest, then pairs."""
        return (*self.members, *self.aliases, *self.pairs)

    def read(self, model: Any) -> Choice:
        """What a client wrote as the name of a model; nothing is the largest member.

        Raises:
            ElasticError: no such member.
        """
        if model is None or model == "":
            return Choice(self.largest)
        if not isinstance(model, str):
            raise bad("model", model, f"one of {self._told()}")
        if model in self.members:
            return Choice(model)
        if model in (*self.aliases, *self.unlisted):
            return Choice(self.largest)
        if model in self.pairs:
            return Choice(*model.split(THEN))
        raise bad("model", model, f"one of {self._told()}, or two members as SMALL{THEN}LARGE")

    def from_extra(self, extra: Mapping[str, Any] | None) -> Choice:
        """What a request brings as `vllm_xargs`: `member` and `then`.

        Raises:
            ElasticError: no such member.
        """
        given = extra or {}
        found = {key: given[key] for key in ("member", "then") if given.get(key) not in (None, "")}
        for key, name in found.items():
            if name not in self.members:
                raise bad(f"vllm_xargs.{key}", name, f"one of {self._told()}")
        choice = Choice(found.get("member", self.largest), found.get("then"))
        if choice.then is not None and choice.name not in self.pairs:
            raise bad("vllm_xargs.then", choice.then, f"a member that is larger than {choice.member}")
        return choice

    def _told(self) -> str:
        return ", ".join((*self.members, *self.aliases))


def family_names(folder: str | Path) -> Names | None:
    """The names of a family folder; None for a folder that is no family.

    Raises:
        ElasticError: the family is damaged.
    """
    if not (Path(folder) / FILE).is_file():
        return None
    shapes = read_shapes(folder)
    return Names(tuple(shapes.members), (Path(folder).resolve().name,), (str(folder),))
