# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Widths to prune to for a share of the parameters, in the proportions that NVIDIA chose for its own small models.

ModelOpt prunes to widths that it is given; which widths is left to the user. Two published models show a choice each:
Nano V2 9B of the 12B gave up depth, hidden and FFN, Nemotron-H 4B of the 8B hidden, FFN and Mamba heads. Of the two
the nearer in size serves, all its axes taken to one power, and the FFN, whose steps are the finest, fits the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent
from nemo_elastic.errors import bad
from nemo_elastic.plan.presets import preset

#: ModelOpt's steps of the widths. Its own are 64, 64, 4 and 4, for models 20 times as wide: 64 would leave three
#: widths of 256. A size on Mamba's heads must keep whole groups as well.
DIVISORS = {
    "hidden_size_divisor": 16,
    "ffn_hidden_size_divisor": 32,
    "mamba_num_heads_divisor": 4,
    "mamba_head_dim_divisor": 4,
}
#: size in ModelOpt's `export_config` -> field of Parent
FIELDS = {
    "hidden_size": "hidden",
    "ffn_hidden_size": "ffn",
    "mamba_num_heads": "mamba_heads",
    "mamba_head_dim": "mamba_head_dim",
    "num_attention_heads": "attention_heads",
}


@dataclass(frozen=True)
class Cut:
    """What a published model keeps of its parent, each as a share."""

    hidden: float
    ffn: float
    inner: float
    depth: float
    parameters: float

    @classmethod
    def between(cls, parent: Parent, child: Parent) -> Cut:
        return cls(
            child.hidden / parent.hidden,
            child.ffn / parent.ffn,
            child.mamba_heads * child.mamba_head_dim / (parent.mamba_heads * parent.mamba_head_dim),
            child.num_layers / parent.num_layers,
            parameters(child, child.full) / parameters(parent, parent.full),
        )


def cuts() -> tuple[Cut, Cut]:
    """The two published choices; the 4B's sizes are those of NeMo's NemotronHConfig4B."""
    eight = preset("nemotron-h-8b")
    return (
        Cut.between(preset("nemotron-nano-12b-v2"), preset("nemotron-nano-9b-v2")),
        Cut.between(eight, replace(eight, hidden=3072, ffn=12288, mamba_heads=112)),
    )


def pruning(shape: Parent, parent: Parent) -> dict[str, int]:
    """ModelOpt's `export_config`: the sizes in which a shape differs from its parent."""
    fields = FIELDS | {"num_layers": "num_layers"}
    sizes = {name: getattr(shape, field) for name, field in fields.items()}
    return {name: size for name, size in sizes.items() if size != getattr(parent, fields[name])}


def nearest(ratio: float) -> Cut:
    """The published cut that is nearer to a share of the parameters."""
    return min(cuts(), key=lambda c: abs(math.log(c.parameters / ratio)))


def depth(parent: Parent, ratio: float) -> int:
    """Layers that a model of this share keeps: the published share of depth, to the power that makes its size ours."""
    cut = nearest(ratio)
    return round(parent.num_layers * cut.depth ** (math.log(ratio) / math.log(cut.parameters)))


def targets(parent: Parent, ratio: float, pattern: str | None = None) -> Parent:
    """The shape to prune to for a share of the parent's parameters.

    Args:
        parent: its shape.
        ratio: parameters to keep, as a share.
        pattern: layers that stay. Which ModelOpt drops shows when it has dropped them; widths alone by default.

    Raises:
        ElasticError: no widths come within 2%.
    """
    kept = replace(parent, pattern=pattern or parent.pattern)
    wanted = ratio * parameters(parent, parent.full)
    cut, best = nearest(ratio), None
    for step in range(1, 301):
        power = step / 100
        heads, head_dim = _inner(parent, cut.inner**power)
        shape = replace(
            kept,
            hidden=_rounded(parent.hidden * cut.hidden**power, DIVISORS["hidden_size_divisor"]),
            mamba_heads=heads,
            mamba_head_dim=head_dim,
        )
        shape = replace(shape, ffn=_ffn(shape, parent.ffn, wanted))
        off = parameters(shape, shape.full) / wanted - 1
        strain = abs(math.log(shape.ffn / parent.ffn) - power * math.log(cut.ffn))
        if abs(off) <= 0.02 and (best is None or strain < best[0]):
            best = (strain, shape)
    if best is None:
        raise bad("ratio", ratio, f"no widths of {kept.pattern} come within 2% of it")
    return best[1]


def _rounded(width: float, divisor: int) -> int:
    return max(divisor, round(width / divisor) * divisor)


def _inner(parent: Parent, share: float) -> tuple[int, int]:
    """Mamba heads and head size whose product is nearest to a share of the parent's; more heads where two are."""
    step = math.lcm(DIVISORS["mamba_num_heads_divisor"], parent.mamba_groups)
    dims = range(DIVISORS["mamba_head_dim_divisor"], parent.mamba_head_dim + 1, DIVISORS["mamba_head_dim_divisor"])
    pairs = [(h, p) for h in range(parent.mamba_heads, 0, -1) if h % step == 0 for p in dims]
    inner = share * parent.mamba_heads * parent.mamba_head_dim
    return min(pairs, key=lambda pair: (abs(math.log(pair[0] * pair[1] / inner)), -pair[0]))


def _ffn(shape: Parent, most: int, wanted: float) -> int:
    """FFN width that brings a shape nearest to the parameters wanted."""
    widths = range(DIVISORS["ffn_hidden_size_divisor"], most + 1, DIVISORS["ffn_hidden_size_divisor"])
    one, two = (parameters(s, s.full) for s in (replace(shape, ffn=1), replace(shape, ffn=2)))
    return min(widths, key=lambda ffn: abs(one + (ffn - 1) * (two - one) - wanted))
