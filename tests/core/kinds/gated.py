# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A kind of layer that the package has not: a gated MLP whose channels are units times their size.

It is what the documentation says that a kind takes: a record with its rows, and one forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from nemo_elastic.core.kinds import registry
from nemo_elastic.core.kinds.record import HF_LAYER, MEGATRON_LAYER, Axis, Kind, Row
from nemo_elastic.nn.forward import MIXERS, LayerRun, Mixer

GATED, UNITS, UNIT_SIZE = "gated", "gated_units", "gated_unit_size"
_HIDDEN, _INNER = ("hidden",), (UNITS, UNIT_SIZE)

KIND = Kind(
    symbol="G",
    name=GATED,
    words="gated MLP",
    axes=(
        Axis(UNITS, "units", "gated units", "gated_groups", "gated groups", per_layer=True),
        Axis(UNIT_SIZE, "unit_size", "channels of a gated unit"),
    ),
    rigid=("gated_groups",),
    rows=(
        Row("gated.pre_norm", GATED, HF_LAYER + "norm.weight", MEGATRON_LAYER + "gated.norm", ((_HIDDEN,),)),
        Row("gated.gate", GATED, HF_LAYER + "mixer.gate_proj.weight", MEGATRON_LAYER + "gated.gate",
            ((_INNER,), (_HIDDEN,)), 0),
        Row("gated.up", GATED, HF_LAYER + "mixer.up_proj.weight", MEGATRON_LAYER + "gated.up",
            ((_INNER,), (_HIDDEN,)), 0),
        Row("gated.down", GATED, HF_LAYER + "mixer.down_proj.weight", MEGATRON_LAYER + "gated.down",
            ((_HIDDEN,), (_INNER,)), 1),
    ),
    site="gated",
    shape=_INNER,
    hf={UNITS: (UNITS,), UNIT_SIZE: (UNIT_SIZE,), "gated_groups": ("gated_groups",)},
    hf_types=(GATED,),
)  # fmt: skip


def gated(x_bld: torch.Tensor, run: LayerRun) -> torch.Tensor:
    """SiLU of the gate times the other half."""
    h_bli = F.silu(run.w.linear("gate", x_bld)) * run.w.linear("up", x_bld)
    run.watch("gated", h_bli.unflatten(-1, tuple(run.w.layer.widths[axis] for axis in _INNER)))
    if run.gates is not None:
        h_bli = h_bli * run.gates.channels(UNITS, UNIT_SIZE).to(h_bli.dtype)
    return run.w.linear("down", h_bli)


@contextmanager
def registered(kinds: Sequence[tuple[Kind, Mixer]] = ((KIND, gated),)) -> Iterator[None]:
    """The package knows the kinds while this lasts."""
    for kind, mixer in kinds:
        registry.register(kind)
        MIXERS[kind.name] = mixer
    try:
        yield
    finally:
        for kind, _ in kinds:
            for axis in registry.KINDS.pop(kind.name).widths:
                del registry._LAYER_AXES[axis]
            del MIXERS[kind.name]
