# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Bytes that one micro-batch of training keeps for its backward pass, per layer type.

The formulas list what autograd saves in `megatron/` and `nn/`, tensor by tensor, in bf16 training (2 bytes, and 4
where the code computes in fp32). `tests/plan/test_measured.py` compares them with a real model on a CPU, where the
scan is nn.ssd in torch. What mamba_ssm's kernel saves is read from its source (`save_for_backward` of
MambaSplitConv1dScanCombinedFn) and was not measured.

All figures are per token of the micro-batch and per GPU. d: hidden width, t: tensor-parallel size. The residual stream
is whole on every rank, or 1/t of the tokens under sequence parallelism: `Sharding.stream`.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_elastic.family import ATTENTION, MAMBA, MLP, Parent

__all__ = ["CHUNK", "Sharding", "attention", "layer", "mamba", "mlp", "norm", "saved", "stream"]

HALF, SINGLE = 2, 4
#: positions per chunk of nn.ssd
CHUNK = 32


@dataclass(frozen=True)
class Sharding:
    """How tensor parallelism divides activations.

    Attributes:
        tensor: tensor-parallel size.
        sequence: sequence parallelism: the residual stream is divided as well.
    """

    tensor: int = 1
    sequence: bool = False

    @property
    def stream(self) -> int:
        """Ranks that share the tokens of the residual stream."""
        return self.tensor if self.sequence else 1


def stream(parent: Parent, shards: Sharding) -> float:
    """One copy of the residual stream in bf16: what activation recomputation keeps of a layer, its input."""
    return HALF * parent.hidden / shards.stream


def norm(parent: Parent, shards: Sharding) -> float:
    """RMSNorm before a linear: its input in fp32, normalised in fp32, and its output, which the linear keeps.

    Source: nn.norm.rms_norm through F.rms_norm, which is composite on a CPU and in older releases for CUDA. Newer
    CUDA releases fuse it and keep 4 d bytes less.
    """
    return (2 * SINGLE + HALF) * parent.hidden / shards.stream


def mlp(parent: Parent, shards: Sharding, gated: bool = False) -> float:
    """Norm, relu(h), relu(h)^2 (the second linear's input); gates keep that once more before they multiply it."""
    widths = 3 if gated else 2
    return norm(parent, shards) + widths * HALF * parent.ffn / shards.tensor + _output_gates(parent, shards, gated)


def attention(parent: Parent, shards: Sharding, gated: bool = False) -> float:
    """Norm, the fused query-key-value output, a contiguous copy of the queries, SDPA's output and its log-sum-exp.

    The output projection's input is counted as a copy of SDPA's output (a gated product is one). No score matrix:
    SDPA's flash kernel is assumed, as PyTorch chooses it in bf16.
    """
    query = parent.attention_heads * parent.attention_head_dim
    key_value = 2 * parent.kv_heads * parent.attention_head_dim
    inner = HALF * (4 * query + key_value) + SINGLE * parent.attention_heads
    return norm(parent, shards) + inner / shards.tensor + _output_gates(parent, shards, gated)


def mamba(parent: Parent, shards: Sharding, gated: bool = False, kernels: bool = True) -> float:
    """Norm, input projection, scan, gated norm in fp32, and the output projection's input.

    With kernels: the projection [z | x | B | C | dt] and the scan's output before SiLU(z) (both saved by mamba_ssm,
    which computes the rest again), then two fp32 copies of the inner width for the norm of megatron.mixer.
    Without: nn.ssd, see `_torch_scan`. Gates keep the projection and the scan's output before the product, and the
    norm's output.
    """
    inner = parent.mamba_heads * parent.mamba_head_dim
    projection = 2 * inner + 2 * parent.mamba_groups * parent.state + parent.mamba_heads
    if kernels:
        scan = HALF * (projection + inner) + 2 * SINGLE * inner
    else:
        scan = _torch_scan(parent)
    own = scan + HALF * inner
    if gated:
        own += HALF * (projection + 2 * inner)
    return norm(parent, shards) + own / shards.tensor + _output_gates(parent, shards, gated)


def _torch_scan(parent: Parent) -> float:
    """What nn.conv, nn.ssd and nn.norm keep (measured tensor by tensor), q positions a chunk.

    bf16: the padded input of the convolution and that of its SiLU. fp32: nine inner widths (x in two layouts, as input
    of the batched product, weighted by dt; y, z, SiLU(z), y SiLU(z), the normalised product), the q x q mixing
    matrices of all heads twice and of all groups once, B and C twice each, the state before every chunk twice (in the
    loop, and stacked), five vectors over heads.
    """
    heads, head_dim, groups, state = parent.mamba_heads, parent.mamba_head_dim, parent.mamba_groups, parent.state
    inner, maps = heads * head_dim, groups * state
    matrices = 2 * heads * CHUNK + groups * CHUNK
    states = 2 * inner * state / CHUNK
    single = 9 * inner + matrices + 4 * maps + states + 5 * heads + groups
    return SINGLE * single + 2 * HALF * (inner + 2 * maps)


def _output_gates(parent: Parent, shards: Sharding, gated: bool) -> float:
    """The gates of hidden and depth multiply a layer's output one after the other, and each keeps its input."""
    return 2 * stream(parent, shards) if gated else 0.0


def layer(parent: Parent, kind: str, shards: Sharding, gated: bool = False, kernels: bool = True) -> float:
    """Bytes per token of one layer of a type."""
    if kind == MAMBA:
        return mamba(parent, shards, gated, kernels)
    return {MLP: mlp, ATTENTION: attention}[kind](parent, shards, gated)


def saved(
    parent: Parent,
    kinds: tuple[str, ...],
    shards: Sharding,
    *,
    recompute: bool,
    gated: bool = False,
    kernels: bool = True,
    first: bool = True,
    last: bool = True,
) -> float:
    """Bytes per token of all layers of a pipeline stage, without the loss.

    Args:
        parent: shape of the model; the full model is the largest that a micro-batch runs.
        kinds: layer types of the stage.
        shards: tensor and sequence parallelism.
        recompute: megatron.stack checkpoints every layer: only its input stays.
        gated: soft masks of the router, before shapes are frozen.
        kernels: mamba_ssm's kernels are there.
        first: the stage has the embedding (token ids, and the stream before the hidden gate).
        last: the stage has the final norm, whose output the head keeps.
    """
    total = 0.0
    for kind in kinds:
        total += stream(parent, shards) if recompute else layer(parent, kind, shards, gated, kernels)
    if first:
        total += 8 + (stream(parent, shards) if gated else 0.0)
    return total + (norm(parent, shards) if last else 0.0)
