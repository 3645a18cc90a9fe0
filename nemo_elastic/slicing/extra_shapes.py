# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Extra shapes on model cards: a part of its own, between marks, so that a card that is there already can have it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nemo_elastic.core.cost import counts
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.member import why_not_nested
from nemo_elastic.io.atomic import atomic_write

__all__ = ["extras_inside", "extras_section", "update_card"]

#: around the part; a reader of the card does not see them
_BEGIN, _END = "<!-- extra shapes -->", "<!-- end of extra shapes -->"


def extras_inside(family: Family | None, held: Subnet) -> dict[str, Subnet]:
    """The extra shapes that can be cut by name out of what a folder holds.

    Args:
        family: As the folder knows it; None where it does not.
        held: What the folder holds.
    """
    extras = () if family is None else family.extras
    return {m.name: m.subnet for m in extras if m.subnet != held and why_not_nested(m.subnet, held) is None}


def extras_section(parent: Parent, extras: Mapping[str, Subnet]) -> list[str]:
    """Lines of a card about extra shapes; none where there are none."""
    if not extras:
        return []
    told = {name: counts(parent, m) for name, m in extras.items()}
    heads = [key.replace("_", " ") for key in counts(parent, parent.full)]
    rows = [
        f"| {name} | {' | '.join(f'{n:,}' for n in told[name].values())} | {len(m.layers)} "
        f"| `nemo-elastic slice . --budget {name}` |"
        for name, m in extras.items()
    ]
    return [
        _BEGIN,
        "## Extra shapes",
        "",
        "Named shapes beside the members, each found inside the weights after training, for a task perhaps. **None",
        "was trained as it is. Evaluate it before use.**",
        "",
        f"| | {' | '.join(heads)} | layers | cut by |",
        "|---|" + "---:|" * len(heads) + "---:|---|",
        *rows,
        "",
        _END,
        "",
    ]


def update_card(card: Path, family: Family) -> None:
    """Let a family's card that was written before name its extra shapes; what else stands there stays.

    Args:
        card: The file; without one there is nothing to do.
        family: With its extra shapes.
    """
    if not card.is_file():
        return
    text = card.read_text(encoding="utf-8")
    section = "\n".join(extras_section(family.parent, extras_inside(family, family.members[0].subnet)))
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if begin and end:
        new = before + section.rstrip("\n") + after
    else:
        new = f"{text.rstrip()}\n\n{section.rstrip()}\n"
    atomic_write(card, new)
