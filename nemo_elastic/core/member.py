# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A named member of a family, and its entry in `elastic.json`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nemo_elastic.core.budget import Budget
from nemo_elastic.core.cost import MemorySpec, counts, memory, parameters
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.registry import KINDS
from nemo_elastic.core.limits import Limit, check_content
from nemo_elastic.errors import bad
from nemo_elastic.io.fields import fitting, read

#: SHA-256, as `Ranking.digest` gives it
DIGEST = fitting(
    lambda digest: digest is None or (isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)),
    "a digest of 64 hexadecimal digits or null",
    {"type": "string", "pattern": "^[0-9a-f]{64}$"},
)


@dataclass(frozen=True)
class Member:
    """One named member of a family.

    Attributes:
        name: letters, digits, dots and dashes; it becomes part of file names.
        subnet: its shape.
        budget: its limits as in the `elastic:` block without the name, e.g. {"params": 6e9}; None for the parent and
            for members whose shape was given.
        parameters: exact number.
    """

    name: str
    subnet: Subnet
    budget: Mapping[str, Any] | None
    parameters: int


def why_not_nested(small: Subnet, large: Subnet) -> str | None:
    """Why `small` cannot be cut out of `large`, in words; None if it can."""
    if small.hidden > large.hidden:
        return f"hidden {small.hidden} is above {large.hidden}"
    for layer in small.layers:
        other = large.by_index.get(layer.index)
        if other is None:
            return f"layer {layer.index} is not in the larger one"
        kind = KINDS[layer.type]
        ours, theirs = (kind.recount(widths, widths, {}) for widths in (layer.widths, other.widths))
        for axis, width in ours.items():
            if width > theirs[axis]:
                each = f" for each of its {kind.nested[axis]}" if kind.nested.get(axis) in theirs else ""
                return f"layer {layer.index} has {axis} {width}{each}, above {theirs[axis]}"
    return None


@dataclass
class _Entry:
    """Fields of a member in `elastic.json`; its figures are not read."""

    budget: Any
    subnet: Any
    parameters: Any = None
    active_parameters: Any = None
    memory: Any = None


def members_to_json(parent: Parent, members: Sequence[Member]) -> dict[str, Any]:
    """Entries of members by name, with computed figures."""
    spec = MemorySpec()
    return {
        m.name: {
            **counts(parent, m.subnet),
            "memory": asdict(spec) | {"bytes": int(memory(parent, m.subnet, spec))},
            "budget": dict(m.budget) if m.budget is not None else None,
            "subnet": m.subnet.to_json(),
        }
        for m in members
    }


def read_members(parent: Parent, data: Any, where: str) -> list[Member]:
    """Read the members of `elastic.json`; `where` names them in errors."""
    if not isinstance(data, Mapping):
        raise bad(where, data, "a mapping name -> member")
    out = []
    for name, given in data.items():
        entry = read(_Entry, given, f"{where}.{name}")
        subnet = Subnet.from_json(entry.subnet, parent, f"{where}.{name}.subnet")
        out.append(Member(name, subnet, entry.budget, parameters(parent, subnet)))
    return out


def read_budget(where: str, name: str, data: Any) -> Budget:
    """Read a member's budget."""
    if not isinstance(data, Mapping) or "name" in data or not data:
        raise bad(where, data, "some of {params: N, active_params: N, ratio: R, memory: {…}, latency: {…}}, or null")
    check_content([data], where)
    return read(Budget, {"name": name, **data}, where)


def limits_of(member: Member) -> tuple[Limit, ...]:
    """Limits of a member's budget; empty for the parent."""
    return () if member.budget is None else read_budget("budget", "member", member.budget).limits


def limits_used(parent: Parent, members: Iterable[Member]) -> dict[str, str]:
    """Name -> used share of each limit, in words, of members with several limits."""
    out = {}
    for m in members:
        limits = limits_of(m)
        if len(limits) > 1:
            out[m.name] = ", ".join(f"{x.field} {x.share(parent, m.subnet):.1%}" for x in limits)
    return out
