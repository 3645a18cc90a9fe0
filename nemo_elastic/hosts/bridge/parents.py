# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Providers and recipes of dense parents: Bridge's own recipes while it has them, else made from the presets.

Bridge 0.7 is to drop Nemotron-H v1 and Nemotron Nano v2 (0.6.2 warns, `megatron/bridge/models/_deprecation.py`); the
curriculum sets rates, batches, data and layouts itself, so a recipe of these parents is their shape and little else.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.bridge.models.hybrid.hybrid_provider import HybridModelProvider
from megatron.bridge.recipes import nemotronh
from megatron.bridge.recipes.common import _pretrain_common
from megatron.core.activations import squared_relu

from nemo_elastic.core.family import Parent
from nemo_elastic.formats.megatron.shape import stock_sizes
from nemo_elastic.megatron.dist_checkpoint import dtype_args
from nemo_elastic.plan import preset


def provider_of(parent: Parent, dtype: torch.dtype = torch.bfloat16, **settings: Any) -> HybridModelProvider:
    """Bridge's provider of a whole parent.

    Args:
        parent: its shape; vocabulary as it is, without padding.
        dtype: of its weights: float32, bfloat16 or float16.
        settings: further fields of the provider.
    """
    sizes = stock_sizes(parent, parent.full, experts=True) | dtype_args(dtype)
    return HybridModelProvider(**sizes, activation_func=squared_relu, is_hybrid_model=True, **settings)


def nemotron_nano_12b_v2_pretrain_config() -> Any:
    """Bridge's container for Nemotron Nano 12B v2."""
    return _recipe("nemotron_nano_12b_v2_pretrain_config", "nemotron-nano-12b-v2", tensor=4)


def nemotron_nano_9b_v2_pretrain_config() -> Any:
    """Bridge's container for Nemotron Nano 9B v2."""
    return _recipe("nemotron_nano_9b_v2_pretrain_config", "nemotron-nano-9b-v2", tensor=2)


def nemotronh_8b_pretrain_config() -> Any:
    """Bridge's container for Nemotron-H 8B."""
    return _recipe("nemotronh_8b_pretrain_config", "nemotron-h-8b", tensor=2)


def _recipe(name: str, shape: str, tensor: int) -> Any:
    stock = getattr(nemotronh, name, None)
    if stock is not None:
        return stock()
    config = _pretrain_common()
    ranks = {"tensor_model_parallel_size": tensor, "sequence_parallel": True, "pipeline_dtype": torch.bfloat16}
    config.model = provider_of(preset(shape), seq_length=8192, **ranks)
    config.dataset.seq_length = 8192
    config.tokenizer.tokenizer_type, config.tokenizer.tokenizer_model = "NullTokenizer", None
    config.mixed_precision = "bf16_mixed"
    return config
