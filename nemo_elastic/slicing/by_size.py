# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The shape inside a source for a user's size limits or file with a shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_elastic.core.cost import MemorySpec
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.limits import LIMITS, Limit
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.sizes import SubnetPath, path
from nemo_elastic.errors import ElasticError, inside
from nemo_elastic.formats.checkpoint import Shapes
from nemo_elastic.io.read import read_json

__all__ = ["Fit", "family_of", "in_words", "largest_within", "read_limits", "read_subnet", "rest_of_path"]

#: for a source without sizes
OWN_SHAPE = "give a shape with --subnet"


@dataclass(frozen=True)
class Fit:
    """The largest shape of a path within limits.

    Attributes:
        parent: whose shape it is.
        limits: upper bounds of its cost.
        subnet: the shape; name: its member's name, or its place: `between 9b and 6b`.
        between: the members on either side; None where it is one.
        larger: the next larger shape; None for the largest that the source has.
    """

    parent: Parent
    limits: tuple[Limit, ...]
    subnet: Subnet
    name: str
    between: tuple[str, str] | None
    larger: Subnet | None

    @property
    def whole(self) -> bool:
        """Whether it is the parent."""
        return self.subnet == self.parent.full

    def __str__(self) -> str:
        below = " and ".join(f"{1 - limit.share(self.parent, self.subnet):.2%}" for limit in self.limits)
        start = f"largest shape within {in_words(self.parent, self.limits)}: {self.name}"
        if self.larger is None:
            return f"{start}, {'the parent itself' if self.whole else 'the largest of this folder'}, {below} below"
        step = max(limit.share(self.parent, self.larger) for limit in self.limits) - 1
        return f"{start}, {below} below; the next larger shape is {step:.2%} above"

    def to_json(self) -> dict[str, Any]:
        """Give the `request` of `slice --json`; several limits are a list in it."""
        each = [
            {
                "option": limit.option(),
                "value": limit.most(self.parent) if isinstance(limit.value, Mapping) else limit.value,
                "limit": limit.most(self.parent),
                "below": 1 - limit.share(self.parent, self.subnet),
                "larger": None if self.larger is None else limit.cost(self.parent, self.larger),
            }
            for limit in self.limits
        ]
        return (each[0] if len(each) == 1 else {"limits": each}) | {"between": self.between}


def in_words(parent: Parent, limits: Sequence[Limit]) -> str:
    """Limits in the user's words."""
    return " and ".join(x.request(parent) for x in limits)


def read_limits(spec: MemorySpec, given: Mapping[str, str | None]) -> tuple[Limit, ...]:
    """Read limits from options of a command line (`--memory`: 14GiB); None for an option that is not given."""
    limits = {limit.option(): limit for limit in LIMITS.values()}
    texts = ((option, text) for option, text in given.items() if text is not None)
    return tuple(limits[option](limits[option].parse(option, text, spec), option) for option, text in texts)


def largest_within(source: Shapes, limits: tuple[Limit, ...]) -> Fit:
    """The largest shape on the family's path, inside the source, within limits."""
    shapes, parent = rest_of_path(source), source.parent
    at = shapes.fit(0, lambda subnet: any(x.cost(parent, subnet) > x.most(parent) for x in limits))
    if at is None:
        least = shapes.family.members[-1]
        short = [x for x in limits if x.cost(parent, least.subnet) > x.most(parent)]
        needed = " and ".join(x.words(x.cost(parent, least.subnet)) for x in short)
        asked = f"{in_words(parent, short)} {'is' if len(short) == 1 else 'are'} too little"
        options = " and ".join(x.name for x in short)
        raise ElasticError(f"{options}: {asked}; the smallest, {least.name}, takes {needed}")
    above, under = shapes.between(at)
    name, between = (above, None) if above == under else (f"between {above} and {under}", (above, under))
    return Fit(parent, limits, shapes[at], name, between, shapes[at - 1] if at > 0 else None)


def family_of(source: Shapes) -> Family:
    """The family of a folder."""
    family = source.origin.family
    if family is None:
        raise ElasticError(
            f"{source.folder}: is one model, not a family; nemo-elastic init --data makes a family of it, init "
            f"--member one of it and its published children; or {OWN_SHAPE}"
        )
    return family


def rest_of_path(source: Shapes) -> SubnetPath:
    """The sizes that can be cut out of a folder: its family's path, for a member the part below it."""
    family = family_of(source)
    sizes = path(family, source.subnet)
    if not sizes:
        least = family.members[-1].name
        raise ElasticError(f"{source.folder}: its family's smallest member, {least}, is not inside it; {OWN_SHAPE}")
    return sizes


def read_subnet(file: Path, parent: Parent) -> Subnet:
    """Read a shape: a Subnet, or a member of `inspect --json` with its shape under the key `subnet`."""
    data = read_json(file)
    with inside(file):
        shape = data["subnet"] if isinstance(data, dict) and "subnet" in data else data
        return Subnet.from_json(shape, parent)
