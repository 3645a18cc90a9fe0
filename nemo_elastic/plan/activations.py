# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Bytes that one micro-batch of training keeps for its backward pass, per layer type.

The formulas list what autograd saves in `megatron/` and `nn/`, tensor by tensor, in bf16 training (2 bytes, and 4
where the code computes in fp32). `tests/plan/test_measured.py` compares them with a real model on a CPU, where the
scan is nn.ssd in torch, `tests/megatron/test_moe_layer.py` those of layers with experts. What mamba_ssm's kernel saves
is read from its source (`save_for_backward` of MambaSplitConv1dScanCombinedFn), and what TransformerEngine's
permutation saves (`Routing.fused`): neither was measured.

All figures are per GPU and per token of the micro-batch that the context-parallel rank has between layers. d: hidden
width, t: tensor-parallel size. The residual stream is whole on every rank, or 1/t of the tokens
under sequence parallelism: `Sharding.stream`.
"""

from __future__ import annotations

from dataclasses import dataclass

from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.attention import ATTENTION
from nemo_elastic.core.kinds.mamba import MAMBA
from nemo_elastic.core.kinds.mlp import MLP
from nemo_elastic.core.kinds.moe import EXPERT_FFN, EXPERTS, LATENT, MOE, SHARED_FFN, TOP_K, TOP_K_STRIPES
from nemo_elastic.errors import bad
from nemo_elastic.kernels import MambaWidths, chunk_for

HALF, SINGLE = 2, 4
#: dtype of a router's computations -> bytes
DIGITS = {"bf16": 2, "fp32": 4, "fp64": 8}


@dataclass(frozen=True)
class Routing:
    """How tokens are routed to experts. The defaults are those of Bridge's Nano-3 recipe.

    Attributes:
        router: dtype of the router's computations, a key of `DIGITS` (`moe_router_dtype`; default: the stream's).
        balanced: an auxiliary loss balances experts (`moe_aux_loss_coeff`, `moe_router_load_balancing_type`).
        fused: TransformerEngine permutes tokens (`moe_permute_fusion`), torch otherwise.
        load: tokens of the busiest rank's experts, as a multiple of an even share; an assumption.
    """

    router: str = "fp32"
    balanced: bool = True
    fused: bool = True
    load: float = 1.0


ROUTING = Routing()


@dataclass(frozen=True)
class Sharding:
    """How a layer is divided.

    Attributes:
        tensor: tensor-parallel size.
        sequence: sequence parallelism: the residual stream is divided as well.
        expert: expert-parallel size. It divides weights, not activations: every rank sends its tokens away and gets
            equally many if routing is even.
        context: context-parallel size. It divides a rank's tokens, not the bytes per token: inside attention and Mamba
            a rank has all tokens for its share of the heads.
        routing: of tokens to experts.
    """

    tensor: int = 1
    sequence: bool = False
    expert: int = 1
    context: int = 1
    routing: Routing = ROUTING

    @property
    def stream(self) -> int:
        """Ranks that share the tokens of the residual stream."""
        return self.tensor if self.sequence else 1


def stream(parent: Parent, shards: Sharding) -> float:
    """One copy of the residual stream in bf16: a layer's input, which activation recomputation keeps."""
    return HALF * parent.hidden / shards.stream


def norm(parent: Parent, shards: Sharding, gated: bool = False, kernels: bool = True) -> float:
    """RMSNorm before a linear: its input in fp32 and its output, which the linear keeps.

    Source: nn.functional.rms_norm. F.rms_norm is one kernel on CUDA (torch 2.8 and newer). Where its steps are apart,
    on a CPU and under gates, whose sum it divides by, the normalised input is kept in fp32 as well.
    """
    return ((1 if kernels and not gated else 2) * SINGLE + HALF) * parent.hidden / shards.stream


def mlp(parent: Parent, shards: Sharding, gated: bool = False, kernels: bool = True) -> float:
    """Norm, relu(h), relu(h)^2 (the second linear's input); gates keep that once more before they multiply it."""
    inner = (3 if gated else 2) * HALF * parent.ffn
    return norm(parent, shards, gated, kernels) + inner / shards.tensor + _output_gates(parent, shards, gated)


