# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Family: the named members of one parent, and `elastic.json`, the file that describes them.

A family may also name extra shapes: any shape inside the parent, chosen after training, for example for a task. Extras
need not be nested in each other.

The file repeats computed figures (parameters, memory, blocks) for people and other programs; they are not read here.
An unknown field is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from nemo_elastic.core.budget import NAME, AxisConfig, Budget, check_names
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent, Subnet, choices_of
from nemo_elastic.core.kinds.registry import DEPTH, per_layer_axes
from nemo_elastic.core.member import (
    DIGEST,
    Member,
    members_to_json,
    read_budget,
    read_members,
    why_not_nested,
)
from nemo_elastic.errors import ElasticError, bad, inside
from nemo_elastic.io.fields import Between, Length, Value, check, check_version, known_names, read
from nemo_elastic.io.read import read_json
from nemo_elastic.io.write import atomic_write

__all__ = ["CALIBRATION", "FILE", "VERSION", "Family", "Member"]

FILE = "elastic.json"
#: calibration of the model `auto`, which chooses a member per request (`serving.calibration`)
CALIBRATION = "auto.json"
VERSION = 1


def _json_values(given: Any, field: str) -> dict[str, Any]:
    try:
        if isinstance(given, Mapping) and json.loads(json.dumps(dict(given), allow_nan=False)) == given:
            return dict(given)
    except (TypeError, ValueError):
        pass
    raise bad(field, given, "a mapping of JSON values")


_JSON = Value(_json_values)
_ORDER = "each of the parent's layers once, or null"
_Index = Annotated[int, Between(0, said=_ORDER)]


