# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How often a member accepts the drafts of its own multi-token prediction (MTP) layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from nemo_elastic.core.family import Subnet
from nemo_elastic.core.prediction import is_mtp
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.nn.forward import Layers
from nemo_elastic.nn.prediction import Predictor
from nemo_elastic.nn.rows import Rows
from nemo_elastic.nn.weights import Weights
from nemo_elastic.slicing.cutting import cut

__all__ = ["Drafts", "accepted_drafts", "predictor_of"]


@dataclass(frozen=True)
class Drafts:
    """Drafts of one token, and how many the member would have chosen itself.

    Attributes:
        accepted: drafts that are the member's most likely token.
        total: all drafts.
    """

    accepted: int
    total: int

    @property
    def share(self) -> float | None:
        """Greedy acceptance, 0 to 1; None without drafts."""
        return self.accepted / self.total if self.total else None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"acceptance": self.share}


def predictor_of(
    source: Checkpoint, subnet: Subnet, device: str = "cpu", dtype: torch.dtype | None = None
) -> Predictor | None:
    """The MTP layers of a member of an opened folder, by default in its dtype; None where the member has none."""
    if source.prediction is None:
        return None
    made = cut(source, subnet, requantize=True)
    state = {name: made.torch(name).to(device=device, dtype=dtype) for name in made.names if is_mtp(name)}
    return Predictor(source.parent, subnet, source.prediction, state) if state else None


def accepted_drafts(weights: Weights, predictor: Predictor, windows: Sequence[Rows], batch: int = 8) -> Drafts:
    """Greedy acceptance on text: positions at which both have the same most likely token.

    The layers read the text up to the token before, as in speculative decoding after one accepted token. Positions
    count whose label counts.

    Args:
        weights: of the member.
        predictor: its MTP layers.
        windows: rows of one document each, with the label of the last input (`Rows.windows`).
        batch: rows at once.
    """
    trunk, accepted, total = Layers(weights), 0, 0
    with torch.no_grad():
        for at in range(0, len(windows), batch):
            rows = Rows.joined(windows[at : at + batch]).inputs()
            both = predictor.beside(trunk, rows.ids_bl.to(weights.embedding.device))
            own_bl, draft_bl = (trunk.head(hidden_bld).argmax(-1).cpu() for hidden_bld in both)
            counted_bl = rows.every_count()[:, 1:] != 0
            accepted += int((own_bl == draft_bl)[counted_bl].sum())
            total += int(counted_bl.sum())
    return Drafts(accepted, total)
