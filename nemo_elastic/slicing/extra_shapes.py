# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Extra shapes in a family that is there already: in `elastic.json`, and in a part of the card between marks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from nemo_elastic.core.budget import Budget
from nemo_elastic.core.cost import counts
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.manifest import FILE, Family
from nemo_elastic.core.member import why_not_nested
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checksums import held_family
from nemo_elastic.io.atomic import prepared
from nemo_elastic.io.bounded import read_text
from nemo_elastic.io.outputs import check_place

from .lineage import CARD

__all__ = ["add_extra", "extras_inside", "extras_section"]

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


def add_extra(
    folder: Path,
    name: str,
    subnet: Subnet,
    budget: Budget | None = None,
    force: bool = False,
    digest: str | None = None,
    write: bool = True,
) -> Family:
    """Keep a shape under a name in a family's own `elastic.json`, and on its card.

    Both files are whole on the disk before the first is put in its place, that of `elastic.json`: a family that is
    stopped in between opens, with the shape, and its card has it as soon as another one is added.

    Args:
        folder: Of the family.
        name, subnet, budget, force: See `Family.with_extra`.
        digest: See `held_family`.
        write: False to find out what would be refused.

    Returns:
        The family with the shape.

    Raises:
        ElasticError: The name is taken, or another family is there; the card is no text, or leads out of the folder;
            the place cannot be written, or the disk is full.
    """
    with held_family(folder, digest) as held, ExitStack() as files:
        family = held.with_extra(name, subnet, budget, force)
        card = _card(folder / CARD, family)
        if not write:
            check_place(folder / FILE)
            return family
        if card is not None:
            files.enter_context(prepared(folder / CARD, card))
        files.enter_context(prepared(folder / FILE, family.text()))
    return family


def _card(path: Path, family: Family) -> str | None:
    """The card of a family with its extra shapes, what else stands there as it was; None where it has no card."""
    if not path.is_file():
        return None
    try:
        text = read_text(path)
    except UnicodeDecodeError:
        raise ElasticError("not UTF-8 text", path) from None
    section = "\n".join(extras_section(family.parent, extras_inside(family, family.members[0].subnet)))
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if begin and end:
        return before + section.rstrip("\n") + after
    return f"{text.rstrip()}\n\n{section.rstrip()}\n"
