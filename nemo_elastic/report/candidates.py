# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What became of the candidates of every budget: their losses at each comparison, and which of them stayed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from nemo_elastic.core.family import Subnet
from nemo_elastic.core.kinds.moe import EXPERTS

from .run_record import RunRecord, number

#: comparisons of a run that are shown: it makes no more
MOST_COMPARISONS = 3


@dataclass(frozen=True)
class Track:
    """A candidate's way.

    Attributes:
        number: Of its budget's candidates; 0 is the search's first choice.
        subnet: Its shape.
        untrained: Loss in the search, nats per token, where it is known.
        losses: The same at each comparison, by how many steps were done, in order.
        trained: Micro-batches that it trained.
        went: Step at which it went; None where it did not.
        stays: Whether it became the member.
    """

    number: int
    subnet: Subnet
    untrained: float | None
    losses: dict[int, float]
    trained: int
    went: int | None
    stays: bool

    @property
    def label(self) -> str:
        """What tells it from the others of its budget: residual width × layers, and experts."""
        experts = self.experts
        return f"{self.subnet.hidden} × {len(self.subnet.layers)}" + (f", {experts} experts" if experts else "")

    @property
    def experts(self) -> str:
        """Of a layer; of several numbers the least and the most."""
        seen = {layer.widths[EXPERTS] for layer in self.subnet.layers if EXPERTS in layer.widths}
        return "–".join(map(str, sorted({min(seen), max(seen)}))) if seen else ""

    @property
    def outcome(self) -> str:
        """In words."""
        return "stays" if self.stays else "in turn" if self.went is None else f"went at {self.went}"


def comparisons(run: RunRecord) -> dict[int, dict[str, dict[str, float | None]]]:
    """Steps done when candidates were compared -> budget -> number -> nats per token; None for what is none."""
    out: dict[int, dict[str, dict[str, float | None]]] = {}
    for line in run.shaping.steps if run.shaping else ():
        compared = line.get("compared")
        if isinstance(compared, dict) and len(out) < MOST_COMPARISONS:  # it was before the step of its line
            budgets = {name: losses for name, losses in compared.items() if isinstance(losses, dict)}
            out[max(0, line["step"] - 1)] = {
                name: {n: loss if (loss := number(x)) and loss > 0 else None for n, x in losses.items()}
                for name, losses in budgets.items()
            }
    return out


def tracks(run: RunRecord) -> dict[str, list[Track]]:
    """The candidates of every budget by number, of budgets that have several."""
    rounds = comparisons(run)
    lines = [line.get("candidates") for line in run.shaping.steps] if run.shaping else []
    each = [(name, ran) for line in lines if isinstance(line, dict) for name, ran in line.items()]
    trained = Counter((name, n) for name, ran in each if isinstance(ran, list) for n in ran if type(n) is int)
    out: dict[str, list[Track]] = {}
    for name, own in run.shapes.candidates.items():
        frozen, last = run.shapes.frozen.get(name), max((s for s, seen in rounds.items() if name in seen), default=0)
        for at, (subnet, untrained) in enumerate(own if len(own) > 1 else ()):
            seen = {step: known[name][str(at)] for step, known in rounds.items() if str(at) in known.get(name, {})}
            losses = {step: loss for step, loss in seen.items() if loss is not None}
            stays, until = frozen == subnet, max(seen, default=0)
            went = None if stays or (frozen is None and until == last) else until
            out.setdefault(name, []).append(Track(at, subnet, untrained, losses, trained[name, at], went, stays))
    return out
