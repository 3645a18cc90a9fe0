# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a trained member is to be compared with, so that a figure says something.

Three controls: the parent (what there is to lose), the member's shape cut from the sorted parent before any training
(what training brings), and the same cut from the unsorted parent (what sorting brings).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nemo_elastic.core.cost import parameters
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
        parameters: exact count.
        trained: the member after training.
        parent: the whole parent before training.
        untrained: the member's shape, cut from the sorted parent before training.
        unsorted: the same shape, cut from the parent as it was before sorting; None where that was not measured.
    """

    member: str
    parameters: int
    trained: float
    parent: float
    untrained: float
    unsorted: float | None = None

    @property
    def recovered(self) -> float | None:
        """Share of the gap to the parent that training closed; None where there is no gap. See `verdicts.closed`."""
        return closed(self.untrained, self.trained, self.parent)

    def to_json(self) -> dict[str, Any]:
        """All figures, the recovered share included."""
        return asdict(self) | {"recovered": self.recovered}


def controls(
    trained: FamilyRuntime,
    parent: FamilyRuntime,
    loss: Callable[[MemberModel], float],
    unsorted: FamilyRuntime | None = None,
    members: Mapping[str, Subnet] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Control]:
    """Measure members and their controls.

    Args:
        trained: the family after training.
        parent: the sorted parent before training.
        loss: loss of a model in nats per token, e.g. `lambda m: perplexity(m, tokens, 128).nats`. Called once for each
            model that differs.
        unsorted: the parent as it was before sorting. Its folder may not know of FFN stripes: members are cut from it
            as from the family.
        members: names and shapes; all of `trained` by default.
        progress: called with (models measured, models in all).

    Returns:
        One row for each member, in their order.

    Raises:
        ElasticError: the families have different parents.
    """
    parent = _as_parent(parent, trained)
    unsorted = None if unsorted is None else _as_parent(unsorted, trained)
    members = dict(trained.members if members is None else members)
    full = parent.parent.full
    # The cut of the parent's own shape is the parent itself, sorted or not: measured once.
    wanted = [(parent, full), *((trained, m) for m in members.values())]
    wanted += [(f, m) for f in (parent, unsorted) if f is not None for m in members.values() if m != full]
    losses: dict[tuple[int, Subnet], float] = {}
    for family, subnet in wanted:
        key = (id(family), subnet)
        if key not in losses:
            losses[key] = loss(family.select(subnet))
            family.release()  # one model's slices at a time
            if progress is not None:
                progress(len(losses), len({(id(f), s) for f, s in wanted}))
    whole = losses[id(parent), full]
    return [
        Control(
            name,
            parameters(trained.parent, subnet),
            losses[id(trained), subnet],
            whole,
            losses.get((id(parent), subnet), whole),
            None if unsorted is None else losses.get((id(unsorted), subnet), whole),
        )
        for name, subnet in members.items()
    ]


def _as_parent(family: FamilyRuntime, trained: FamilyRuntime) -> FamilyRuntime:
    """The same weights, counted in stripes as in the trained family: a plain folder does not know of any."""
    if family.parent == trained.parent:
        return family
    if family.parent.striped_as(trained.parent) != trained.parent or family.held != family.parent.full:
        raise ElasticError("controls: the families do not have the same parent")
    model = NemotronH(trained.parent, family.model.state_dict(), trainable=False)  # shares the memory
    return FamilyRuntime(model, trained.members)
