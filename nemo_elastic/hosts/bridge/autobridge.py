# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What Bridge's own conversions (`AutoBridge`) have to know of our layers: how tensor-parallel ranks share each.

They ask a layer for the name of its class; by `LayerNormColumnParallelLinear` in it they know one with a norm's weight
that all ranks have whole. Router and members have no name in Hugging Face's format, and Bridge 0.6.2 stops at what has
none (`models/conversion/model_bridge.py`, line 1340): `as_stock` takes them out meanwhile.

>>> register_layers()
>>> with as_stock(model):
...     weights = dict(AutoBridge.from_hf_pretrained(folder).export_hf_weights(model, cpu=True))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from megatron.bridge.models.conversion.param_mapping import AutoMapping
from megatron.core.utils import unwrap_model

from nemo_elastic.megatron.linear import ElasticLayerNormColumnParallelLinear, ElasticRowLinear
from nemo_elastic.megatron.modules import ElasticRMSNorm, GatedNormWeight
from nemo_elastic.megatron.moe_layer import ElasticRouter, ReplicatedLinear
from nemo_elastic.megatron.vocabulary import ElasticEmbedding, ElasticHead

__all__ = ["LAYERS", "as_stock", "register_layers"]

#: how ranks share a weight -> our classes that hold such
LAYERS: dict[str, tuple[type, ...]] = {
    "column": (ElasticLayerNormColumnParallelLinear, ElasticEmbedding, ElasticHead, GatedNormWeight),
    "row": (ElasticRowLinear,),
    "replicated": (ElasticRMSNorm, ElasticRouter, ReplicatedLinear),
}


def register_layers() -> None:
    """Tell Bridge's conversions; `apply_elastic` calls it. To do so twice changes nothing."""
    for shared, layers in LAYERS.items():
        for layer in layers:
            AutoMapping.register_module_type(layer.__name__, shared)


@contextmanager
def as_stock(model: Sequence[Any]) -> Iterator[None]:
    """Run the body with a family's model that shows its whole model's weights alone; all ranks call it.

    Args:
        model: Bridge's chunks of it, wrapped or not.
    """
    cores = [core for core in unwrap_model(list(model)) if "elastic" in core._modules]
    taken = [core._modules.pop("elastic") for core in cores]
    try:
        yield
    finally:
        for core, members in zip(cores, taken, strict=True):
            core._modules["elastic"] = members
