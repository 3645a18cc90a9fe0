# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which software loads weights of low precision, by precision and layout: as docs/tables/low_precision_loads.md found.

What loads a folder and computes something else is as good as none: it says nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_elastic.formats.quantized import COMPRESSED, MODELOPT, Stored

__all__ = ["OTHERS", "Loads", "loads"]

#: what else reads members in full precision
OTHERS = (
    "llama.cpp and NeMo read no weights in low precision: cut the member from the family in full precision for them."
)
_LAYOUT = (
    "transformers 5.19 does not read ModelOpt's layout: it refuses NVFP4, and loads FP8 without its scales, which is "
    "wrong."
)
_EXPERTS = "transformers 5.19 leaves out a scale of each expert in NVFP4, and computes something else."


@dataclass(frozen=True)
class Loads:
    """What loads a member.

    Attributes:
        transformers: why transformers does not; None where it does, with compressed-tensors beside it.
        cpu: whether vLLM has kernels for it on a CPU, too.
        emulated: whether vLLM runs it there without them, where our plugin is installed.
    """

    transformers: str | None
    cpu: bool
    emulated: bool


def loads(stored: Stored, experts: bool) -> Loads:
    """Which software loads weights.

    Args:
        stored: how they are stored.
        experts: whether the member has any.
    """
    scheme = stored.scheme
    why = _LAYOUT if scheme.layout != COMPRESSED else _EXPERTS if experts and scheme.block else None
    emulated = bool(scheme.block) and stored.activations and not experts
    return Loads(why, scheme.layout == MODELOPT and not scheme.block, emulated)
