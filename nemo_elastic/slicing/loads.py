# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which software runs a member as it is written, and what it needs there: decided once for cards and commands.

docs/cut.md and docs/tables/low_precision_loads.md show what was tried. Software that loads weights of low precision
without an error and computes something else does not run them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.moe import EXPERT_FFN, EXPERTS, LATENT
from nemo_elastic.formats.schemes import COMPRESSED, MODELOPT, Stored

__all__ = [
    "CODE", "CPU_HEADS", "EAGER", "OTHERS", "SLOW", "TRANSFORMERS", "VLLM", "Runs", "needs_eager_experts",
    "where_it_runs",
]  # fmt: skip

TRANSFORMERS, VLLM = "transformers", "vLLM"
OTHERS = "Other software may refuse these weights, or load them and compute something else."
#: axes that vLLM keeps one width of for all layers
_ONE_STATE = ("mamba_heads", "mamba_head_dim")
#: the converter of llama.cpp, `GraniteHybridModel.set_gguf_parameters`, wants the Mamba inner size a multiple of it
_INNER = 64
#: channels of attention heads that vLLM's kernels for a CPU have: more than its own list of them; `serve` asks them
CPU_HEADS = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
#: symbols of layers that vLLM, llama.cpp and NeMo were tried with
_TRIED = set("M-*")
#: needs that a card explains
CODE, SLOW, EAGER = "code in the folder", "slow without a cache", "eager experts"


@dataclass(frozen=True)
class Runs:
    """Where a member runs as it is written.

    Attributes:
        needs: software -> what it needs.
    """

    needs: Mapping[str, tuple[str, ...]]

    def __str__(self) -> str:
        return ", ".join(map(self.named, self.needs)) or "nemo-elastic alone"

    def named(self, name: str) -> str:
        """A software with what it needs."""
        return f"{name} ({'; '.join(self.needs[name])})" if self.needs[name] else name


def where_it_runs(member: Subnet, parent: Parent, low: Stored | None = None) -> Runs:
    """Software that runs a member as it is written, with its needs; `low` is how weights of low precision are stored.

    llama.cpp's converter knows tokenizers by a fingerprint, which no shape tells: that is always a need.
    """
    known = {TRANSFORMERS: _transformers(member, low), VLLM: _vllm(member, parent, low)}
    needs = {name: tuple(need for need in own if own[need]) for name, own in known.items() if own is not None}
    if member.is_uniform and low is None and set(member.pattern) <= _TRIED:
        heads, sizes = (member.widths(axis) for axis in _ONE_STATE)
        if member.widths("attention_heads") and all(h * p % _INNER == 0 for h, p in zip(heads, sizes, strict=True)):
            needs["llama.cpp"] = ("a tokenizer that its converter knows",)
        needs["NeMo"] = ()
    return Runs(needs)


def _transformers(member: Subnet, low: Stored | None) -> dict[str, bool] | None:
    """Each need and whether a member has it; None where it does not run."""
    if low is not None and (low.scheme.layout == MODELOPT or (low.scheme.block and member.widths(EXPERTS))):
        return None
    slow, eager = not member.widths("attention_heads"), needs_eager_experts(member)
    return {CODE: not member.is_uniform, SLOW: slow, EAGER: eager, COMPRESSED: low is not None}


def _vllm(member: Subnet, parent: Parent, low: Stored | None) -> dict[str, bool] | None:
    """See `_transformers`."""
    size, attends = parent.attention_head_dim, bool(member.widths("attention_heads"))
    emulated = low is not None and low.scheme.block > 0 and low.activations
    kernels = low is None or (low.scheme.layout == MODELOPT and not low.scheme.block)
    cpu = (not attends or size in CPU_HEADS) and (kernels or emulated)
    gpu = not attends or (size % 8 == 0 and size <= 256)  # FlashAttention's heads
    one_state = all(len(set(member.widths(axis))) <= 1 for axis in _ONE_STATE)
    if not (set(member.pattern) <= _TRIED and (cpu or gpu) and one_state):
        return None
    return {
        CODE: not member.is_uniform,
        "on a CPU": not gpu,
        "on a GPU, not tried": not cpu,
        "nemo-elastic's plugin on a CPU": emulated and cpu and gpu,
    }


def needs_eager_experts(member: Subnet, multiple: int = 8) -> bool:
    """Whether transformers needs `experts_implementation="eager"`: its grouped products want rows of whole 16 bytes,
    which are `multiple` elements: 8 in bfloat16, 4 in float32.
    """
    read = member.widths(LATENT) or ((member.hidden,) if member.widths(EXPERTS) else ())
    return any(width % multiple for width in (*read, *member.widths(EXPERT_FFN)))
