# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Published shapes of Nemotron-H parents, by name."""

from __future__ import annotations

from dataclasses import replace

from nemo_elastic.core.family import Parent
from nemo_elastic.errors import bad

__all__ = ["PRESETS", "preset"]

_12B = Parent(
    pattern="M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M-",
    hidden=5120,
    vocab=131072,
    ffn=20480,
    mamba_heads=128,
    mamba_head_dim=80,
    mamba_groups=8,
    state=128,
    attention_heads=40,
    kv_heads=8,
    attention_head_dim=128,
)
_9B = replace(_12B, pattern="M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-", hidden=4480, ffn=15680)
_8B = replace(
    _12B,
    pattern="M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
    hidden=4096,
    ffn=21504,
    mamba_head_dim=64,
    attention_heads=32,
)
_H_4B = replace(_8B, hidden=3072, ffn=12288, mamba_heads=112)
_56B = replace(
    _8B,
    pattern="M-M-M-M*" + "-M-M-M-M-M*" * 9 + "-M-M-M-M-M-",
    hidden=8192,
    ffn=32768,
    mamba_heads=256,
    state=256,
    attention_heads=64,
)
#: the 56B, cut by MiniPuzzle (arXiv 2504.03624): some layers, and FFN channels
_47B = replace(
    _56B,
    pattern="M-M-M-M-M-M-M-M-M*-M-M-M-M-M-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-M-M---MM---M-M*-M-M-M-M-M-",
    ffn=30720,
)
_4B = replace(
    _12B,
    pattern="M-M-M-MM-M-M*-M-M*-M-M-M*-M-M-MM*-MMM-M-M-",
    hidden=3136,
    ffn=12544,
    mamba_heads=96,
)
_TINY = Parent(
    pattern="M-M-M*-M-M*-",
    hidden=128,
    vocab=1024,
    ffn=512,
    mamba_heads=16,
    mamba_head_dim=16,
    mamba_groups=4,
    state=16,
    attention_heads=4,
    kv_heads=2,
    attention_head_dim=32,
)
_NANO_3 = Parent(
    pattern="MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
    hidden=2688,
    vocab=131072,
    mamba_heads=64,
    mamba_head_dim=64,
    mamba_groups=8,
    state=128,
    attention_heads=32,
    kv_heads=2,
    attention_head_dim=128,
    experts=128,
    expert_ffn=1856,
    shared_ffn=3712,
    top_k=6,
    routed_scaling=2.5,
)

#: Sources: NeMo's NemotronNano12Bv2, NemotronNano9Bv2 and NemotronHConfig classes, this project's TinyNemotronH, and
#: Megatron-Bridge's recipes of Nemotron 3 Nano; tests/plan/test_presets.py compares each with its class or recipe. The
#: vocabulary is NeMo's, padding included.
PRESETS: dict[str, Parent] = {
    "nemotron-nano-12b-v2": _12B,
    "nemotron-nano-9b-v2": _9B,
    "nemotron-h-8b": _8B,
    "nemotron-h-4b": _H_4B,
    "nemotron-h-47b": _47B,
    "nemotron-h-56b": _56B,
    "nemotron-3-nano-4b": _4B,
    "nemotron-h-tiny": _TINY,
    "nemotron-3-nano-30b-a3b": _NANO_3,
}


def preset(name: str) -> Parent:
    """The shape of a named parent.

    Raises:
        ElasticError: No such name.
    """
    if name not in PRESETS:
        raise bad("--parent", name, f"a folder, or one of {', '.join(PRESETS)}")
    return PRESETS[name]