def attention(parent: Parent, shards: Sharding, gated: bool = False, kernels: bool = True) -> float:
    """Norm, the fused query-key-value output, a contiguous copy of the queries, SDPA's output and its log-sum-exp.

    The output projection's input is counted as a copy of SDPA's output; gates keep what they multiply there. No score
    matrix: SDPA's flash kernel is assumed, as PyTorch chooses it in bf16. Where more ranks share a sequence than there
    are keys and values, these are replicated.
    """
    query = parent.attention_heads * parent.attention_head_dim
    key_value = 2 * _key_value_heads(parent, shards) * parent.attention_head_dim
    inner = HALF * ((5 if gated else 4) * query + key_value) + SINGLE * parent.attention_heads
    return norm(parent, shards, gated, kernels) + inner / shards.tensor + _output_gates(parent, shards, gated)


def widths(parent: Parent, ranks: int = 1) -> MambaWidths:
    """Widths of a Mamba layer, or of the share of one of `ranks` ranks."""
    return MambaWidths(parent.mamba_heads // ranks, parent.mamba_head_dim, parent.mamba_groups // ranks, parent.state)


def mamba(parent: Parent, shards: Sharding, gated: bool = False, kernels: bool = True) -> float:
    """Norm, input projection, scan, gated norm in fp32, and the output projection's input.

    With kernels: the projection [z | x | B | C | dt] and the scan's output before SiLU(z) (both saved by mamba_ssm,
    which computes the rest again), then an fp32 copy of the inner width for the norm of nn.mixer, two where a rank has
    several groups, whose weights multiply apart, or gates. Widths that its fused call does not take keep the
    convolution's output, and sums of dt in fp32.
    Without: see `_torch_scan`. Gates keep the projection and the scan's output before the product, and the norm's
    output.
    """
    t = shards.tensor * shards.context
    local = widths(parent, t)
    inner, projection = local.inner * t, local.projection * t
    if kernels:
        scan = HALF * (projection + inner) + (1 if local.groups == 1 and not gated else 2) * SINGLE * inner
        if not local.fused:
            scan += HALF * local.convolved * t + SINGLE * parent.mamba_heads
    else:
        scan = _torch_scan(parent, projection)
    local_bytes = scan + HALF * inner
    if gated:
        local_bytes += HALF * (projection + 2 * inner)
    return norm(parent, shards, gated, kernels) + local_bytes / shards.tensor + _output_gates(parent, shards, gated)


def _torch_scan(parent: Parent, projection: int) -> float:
    """Bytes per token that the torch scan of a Mamba layer saves (measured tensor by tensor).

    Convolution and gated norm are computed again: the projection and the scan's output in bf16. In fp32 the scan: B,
    C, and of the inner width x, what each position puts in, leaves for the chunk's end, and carries from
    before; chunks' scores, which all heads of a group share, their decays and the product of both; the states before
    each chunk, as the loop leaves them and side by side; six vectors over heads.
    """
    heads, groups, n = parent.mamba_heads, parent.mamba_groups, parent.state
    inner, maps, q = heads * parent.mamba_head_dim, groups * n, chunk_for(n)
    scan = 4 * inner + 2 * maps + (2 * heads + groups) * q + 2 * inner * n / q + 6 * heads
    return HALF * (projection + inner) + SINGLE * scan


def _key_value_heads(parent: Parent, shards: Sharding) -> int:
    """Key-value heads of all ranks together, replicas included."""
    return max(parent.kv_heads, shards.tensor * shards.context)


def context_bytes_per_token(parent: Parent, shards: Sharding) -> float:
    """Bytes per token that a forward pass moves in all-to-alls among context-parallel ranks, in all layers.

    Inputs are [z | x | B | C | dt] of Mamba and queries, keys and values of attention; the outputs are moved back.
    """
    mamba = widths(parent)
    heads = 2 * (parent.attention_heads + _key_value_heads(parent, shards))
    channels = parent.types.count(MAMBA) * (mamba.projection + mamba.inner)
    channels += parent.types.count(ATTENTION) * heads * parent.attention_head_dim
    return HALF * channels / shards.tensor


def moe(parent: Parent, shards: Sharding, gated: bool = False, kernels: bool = True) -> float:
    """Norm, router, the chosen experts of each token, and the shared expert.

    Source: megatron-core 0.19's MoELayer with its all-to-all dispatcher, whose ranks hold whole experts
    (expert_tensor_parallel_size 1). I: what experts read, the latent width or the stream; F, S: widths of an expert
    and of the shared one. Router: scores and probabilities of all experts in fp32, two masks of a byte each; of every
    choice an index and two numbers in fp32, and one in the router's own dtype; the stream in that dtype, if another.
    An auxiliary loss: scores once more, their sum, and the indices. Each choice: its place, its weight, the expert's
    input I, and relu(h) of its F (megatron.experts), of as many as come to the rank. Fused, places are a row of
    2 E + 1 for each token. The projection out of the latent width keeps its input. Gates keep what they multiply:
    the chosen weights before and after, with the axis top_k their scores too, the shared S, and both sides of the
    latent width.
    """
    experts, top_k, how = parent.size(EXPERTS), parent.size(TOP_K), shards.routing
    latent = parent.size(LATENT) if parent.has(LATENT) else 0
    digits = DIGITS[how.router]
    router = (2 * SINGLE + 2) * experts + (8 + 2 * SINGLE + digits) * top_k
    router += digits * parent.hidden if digits != HALF else 0
    router += SINGLE * (experts + 1) + 8 * top_k if how.balanced else 0
    router += SINGLE * (2 * experts + 1) if how.fused else 8 * top_k
    choice = how.load * (routed_input(parent) + HALF * parent.size(EXPERT_FFN) + SINGLE)
    routed, shared = router + top_k * choice + HALF * latent, 2 * HALF * parent.size(SHARED_FFN)
    if gated:
        routed += (3 if parent.has(TOP_K_STRIPES) else 2) * SINGLE * top_k + HALF * 2 * latent
        shared += HALF * parent.size(SHARED_FFN)
    local_bytes = routed / shards.stream + shared / shards.tensor
    return norm(parent, shards, gated, kernels) + local_bytes + _output_gates(parent, shards, gated)


def routed_gradients(parent: Parent, kind: str, shards: Sharding) -> float:
    """Bytes per token of the backward pass of experts at its peak: gradients of their outputs, neurons and inputs, the
    squared neurons, and gradients of the residual stream, of the layer's input and of the router's input.
    """
    if kind != MOE:
        return 0.0
    digits = DIGITS[shards.routing.router]
    each = 2 * (routed_input(parent) + HALF * parent.size(EXPERT_FFN))
    streams = (2 * HALF + (digits if digits != HALF else 0)) * parent.hidden
    return (shards.routing.load * parent.size(TOP_K) * each + streams) / shards.stream


def routed_input(parent: Parent) -> float:
    """Bytes of an expert's input per token: the latent width if there is one, else the residual width."""
    return HALF * (parent.size(LATENT) if parent.has(LATENT) else parent.hidden)


def _output_gates(parent: Parent, shards: Sharding, gated: bool) -> float:
    """The gates of hidden and depth multiply a layer's output one after the other, and each keeps its input."""
    return 2 * stream(parent, shards) if gated else 0.0


#: name of a kind -> bytes per token of one layer
LAYERS = {MAMBA: mamba, MLP: mlp, ATTENTION: attention, MOE: moe}


def layer(parent: Parent, kind: str, shards: Sharding, gated: bool = False, kernels: bool = True) -> float:
    """Bytes per token of one layer of a kind.

    Raises:
        ElasticError: a kind without a formula in `LAYERS`.
    """
    if kind not in LAYERS:
        raise bad("parent.pattern", kind, f"activations are known for layers {', '.join(LAYERS)}")
    return LAYERS[kind](parent, shards, gated, kernels)


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
        recompute: megatron.spec checkpoints every layer: only its input stays.
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
    return total + (norm(parent, shards, gated, kernels) if last else 0.0)
