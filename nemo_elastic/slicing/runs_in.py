# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Where a member runs, and what it needs there: one line for `inspect`, `slice` and the cards.

docs/deploy.md has the table of what was tried.
"""

from __future__ import annotations

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.moe import EXPERT_FFN, EXPERTS, LATENT

__all__ = ["CPU_HEADS", "needs_eager_experts", "runs_in", "vllm_heads"]

#: axes that vLLM keeps one width of for all layers
_ONE_STATE = ("mamba_heads", "mamba_head_dim")
#: of which the converter of llama.cpp, `GraniteHybridModel.set_gguf_parameters`, wants the Mamba inner size a multiple
_INNER = 64
#: channels of attention heads that vLLM's kernels for a CPU have: more than its own list of them; `serve` asks them
CPU_HEADS = (32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
#: symbols of layers that vLLM, llama.cpp and NeMo were tried with
_TRIED = set("M-*")


def runs_in(member: Subnet, parent: Parent) -> str:
    """Software that runs a member as it is written, with what each needs.

    Args:
        member: its shape.
        parent: whose it is.

    Returns:
        E.g. "transformers, vLLM, NeMo", with needs in brackets. llama.cpp's converter knows tokenizers by a
        fingerprint, of which no shape says anything: that is always such a need.
    """
    code = "" if member.is_uniform else "its own code"
    attends = bool(member.widths("attention_heads"))
    served = all(len(set(member.widths(axis))) <= 1 for axis in _ONE_STATE)
    slow = "" if attends else "no cache, so slow"
    eager = "eager experts" if needs_eager_experts(member) else ""
    told = [_with("transformers", code, slow, eager)]
    tried = set(member.pattern) <= _TRIED
    devices = vllm_heads(member, parent)
    if served and tried and devices:
        told.append(_with("vLLM", code, f"on {devices[0]}" if len(devices) == 1 else ""))
    if member.is_uniform and tried:
        told += ["llama.cpp (a tokenizer that its converter knows)"] if attends and _is_converted(member) else []
        told.append("NeMo")
    return ", ".join(told)


def vllm_heads(member: Subnet, parent: Parent) -> list[str]:
    """Devices on which vLLM has attention for a member's heads: on a GPU where FlashAttention does."""
    size, free = parent.attention_head_dim, not member.widths("attention_heads")
    has = {"a CPU": free or size in CPU_HEADS, "a GPU": free or (size % 8 == 0 and size <= 256)}
    return [device for device, found in has.items() if found]


def _is_converted(member: Subnet) -> bool:
    """Whether llama.cpp's converter takes the widths of a uniform member."""
    heads, sizes = (member.widths(axis) for axis in _ONE_STATE)
    return all(h * p % _INNER == 0 for h, p in zip(heads, sizes, strict=True))


def needs_eager_experts(member: Subnet, multiple: int = 8) -> bool:
    """Whether transformers needs `experts_implementation="eager"`: its grouped products want rows of whole 16 bytes.

    Args:
        member: its shape.
        multiple: elements in 16 bytes: 8 in bfloat16, 4 in float32.
    """
    read = member.widths(LATENT) or ((member.hidden,) if member.widths(EXPERTS) else ())
    return any(width % multiple for width in (*read, *member.widths(EXPERT_FFN)))


def _with(name: str, *needs: str) -> str:
    given = "; ".join(n for n in needs if n)
    return f"{name} ({given})" if given else name
