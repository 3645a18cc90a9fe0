# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A named member of a family, and its entry in `elastic.json`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nemo_elastic.core.budget import Budget
from nemo_elastic.core.cost import MemorySpec, active_parameters, counts, exact_bytes, memory, parameters
from nemo_elastic.core.family import Parent, Subnet, known_fields
from nemo_elastic.core.kinds.registry import KINDS
from nemo_elastic.core.limits import Limit
from nemo_elastic.errors import ElasticError, bad

_DIGEST = re.compile("[0-9a-f]{64}")  # SHA-256, as `Ranking.digest` gives it


@dataclass(frozen=True)
class Member:
    """One named member of a family.

    Attributes:
        name: letters, digits, dots and dashes; it becomes part of file names.
        subnet: its shape.
        budget: what it was made for, as in the `elastic:` block without the name, e.g. {"params": 6e9}; None for the
            parent and for members with a shape of their own.
        parameters: exact count.
    """

    name: str
    subnet: Subnet
    budget: Mapping[str, Any] | None
    parameters: int


def check_name(where: str, name: Any) -> str:
    """Give `name` if a member may have it: the rule of the `elastic:` block, which leaves no way to name a path."""
    try:
        return Budget(name).name
    except ElasticError:
        raise bad(where, name, "letters, digits, dots and dashes, at most 100") from None


def check_digest(where: str, digest: Any) -> str | None:
    """Give a ranking's digest, or None where there is none; it is shown on pages and in terminals.

    Raises:
        ElasticError: It is something else.
    """
    if digest is not None and not (isinstance(digest, str) and _DIGEST.fullmatch(digest)):
        raise bad(where, digest, "a digest of 64 hexadecimal digits or null")
    return digest


def why_not_nested(small: Subnet, large: Subnet) -> str | None:
    """Say in words what keeps `small` from being cut out of `large`; None if nothing does."""
    if small.hidden > large.hidden:
        return f"hidden {small.hidden} is above {large.hidden}"
    for layer in small.layers:
        other = large.by_index.get(layer.index)
        if other is None:
            return f"layer {layer.index} was dropped there"
        theirs, nested = other.inside, KINDS[layer.type].nested
        for axis, width in layer.inside.items():
            if width > theirs[axis]:
                each = f" for each of its {nested[axis]}" if nested.get(axis) in theirs else ""
                return f"layer {layer.index} has {axis} {width}{each}, above {theirs[axis]}"
    return None


# An entry, as dataclasses: `known_fields` takes the names and what is mandatory from them.
@dataclass
class _Member:
    parameters: int
    memory: dict
    budget: dict | None
    subnet: dict
    active_parameters: int | None = None  # only where there are experts


@dataclass
class _Memory:
    batch: int
    length: int
    weights: str
    cache: str
    state: str
    bytes: int


def members_to_json(parent: Parent, members: Sequence[Member]) -> dict[str, Any]:
    """Entries of members by name, with what can be computed."""
    spec = MemorySpec()
    return {
        m.name: {
            **counts(parent, m.subnet),
            "memory": asdict(spec) | {"bytes": _bytes(parent, m.subnet, spec)},
            "budget": dict(m.budget) if m.budget is not None else None,
            "subnet": m.subnet.to_json(),
        }
        for m in members
    }


def read_members(parent: Parent, data: Any, where: str) -> list[Member]:
    """Members of entries.

    Raises:
        ElasticError: An unknown or missing field, a number that does not agree with the shape.
    """
    if not isinstance(data, Mapping):
        raise bad(where, data, "a mapping name -> member")
    return [_read_member(parent, name, entry, f"{where}.{name}") for name, entry in data.items()]


def _read_member(parent: Parent, name: str, data: Any, where: str) -> Member:
    known = known_fields(_Member, data, where)
    subnet = Subnet.from_json(known["subnet"], parent, f"{where}.subnet")
    count = parameters(parent, subnet)
    if isinstance(known["parameters"], bool) or known["parameters"] != count:
        raise bad(f"{where}.parameters", known["parameters"], f"its shape has {count}")
    active = known.get("active_parameters")
    if active is not None and (isinstance(active, bool) or active != active_parameters(parent, subnet)):
        raise bad(f"{where}.active_parameters", active, f"its shape has {active_parameters(parent, subnet)}")
    serving = known_fields(_Memory, known["memory"], f"{where}.memory")
    held = serving.pop("bytes")
    spec = MemorySpec(**serving)
    size = _bytes(parent, subnet, spec)
    # families with experts were written when every weight was counted in one dtype
    before = int(memory(parent, subnet, spec) - exact_bytes(parent, subnet, spec.weights))
    if isinstance(held, bool) or held not in (size, before):
        raise bad(f"{where}.memory.bytes", held, f"its shape takes {size}")
    return Member(name, subnet, known["budget"], count)


def read_budget(where: str, name: str, data: Any) -> Budget:
    """What a member was made for.

    Raises:
        ElasticError: It is no budget.
    """
    if not isinstance(data, Mapping) or "name" in data or not data:
        raise bad(where, data, "some of {params: N, active_params: N, ratio: R, memory: {…}, latency: {…}}, or null")
    return Budget(**known_fields(Budget, {"name": name, **data}, where))


def limits_of(member: Member) -> tuple[Limit, ...]:
    """The limits that a member was made for; none for the parent's."""
    return () if member.budget is None else read_budget("budget", "member", member.budget).limits


def limits_used(parent: Parent, members: Iterable[Member]) -> dict[str, str]:
    """Name -> how much of its limits a member uses, in words; of those members that were made for several."""
    out = {}
    for m in members:
        limits = limits_of(m)
        if len(limits) > 1:
            out[m.name] = ", ".join(f"{x.kind.field} {x.share(parent, m.subnet):.1%}" for x in limits)
    return out


def _bytes(parent: Parent, subnet: Subnet, spec: MemorySpec) -> int:
    return int(memory(parent, subnet, spec))