@dataclass(frozen=True, repr=False)
class Family:
    """A parent's shape and its members, each nested in the one before it.

    Attributes:
        parent: shape of the parent, FFN stripes included.
        axes: every axis name -> its choices (only the full width for an axis that is not cut).
        members: the parent first, then from the largest to the smallest.
        ranking_digest: digest of the ranking that sorted the parent; None for an unsorted parent.
        provenance: how the family was made, JSON values only.
        drop_order: layers of the parent in the order in which smaller shapes drop them; None if unknown.
        extras: further named shapes in any order, which were not trained as such.
    """

    parent: Parent
    axes: Mapping[str, AxisConfig]
    members: tuple[Member, ...]
    ranking_digest: Annotated[str, DIGEST] | None = None
    provenance: Annotated[Mapping[str, Any], _JSON] = field(default_factory=dict)
    drop_order: Annotated[tuple[_Index, ...], Length(said=_ORDER)] | None = None
    extras: tuple[Member, ...] = ()

    def __post_init__(self) -> None:
        check(self, "")
        # The parent has the number of stripes.
        object.__setattr__(self, "axes", {n: replace(a, stripes=None) for n, a in self.axes.items()})
        self._check_axes()
        self._check_members()
        self._check_extras()
        self._check_drop_order()

    @classmethod
    def of(
        cls,
        parent: Parent,
        subnets: Mapping[str, Subnet],
        *,
        axes: Mapping[str, AxisConfig] | None = None,
        budgets: Iterable[Budget] = (),
        ranking_digest: str | None = None,
        provenance: Mapping[str, Any] | None = None,
        drop_order: Iterable[int] | None = None,
    ) -> Family:
        """Build a family and compute its figures.

        Args:
            parent: The parent's shape.
            subnets: Member name -> shape, from the largest to the smallest. A first member that is not the parent
                itself gets one named `full` before it.
            axes: Choices of every axis; those that the members use when None.
            budgets: Budgets of the `elastic:` block, stored with the members of the same names.
            ranking_digest: See the class.
            provenance: See the class.
            drop_order: See the class.

        Raises:
            ElasticError: Members that are not nested, a bad name, or choices that the parent does not have.
        """
        named = dict(subnets)
        if next(iter(named.values()), None) != parent.full:
            if "full" in named:
                raise bad("members.full", "a cut", "the name of the parent itself")
            named = {"full": parent.full, **named}
        made_for = {b.name: b.to_json() for b in budgets}
        counts = {n: parameters(parent, s.validate(parent)) for n, s in named.items()}
        members = tuple(Member(n, s, made_for.get(n), counts[n]) for n, s in named.items())
        if axes is None:
            axes = {n: _axis_in_use(parent, n, [m.subnet for m in members]) for n in parent.axes}
        order = None if drop_order is None else tuple(drop_order)
        return cls(parent, axes, members, ranking_digest, dict(provenance or {}), order)

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{m.name} {m.parameters:,}" for m in (*self.members, *self.extras))
        return f"Family({sizes} parameters)"

    @property
    def names(self) -> tuple[str, ...]:
        """Member names, the largest first."""
        return tuple(m.name for m in self.members)

    @property
    def extra_names(self) -> tuple[str, ...]:
        """Names of the extra shapes."""
        return tuple(m.name for m in self.extras)

    def member(self, name: str) -> Member:
        """Give the member, or the extra shape, of that name.

        Raises:
            ElasticError: No member has this name; the message names the nearest one.
        """
        for m in (*self.members, *self.extras):
            if m.name == name:
                return m
        names = (*self.names, *self.extra_names)
        near = get_close_matches(str(name), names, 1, 0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ElasticError(f"member: {name!r} is not in this family; {hint}its members are {', '.join(names)}")

    def name_of(self, subnet: Subnet) -> str | None:
        """Name of the member or extra with this shape, or None."""
        return next((m.name for m in (*self.members, *self.extras) if m.subnet == subnet), None)

    def with_extra(self, name: str, subnet: Subnet, budget: Budget | None = None, force: bool = False) -> Family:
        """The same family with one more named shape.

        Args:
            name: Valid and not that of a member.
            subnet: Any shape inside the parent.
            budget: The limits that it was chosen for.
            force: Replace an extra shape of that name.

        Raises:
            ElasticError: The name is taken or invalid, or the shape does not fit the parent.
        """
        NAME.read(name, "extras")
        if name in self.names:
            raise bad("extras", name, f"a name that no member has ({', '.join(self.names)})")
        if name in self.extra_names and not force:
            raise ElasticError(f"extras.{name}: already there; --force replaces it")
        count = parameters(self.parent, subnet.validate(self.parent))
        extra = Member(name, subnet, budget and budget.to_json(), count)
        return replace(self, extras=(*(m for m in self.extras if m.name != name), extra))

    def to_json(self) -> dict[str, Any]:
        """Give the content of `elastic.json`."""
        out = {
            "version": VERSION,
            "parent": self.parent.to_json(),
            "axes": {
                n: {"choices": list(a.choices), "per_layer": a.per_layer, "blocks": _blocks(self.parent, n)}
                for n, a in self.axes.items()
            },
            "members": members_to_json(self.parent, self.members),
            "ranking": self.ranking_digest,
            "provenance": dict(self.provenance),
            "drop_order": None if self.drop_order is None else list(self.drop_order),
        }
        return out | ({"extras": members_to_json(self.parent, self.extras)} if self.extras else {})

    @classmethod
    def from_json(cls, data: Any) -> Family:
        """Read what `to_json` wrote.

        Raises:
            ElasticError: Another version, an unknown or missing field, or members that are not nested.
        """
        check_version(data, VERSION)
        file = read(_File, data, "")
        parent = Parent.from_json(file.parent)
        given = known_names(parent.axes, file.axes, "axes")
        for name in parent.axes:
            if name not in given:
                raise ElasticError(f"axes.{name}: missing")
        axes = {n: _read_axis(n, a) for n, a in given.items()}
        members = read_members(parent, file.members, "members")
        members.sort(key=lambda m: -m.parameters)  # another tool may have sorted the keys
        extras = read_members(parent, {} if file.extras is None else file.extras, "extras")
        return cls(parent, axes, tuple(members), file.ranking, file.provenance, file.drop_order, tuple(extras))

    @classmethod
    def load(cls, folder: str | Path) -> Family:
        """Read `elastic.json` in a family folder.

        Raises:
            ElasticError: The file is missing or wrong; the message names it.
        """
        path = Path(folder) / FILE
        if not path.exists():
            raise ElasticError(f"{folder}: not a family folder (it has no {FILE})")
        with inside(path):
            return cls.from_json(read_json(path))

    def text(self) -> str:
        """Give `elastic.json` as it is written."""
        return json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n"

    def save(self, folder: str | Path) -> None:
        """Write `elastic.json` into a folder, whole or not at all."""
        atomic_write(Path(folder) / FILE, self.text())

    def _check_axes(self) -> None:
        if set(self.axes) != set(self.parent.axes):
            raise bad("axes", list(self.axes), f"exactly {', '.join(self.parent.axes)}")
        for name, axis in self.axes.items():
            full = self.parent.num_layers if name == DEPTH else self.parent.axis(name).size
            if axis.choices[0] != full:
                raise bad(f"axes.{name}.choices", list(axis.choices), f"the first must be the parent's {full}")
            for choice in axis.choices if name != DEPTH else ():
                prefix = self.parent.axis(name)
                replace(prefix, name=f"axes.{name}.choices").check(choice)

    def _check_members(self) -> None:
        if not self.members:
            raise ElasticError("members: a family has at least one, the parent")
        check_names("members", self.names)
        before: Member | None = None
        for m in self.members:
            self._check_one("members", m)
            if before is None:
                if m.subnet != self.parent.full:
                    raise bad("members", m.name, "the first, and largest, must be the parent itself")
            elif (why := why_not_nested(m.subnet, before.subnet)) is not None:
                raise ElasticError(f"members.{m.name}: not nested in {before.name!r}: {why}")
            before = m

    def _check_extras(self) -> None:
        check_names("extras", self.extra_names, self.names)
        for m in self.extras:
            self._check_one("extras", m)

    def _check_one(self, where: str, m: Member) -> None:
        m.subnet.validate(self.parent)
        if m.budget is not None:
            read_budget(f"{where}.{m.name}.budget", m.name, m.budget)

    def _check_drop_order(self) -> None:
        order, number = self.drop_order, self.parent.num_layers
        if order is not None and sorted(order) != list(range(number)):
            raise bad("drop_order", list(order), f"each of the parent's layers 0 to {number - 1} once, or null")


@dataclass
class _File:
    """Fields of `elastic.json`; axes and members are read after the parent."""

    version: int
    parent: Any
    axes: Any
    members: Any
    ranking: Annotated[str, DIGEST] | None
    provenance: Any
    drop_order: Any = None  # absent in files of early versions
    extras: Any = None  # absent without extras


@dataclass
class _Axis:
    choices: Any
    per_layer: bool
    blocks: Any = None  # written for other programs


def _read_axis(name: str, data: Any) -> AxisConfig:
    axis = read(_Axis, data, f"axes.{name}")
    return AxisConfig.read(name, {"choices": axis.choices, "per_layer": axis.per_layer}, f"axes.{name}")


def _axis_in_use(parent: Parent, name: str, subnets: list[Subnet]) -> AxisConfig:
    """Choices of one axis that members use, and whether it varies over the layers of one of them."""
    if name == DEPTH:
        return AxisConfig(tuple(sorted({len(s.layers) for s in subnets} | {parent.num_layers}, reverse=True)))
    chosen = [choices_of(parent, s, name) for s in subnets]
    used = {choice for per in chosen for choice in per} | {parent.axis(name).size}
    per_layer = name in per_layer_axes() and any(len(set(per)) > 1 for per in chosen)
    return AxisConfig(tuple(sorted(used, reverse=True)), per_layer)


def _blocks(parent: Parent, axis: str) -> int:
    return 1 if axis == DEPTH else parent.axis(axis).blocks
