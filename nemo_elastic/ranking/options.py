# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How importance is measured. Reading a ranking needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nemo_elastic.core.family import known_fields
from nemo_elastic.errors import bad
from nemo_elastic.io.values import integer, keep_plain

FFN = ("activation", "first")
AGGREGATIONS = ("l2_mean", "mean")
EXPERTS = ("mean", "l2")
DEPTH_SCORES = ("mse", "cosine")


@dataclass(frozen=True)
class RankOptions:
    """How importance is measured.

    Attributes:
        ffn: neurons by the "activation" that enters the second linear (Minitron), or by the "first" linear's output
            (Nemotron Elastic).
        aggregation: "l2_mean" is sqrt(sum over samples of (mean over tokens of |a|)^2), "mean" the mean over both.
        depth: "mse" drops layers one by one by the change of the logits; "cosine" scores all of them in the pass that
            scores the widths, by 1 - cosine of a layer's input and output.
        depth_samples: sequences on which "mse" is measured, shared among the ranks that see other samples.
        depth_exact: how many drops "mse" measures anew; the layers left keep the order of the last round. None: all.
        head_channels: how many of the best channels score a Mamba head, e.g. the smallest head_dim of the family.
            None: all.
        experts: of an expert's weight times the norm of what it puts out, over the tokens that are sent to it: the
            "mean" (REAP), or "l2", the root of the mean square.
    """

    ffn: str = "activation"
    aggregation: str = "l2_mean"
    depth: str = "mse"
    depth_samples: int = 8
    depth_exact: int | None = None
    head_channels: int | None = None
    experts: str = "mean"

    def __post_init__(self) -> None:
        keep_plain(self)
        for name, allowed in (
            ("ffn", FFN),
            ("aggregation", AGGREGATIONS),
            ("experts", EXPERTS),
            ("depth", DEPTH_SCORES),
        ):
            if getattr(self, name) not in allowed:
                raise bad(f"rank.{name}", getattr(self, name), f"one of {', '.join(allowed)}")
        integer("rank.depth_samples", self.depth_samples, 1, "at least 1")
        for name in ("depth_exact", "head_channels"):
            if getattr(self, name) is not None:
                integer(f"rank.{name}", getattr(self, name), 1, "at least 1, or null for all")

    def to_json(self) -> dict[str, Any]:
        out = asdict(self)
        if self.experts == EXPERTS[0]:  # rankings of before there were experts say nothing of them
            del out["experts"]
        return out

    @classmethod
    def from_json(cls, data: Any, field: str = "rank") -> RankOptions:
        """Read what `to_json` wrote; unknown fields are errors."""
        return cls(**known_fields(cls, data, field))
