# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a user asks for, a size or a shape in a file -> a shape inside the source."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nemo_elastic.core import cost
from nemo_elastic.core.budget import Budget
from nemo_elastic.core.cost import MemorySpec
from nemo_elastic.core.family import Parent, Subnet, known_fields
from nemo_elastic.core.sizes import SubnetPath, path
from nemo_elastic.errors import ElasticError, bad, inside
from nemo_elastic.formats.source import Shapes
from nemo_elastic.io.read import read_json
from nemo_elastic.io.values import number, parse_float, parse_size

from .card import human_bytes

__all__ = ["Fit", "SizeLimit", "largest_within", "parse_count", "read_limit", "read_subnet", "rest_of_path"]

_COUNTS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def parse_count(option: str, text: str) -> float:
    """Read a number of parameters: 6e9, 6B, 850M.

    Raises:
        ElasticError: It is none, or not above zero.
    """
    unit = _COUNTS.get(text[-1:].upper(), 1.0)
    try:
        count = float(text[:-1] if unit > 1 else text) * unit
    except ValueError:
        count = 0.0
    if not 0 < count < 1e18:
        raise bad(option, text, "a number of parameters such as 6e9, 6B or 850M")
    return count


@dataclass(frozen=True)
class SizeLimit:
    """A limit on the size.

    Attributes:
        option: as the user wrote it; value: what the user gave, as a number; asked: the same in words.
        most: the limit on `price`, in parameters or bytes.
        in_words: says an amount of that in words.
        spec: what a deployment holds in memory, where that is limited.
    """

    option: str
    value: float
    asked: str
    most: float
    price: Callable[[Subnet], float]
    in_words: Callable[[float], str]
    spec: MemorySpec | None = None

    def budget(self, name: str) -> Budget:
        """The same limit as a search takes it."""
        if self.spec is not None:
            return Budget(name, memory={"size": f"{self.most:.0f}B", **asdict(self.spec)})
        limit: dict[str, Any] = {self.option.removeprefix("--").replace("-", "_"): self.value}
        return Budget(name, **limit)


@dataclass(frozen=True)
class Fit:
    """The largest shape within a limit.

    Attributes:
        limit: the limit.
        subnet: the shape; name: the member that it is, or where it lies: `between 9b and 6b`.
        between: the members on either side; None where it is one.
        used: what it costs, in the unit of the limit.
        larger: what the next larger shape costs; None for the largest that the source has.
        whole: whether it is the parent.
    """

    limit: SizeLimit
    subnet: Subnet
    name: str
    between: tuple[str, str] | None
    used: float
    larger: float | None
    whole: bool = False

    @property
    def below(self) -> float:
        """How far below the limit it is, as a share of the limit."""
        return 1 - self.used / self.limit.most

    def __str__(self) -> str:
        start = f"largest shape within {self.limit.asked}: {self.name}"
        if self.larger is None:
            return f"{start}, {'the parent itself' if self.whole else 'the largest here'}, {self.below:.2%} below"
        step = self.larger / self.limit.most - 1
        return f"{start}, {self.below:.2%} below; the next larger one is {step:.2%} above"

    def to_json(self) -> dict[str, Any]:
        """Give what `slice --json` prints of it."""
        return {
            "option": self.limit.option,
            "value": self.limit.value,
            "limit": self.limit.most,
            "below": self.below,
            "between": self.between,
            "larger": self.larger,
        }


def read_limit(parent: Parent, spec: MemorySpec, given: Mapping[str, str | None]) -> SizeLimit:
    """Read the limit of a size as it is written on a command line.

    Args:
        parent: Shape of the parent.
        spec: What a deployment holds in memory.
        given: One of `--params` and `--active-params` (6e9, 6B), `--memory` (14GiB) and `--ratio`, a share of the
            parent's parameters; others are None.

    Raises:
        ElasticError: The value is none.
    """
    option, text = next((option, text) for option, text in given.items() if text is not None)
    count = lambda subnet: cost.parameters(parent, subnet)  # noqa: E731
    in_words = lambda value: f"{value:,.0f} parameters"  # noqa: E731
    if option == "--memory":
        value = parse_size(option, text)
        price = lambda subnet: cost.memory(parent, subnet, spec)  # noqa: E731
        return SizeLimit(option, value, human_bytes(value), value, price, human_bytes, spec)
    if option == "--ratio":
        allowed = "a share of the parent's parameters, above 0 and at most 1"
        share = number(option, parse_float(text), math.ulp(0.0), 1, allowed)
        most = share * count(parent.full)
        return SizeLimit(option, share, f"{share:g} of the parent ({in_words(most)})", most, count, in_words)
    if option == "--active-params":
        count = lambda subnet: cost.active_parameters(parent, subnet)  # noqa: E731
        in_words = lambda value: f"{value:,.0f} active parameters"  # noqa: E731
    value = parse_count(option, text)
    return SizeLimit(option, value, in_words(value), value, count, in_words)


def largest_within(source: Shapes, limit: SizeLimit) -> Fit:
    """The largest shape on the family's path, inside the source, within a limit.

    Raises:
        ElasticError: The source is one model, or even the smallest member is too large.
    """
    shapes = rest_of_path(source, "give a shape with --subnet")
    at = shapes.fit(limit.most, limit.price)
    if at is None:
        least = shapes.family.members[-1]
        needed = limit.in_words(limit.price(least.subnet))
        raise ElasticError(f"{limit.option}: {limit.asked} is too little; the smallest, {least.name}, takes {needed}")
    above, under = shapes.between(at)
    subnet = shapes[at]
    return Fit(
        limit,
        subnet,
        above if above == under else f"between {above} and {under}",
        None if above == under else (above, under),
        limit.price(subnet),
        limit.price(shapes[at - 1]) if at > 0 else None,
        subnet == source.parent.full,
    )


def rest_of_path(source: Shapes, instead: str) -> SubnetPath:
    """The sizes that can be cut out of a folder: the path of its family, of a member what is left of it.

    Args:
        source: The folder.
        instead: What the user can do, or what there is, where it knows of no family.

    Raises:
        ElasticError: The source is one model, or a shape that holds no size of its family.
    """
    family = source.origin.family
    if family is None:
        raise ElasticError(f"{source.folder}: is one model, not a family; {instead}")
    sizes = path(family, source.held)
    if not sizes:
        least = family.members[-1].name
        raise ElasticError(f"{source.folder}: not even {least}, the smallest of its family, lies inside it; {instead}")
    return sizes


@dataclass
class _Entry:
    """A member as `inspect --json` prints it."""

    subnet: dict
    parameters: int | None = None
    active_parameters: int | None = None
    memory: dict | None = None
    runs_in: str | None = None
    budget: dict | None = None
    member: str | None = None
    between: list | None = None
    specialized: dict | None = None  # what `specialize` measured


def read_subnet(file: Path, parent: Parent) -> Subnet:
    """Read a shape: a Subnet, or a member of `inspect --json` with its shape under the key `subnet`.

    Raises:
        ElasticError: Neither, a shape that is not the parent's, or a count of parameters that is not the shape's.
    """
    data = read_json(file, own=True)
    with inside(file):
        if not isinstance(data, dict) or "subnet" not in data:
            return Subnet.from_json(data, parent)
        entry = known_fields(_Entry, data, "member")
        subnet = Subnet.from_json(entry["subnet"], parent)
        given, count = entry.get("parameters"), cost.parameters(parent, subnet)
        if given is not None and given != count:
            raise bad("parameters", given, f"its shape has {count}")
        return subnet
