# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What Bridge's own conversions (`AutoBridge`) have to know of our layers: how tensor-parallel ranks share each.

They ask a layer for the name of its class. With this, a family's model in training is exported as any other, by
`AutoBridge` or `checkpoint.also_save_hf_checkpoint`: as the whole model, for router and members have no name there.
"""

from __future__ import annotations

from megatron.bridge.models.conversion.param_mapping import AutoMapping

from nemo_elastic.megatron.linear import ElasticColumnLinear, ElasticRowLinear
from nemo_elastic.megatron.norm import ElasticRMSNorm, GatedNormWeight
from nemo_elastic.megatron.vocabulary import ElasticEmbedding, ElasticHead

__all__ = ["LAYERS", "register_layers"]

#: how ranks share a weight -> our classes that hold such
LAYERS: dict[str, tuple[type, ...]] = {
    "column": (ElasticColumnLinear, ElasticEmbedding, ElasticHead, GatedNormWeight),
    "row": (ElasticRowLinear,),
    "replicated": (ElasticRMSNorm,),
}


def register_layers() -> None:
    """Tell Bridge's conversions; `apply_elastic` calls it. To do so twice changes nothing."""
    for shared, layers in LAYERS.items():
        for layer in layers:
            AutoMapping.register_module_type(layer.__name__, shared)
