# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Model names of requests: a member or an extra shape, the family, a pair of members, or `auto`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_elastic.core.cost import parameters
from nemo_elastic.core.manifest import FILE
from nemo_elastic.errors import bad
from nemo_elastic.formats.folders import read_shapes
from nemo_elastic.plugins import load_plugins

from .calibration import Calibration, check_cost, read_calibration

#: between the member that thinks and the one that answers
THEN = ">"
#: model name for which a calibrated family chooses a member; its cost setting is `cost` in `vllm_xargs`
AUTO, FIELD = "auto", "cost"
#: the cost setting where neither the server nor the request has one
COST = 0.3


@dataclass(frozen=True)
class Choice:
    """Who answers a request.

    Attributes:
        member: who answers, or who thinks where there is a `then`.
        then: the member that continues when the thinking ends; None without a second member.
        cost: the cost setting where the family chooses: `member` then reads the prompt first, and answers it at 0
            and at 1. None where a client has chosen.
    """

    member: str
    then: str | None = None
    cost: float | None = None

    @property
    def name(self) -> str:
        """Model name of a request: `auto`, a member, or two members of a pair."""
        if self.cost is not None:
            return AUTO
        return self.member if self.then is None else f"{self.member}{THEN}{self.then}"


class Names:
    """The names of one family.

    Args:
        members: names, largest first.
        family: other names of the largest member, such as that of the folder. A member's name has precedence.
        unlisted: names of it that are taken, but listed nowhere: its path.
        calibration: None where the family was not calibrated, and there is no `auto`.
        cost: the cost setting of `auto` where a request has none.
        extras: names of extra shapes, which are in no pair and not chosen by `auto`.
    """

    def __init__(
        self,
        members: Sequence[str],
        family: Sequence[str] = (),
        unlisted: Sequence[str] = (),
        calibration: Calibration | None = None,
        cost: float = COST,
        extras: Sequence[str] = (),
    ) -> None:
        self.members, self.unlisted, self.extras = tuple(members), tuple(unlisted), tuple(extras)
        self.calibration, self.cost = calibration, cost
        taken = {*self.shapes, *self.pairs, *self.autos, ""}
        self.aliases = tuple(dict.fromkeys(name for name in family if name not in taken))

    @property
    def largest(self) -> str:
        """Who answers where nobody is named."""
        return self.members[0]

    @property
    def shapes(self) -> tuple[str, ...]:
        """All that can run: members, largest first, then extra shapes."""
        return (*self.members, *self.extras)

    @property
    def autos(self) -> tuple[str, ...]:
        """The name under which the family chooses by itself, if it can; a shape of that name goes first."""
        return () if self.calibration is None or AUTO in self.shapes else (AUTO,)

    @property
    def pairs(self) -> dict[str, Choice]:
        """A smaller member that thinks and a larger one that answers, by name."""
        pairs = [Choice(small, large) for i, large in enumerate(self.members) for small in self.members[i + 1 :]]
        return {pair.name: pair for pair in pairs}

    @property
    def listed(self) -> tuple[str, ...]:
        """Models of `/v1/models`: members, largest first, extra shapes, other names of the largest, `auto`, pairs."""
        return (*self.shapes, *self.aliases, *self.autos, *self.pairs)

    def read(self, model: Any) -> Choice:
        """Choice of a request's model name; an empty one is the largest member."""
        if model is None or model == "":
            return Choice(self.largest)
        if not isinstance(model, str):
            raise bad("model", model, f"one of {self._all()}")
        if model in self.shapes:
            return Choice(model)
        if model in (*self.aliases, *self.unlisted):
            return Choice(self.largest)
        if model in self.autos:
            return self._auto(self.cost)
        if model in self.pairs:
            return self.pairs[model]
        raise bad("model", model, f"one of {self._all()}, or two members as SMALL{THEN}LARGE")

    def from_extra(self, extra: Mapping[str, Any] | None) -> Choice:
        """Choice of a request's `vllm_xargs`: `member` and `then`, or the member `auto` and its `cost`."""
        given = extra or {}
        if given.get("member") in self.autos:
            return self.with_cost(self._auto(self.cost), given)
        named = {key: given[key] for key in ("member", "then") if given.get(key) not in (None, "")}
        for key, name in named.items():
            if name not in self.shapes:
                raise bad(f"vllm_xargs.{key}", name, f"one of {self._all()}")
        choice = Choice(named.get("member", self.largest), named.get("then"))
        if choice.then is not None and choice.name not in self.pairs:
            raise bad("vllm_xargs.then", choice.then, f"a member that is larger than {choice.member}")
        return choice

    def with_cost(self, choice: Choice, extra: Mapping[str, Any]) -> Choice:
        """The same choice with the cost setting that a request brings."""
        if extra.get(FIELD) is None:
            return choice
        if choice.cost is None:
            allowed = f"only with the model {AUTO}, in a family that is calibrated"
            raise bad(f"vllm_xargs.{FIELD}", extra[FIELD], allowed)
        return self._auto(check_cost(extra[FIELD]))

    def _auto(self, cost: float) -> Choice:
        return Choice(self.members[0 if cost == 1 else -1], cost=cost)

    def _all(self) -> str:
        return ", ".join((*self.shapes, *self.aliases, *self.autos))


def family_names(folder: str | Path, cost: float | None = None, more: Sequence[str] = ()) -> Names | None:
    """Model names under which a family folder is served; None for a folder without `elastic.json`.

    Args:
        folder: of the family.
        cost: setting of the model `auto`, from 0 (smallest member) to 1 (largest); `COST` if not given.
        more: further names of the largest member.
    """
    if not (Path(folder) / FILE).is_file():
        return None
    load_plugins()
    shapes = read_shapes(folder)
    names, cost = (*more, Path(folder).resolve().name), COST if cost is None else cost
    calibration = read_calibration(shapes.folder, {n: parameters(shapes.parent, m) for n, m in shapes.members.items()})
    return Names(tuple(shapes.members), names, (str(folder),), calibration, cost, tuple(shapes.extras))
