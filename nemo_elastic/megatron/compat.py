# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Where megatron-core 0.15 and today's differ: one name for both, chosen by what can be imported.

0.15.3 is what NeMo 2.7 takes, 0.19 what Megatron-Bridge takes. Nothing outside of this module asks for a version.

| here | 0.15 | 0.19 |
| --- | --- | --- |
| `Model`, `Stack`, `StackSubmodules` | `MambaModel`, `MambaStack`, … | `HybridModel`, `HybridStack`, … |
| `new_model` | `mamba_stack_spec`, `hybrid_override_pattern` | `hybrid_stack_spec`, `hybrid_layer_pattern` |
| `mlp_entry` | a ModuleSpec | a function that builds the MLP |
| `HYBRID` | no experts in a hybrid | `moe.moe_layer` |
| `convolution`, `named_parameters`, `own_name` | `mixer.conv1d` | two parameters; checkpoints keep the old names |
| `shard` | finds its groups by itself | is given both |
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from functools import partial
from types import FunctionType
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint

__all__ = [
    "HYBRID",
    "Model",
    "Stack",
    "StackSubmodules",
    "content",
    "convolution",
    "mlp_entry",
    "named_parameters",
    "named_weights",
    "new_model",
    "own_name",
    "shard",
    "with_globals",
]

#: whether megatron-core has hybrid models under that name, as it has since it has no others
HYBRID = importlib.util.find_spec("megatron.core.models.hybrid") is not None

if HYBRID:
    from megatron.core.models.hybrid.hybrid_block import HybridStack as Stack
    from megatron.core.models.hybrid.hybrid_block import HybridStackSubmodules as StackSubmodules
    from megatron.core.models.hybrid.hybrid_model import HybridModel as Model
else:
    from megatron.core.models.mamba import MambaModel as Model
    from megatron.core.ssm.mamba_block import MambaStack as Stack
    from megatron.core.ssm.mamba_block import MambaStackSubmodules as StackSubmodules


def new_model(config: Any, spec: ModuleSpec, vocab: int, length: int, pattern: str, tied: bool = False) -> Any:
    """A hybrid model without positions, whole or this rank's part of it."""
    names = (
        ("hybrid_stack_spec", "hybrid_layer_pattern") if HYBRID else ("mamba_stack_spec", "hybrid_override_pattern")
    )
    return Model(
        config=config,
        vocab_size=vocab,
        max_sequence_length=length,
        position_embedding_type="none",
        share_embeddings_and_output_weights=tied,
        **dict(zip(names, (spec, pattern), strict=True)),
    )


def mlp_entry(module: type, submodules: MLPSubmodules) -> Any:
    """What a layer's spec has for its MLP."""
    if HYBRID:
        return partial(module.as_mlp_submodule, submodules=submodules)
    return ModuleSpec(module=module, submodules=submodules)


def with_globals(function: FunctionType, **names: Any) -> FunctionType:
    """A function of another module, to which these global names mean something else; the module stays as it is."""
    seen = function.__globals__ | names
    made = FunctionType(function.__code__, seen, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def convolution(mixer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a Mamba mixer's convolution."""
    if HYBRID:
        return mixer.conv1d_weight, mixer.conv1d_bias
    return mixer.conv1d.weight, mixer.conv1d.bias


def own_name(name: str) -> str:
    """The name that the model itself has for a parameter of the layout table."""
    return name.replace(".mixer.conv1d.", ".mixer.conv1d_") if HYBRID else name


def named_parameters(model: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """A model's parameters by the names that the layout table and every checkpoint have."""
    for name, parameter in model.named_parameters():
        yield name.replace(".mixer.conv1d_", ".mixer.conv1d."), parameter


def named_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """`named_parameters`, and what of a model is its weights and no parameter: the biases of experts."""
    yield from named_parameters(model)
    for name, buffer in model.named_buffers():
        if name.endswith(".mlp.router.expert_bias"):
            yield name, buffer


def shard(state: Mapping[str, Any], prefix: str, axes: Mapping[str, int], offsets: tuple = ()) -> dict[str, Any]:
    """Tensors as a distributed checkpoint takes them: replicas, but for those that tensor-parallel ranks share.

    Args:
        axes: name -> dimension of which each rank has its part.
    """
    groups = {}
    if HYBRID:
        groups = {
            "tp_group": parallel_state.get_tensor_model_parallel_group(),
            "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
        }
    return make_sharded_tensors_for_checkpoint(state, prefix, dict(axes), offsets, **groups)


def content(model: Any, prefix: str = "") -> dict[str, Any]:
    """A model's weights as a distributed checkpoint takes them."""
    if HYBRID:
        metadata = {"dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True)}
        return model.sharded_state_dict(prefix=prefix, metadata=metadata)
    return model.sharded_state_dict(prefix=prefix)
