# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a user asks for, a size or a shape in a file -> a shape inside the source."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nemo_elastic.core import cost
from nemo_elastic.core.budget import Budget
from nemo_elastic.core.cost import MemorySpec
from nemo_elastic.core.family import Parent, Subnet, known_fields
from nemo_elastic.core.sizes import SubnetPath, path
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.source import Shapes
from nemo_elastic.io.read import read_json
from nemo_elastic.io.values import number, parse_float, parse_size
from nemo_elastic.slicing.card import human_bytes

from .show import parse_count

__all__ = ["Found", "Request", "find", "read_request", "read_subnet", "rest_of_path"]


@dataclass(frozen=True)
class Request:
    """A limit on the size.

    Attributes:
        option: as the user wrote it; value: what the user gave, as a number; asked: the same in words.
        limit: the limit on `price`, in parameters or bytes.
        told: says an amount of that in words.
        spec: what a deployment holds in memory, where that is limited.
    """

    option: str
    value: float
    asked: str
    limit: float
    price: Callable[[Subnet], float]
    told: Callable[[float], str]
    spec: MemorySpec | None = None

    def budget(self, name: str) -> Budget:
        """The same limit as a search takes it."""
        if self.spec is not None:
            return Budget(name, memory={"size": f"{self.limit:.0f}B", **asdict(self.spec)})
        limit: dict[str, Any] = {self.option.removeprefix("--").replace("-", "_"): self.value}
        return Budget(name, **limit)


@dataclass(frozen=True)
class Found:
    """The largest shape within a limit.

    Attributes:
        subnet: the shape; name: the member that it is, or where it lies: `between 9b and 6b`.
        between: the members on either side; None where it is one.
        used: what it costs, in the unit of the limit.
        larger: what the next larger shape costs; None for the largest that the source has.
        whole: whether it is the parent.
    """

    request: Request
    subnet: Subnet
    name: str
    between: tuple[str, str] | None
    used: float
    larger: float | None
    whole: bool = False

    @property
    def below(self) -> float:
        """How far below the limit it is, as a share of the limit."""
        return 1 - self.used / self.request.limit

    def __str__(self) -> str:
        start = f"largest shape within {self.request.asked}: {self.name}"
        if self.larger is None:
            return f"{start}, {'the parent itself' if self.whole else 'the largest here'}, {self.below:.2%} below"
        step = self.larger / self.request.limit - 1
        return f"{start}, {self.below:.2%} below; the next larger one is {step:.2%} above"

    def to_json(self) -> dict[str, Any]:
        """Give what `slice --json` prints of it."""
        return {
            "option": self.request.option,
            "value": self.request.value,
            "limit": self.request.limit,
            "below": self.below,
            "between": self.between,
            "larger": self.larger,
        }


def read_request(
    parent: Parent,
    spec: MemorySpec,
    params: str | None = None,
    memory: str | None = None,
    ratio: str | None = None,
    active: str | None = None,
) -> Request:
    """Read the one of `--params`, `--active-params`, `--memory` and `--ratio` that is given.

    Args:
        parent: Shape of the parent.
        spec: What a deployment holds in memory.
        params: A number of parameters: 6e9, 6B.
        memory: Bytes in service: 14GiB.
        ratio: Share of the parent's parameters.
        active: A number of parameters that one token meets.
    """

    def count(subnet: Subnet) -> float:
        return cost.parameters(parent, subnet)

    def told(value: float) -> str:
        return f"{value:,.0f} parameters"

    if memory is not None:
        size = parse_size("--memory", memory)
        price = lambda subnet: cost.memory(parent, subnet, spec)  # noqa: E731
        return Request("--memory", size, human_bytes(size), size, price, human_bytes, spec)
    if active is not None:
        value = parse_count("--active-params", active)
        price = lambda subnet: cost.active_parameters(parent, subnet)  # noqa: E731
        told_active = lambda value: f"{value:,.0f} active parameters"  # noqa: E731
        return Request("--active-params", value, told_active(value), value, price, told_active)
    if params is not None:
        value = parse_count("--params", params)
        return Request("--params", value, told(value), value, count, told)
    share = parse_float(ratio or "")
    share = number("--ratio", share, math.ulp(0.0), 1, "a share of the parent's parameters, above 0 and at most 1")
    limit = share * count(parent.full)
    return Request("--ratio", share, f"{share:g} of the parent ({told(limit)})", limit, count, told)


def find(source: Shapes, request: Request) -> Found:
    """The largest shape on the family's path, inside the source, within a limit.

    Raises:
        ElasticError: The source is one model, or even the smallest member is too large.
    """
    shapes = rest_of_path(source, "give a shape with --subnet")
    at = shapes.fit(request.limit, request.price)
    if at is None:
        least = shapes.family.members[-1]
        needed = request.told(request.price(least.subnet))
        raise ElasticError(
            f"{request.option}: {request.asked} is too little; the smallest, {least.name}, takes {needed}"
        )
    above, under = shapes.between(at)
    subnet = shapes[at]
    return Found(
        request,
        subnet,
        above if above == under else f"between {above} and {under}",
        None if above == under else (above, under),
        request.price(subnet),
        request.price(shapes[at - 1]) if at > 0 else None,
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
    found = path(family, source.held)
    if not found:
        least = family.members[-1].name
        raise ElasticError(f"{source.folder}: not even {least}, the smallest of its family, lies inside it; {instead}")
    return found


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
    try:
        if not isinstance(data, dict) or "subnet" not in data:
            return Subnet.from_json(data, parent)
        entry = known_fields(_Entry, data, "member")
        subnet = Subnet.from_json(entry["subnet"], parent)
        told, count = entry.get("parameters"), cost.parameters(parent, subnet)
        if told is not None and told != count:
            raise bad("parameters", told, f"its shape has {count}")
        return subnet
    except ElasticError as exc:
        raise exc.within(file) from None
