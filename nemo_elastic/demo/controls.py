# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a trained member is to be compared with, so that a figure says something.

Three controls: the parent (what there is to lose), the member's shape cut from the sorted parent before any training
(what training brings), and the same cut from the unsorted parent (what sorting brings).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nemo_elastic.core.family import Subnet
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.runtime import FamilyRuntime, MemberModel
from nemo_elastic.verdicts import closed


@dataclass(frozen=True)
class Control:
    """One row of the table: losses in nats per token on the same tokens.

    Attributes:
        member: its name.
        trained: the member after training.
        parent: the whole parent before training.
        untrained: the member's shape, cut from the sorted parent before training.
        unsorted: the same shape, cut from the parent as it was before sorting.
    """

    member: str
    trained: float
    parent: float
    untrained: float
    unsorted: float

    @property
    def recovered(self) -> float | None:
        """Share of the gap to the parent that training closed; None where there is no gap. See `verdicts.closed`."""
        return closed(self.untrained, self.trained, self.parent)


def controls(
    trained: FamilyRuntime,
    parent: FamilyRuntime,
    unsorted: FamilyRuntime,
    loss: Callable[[MemberModel], float],
    progress: Callable[[int, int], None],
) -> list[Control]:
    """Measure the members of a trained family and their controls, each model that differs once.

    `parent` is the sorted one before training. The folder of the `unsorted` one may not know of FFN stripes: members
    are cut from it as from the family. `progress` is called with (models measured, models in all). `ElasticError`
    where the families have different parents.
    """
    parent, unsorted = _as_parent(parent, trained), _as_parent(unsorted, trained)
    full = trained.parent.full
    # The cut of the parent's own shape is the parent itself, sorted or not: measured once.
    wanted = [(parent, full), *((trained, m) for m in trained.members.values())]
    wanted += [(f, m) for f in (parent, unsorted) for m in trained.members.values() if m != full]
    losses: dict[tuple[int, Subnet], float] = {}
    for family, subnet in wanted:
        key = (id(family), subnet)
        if key not in losses:
            losses[key] = loss(family.select(subnet))
            family.release()  # one model's slices at a time
            progress(len(losses), len({(id(f), s) for f, s in wanted}))
    whole = losses[id(parent), full]
    return [
        Control(name, losses[id(trained), m], whole, *(losses.get((id(f), m), whole) for f in (parent, unsorted)))
        for name, m in trained.members.items()
    ]


def _as_parent(family: FamilyRuntime, trained: FamilyRuntime) -> FamilyRuntime:
    """The same weights, counted in stripes as in the trained family: a plain folder does not know of any."""
    if family.parent == trained.parent:
        return family
    if family.parent.striped_as(trained.parent) != trained.parent or family.held != family.parent.full:
        raise ElasticError("controls: the families do not have the same parent")
    model = NemotronH(trained.parent, family.model.state_dict(), trainable=False)  # shares the memory
    return FamilyRuntime(model, trained.members)
