# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What Bridge's own conversions (`AutoBridge`) have to know of our layers, and ours of a Nemotron-H that it has not.

They ask a layer for the name of its class; by `LayerNormColumnParallelLinear` in it they know one with a norm's weight
that all ranks have whole. Router and members have no name in Hugging Face's format, and Bridge 0.6.2 stops at what has
none (`models/conversion/model_bridge.py`, line 1340): `as_stock` takes them out meanwhile.

Bridge 0.7 is to drop Nemotron-H v1 and Nano v2. `auto_bridge` takes Bridge's conversion where it takes the model, else
ours, whose names are those of the layout table.

>>> register_layers()
>>> with as_stock(model):
...     weights = dict(auto_bridge(folder).export_hf_weights(model, cpu=True))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megatron.bridge.models.conversion.auto_bridge import AutoBridge
from megatron.bridge.models.conversion.mapping_registry import MegatronMappingRegistry
from megatron.bridge.models.conversion.model_bridge import MegatronModelBridge
from megatron.bridge.models.conversion.param_mapping import (
    AutoMapping,
    ColumnParallelMapping,
    MambaConv1dMapping,
    MambaInProjMapping,
    MegatronParamMapping,
    QKVMapping,
    RowParallelMapping,
)
from megatron.bridge.models.hybrid.hybrid_provider import HybridModelProvider
from megatron.core.utils import unwrap_model

from nemo_elastic.core.kinds.record import Kind, Row
from nemo_elastic.core.kinds.registry import KINDS
from nemo_elastic.core.layout import FIRST, LAST, fused
from nemo_elastic.errors import bad
from nemo_elastic.formats.hf.config import PLAIN, from_hf_config, predicts, to_hf_config
from nemo_elastic.formats.megatron.shape import parent_of
from nemo_elastic.megatron.compat import Model, own_name
from nemo_elastic.megatron.linear import ElasticLayerNormColumnParallelLinear, ElasticRowLinear
from nemo_elastic.megatron.modules import ElasticRMSNorm, GatedNormWeight
from nemo_elastic.megatron.moe_layer import ElasticRouter, ReplicatedLinear
from nemo_elastic.megatron.vocabulary import ElasticEmbedding, ElasticHead

from .parents import provider_of

__all__ = ["LAYERS", "NemotronH", "as_stock", "auto_bridge", "register_layers"]

#: of a Nemotron-H, in its `config.json`
ARCHITECTURE = "NemotronHForCausalLM"

#: how ranks share a weight -> our classes with weights of this kind
LAYERS: dict[str, tuple[type, ...]] = {
    "column": (ElasticLayerNormColumnParallelLinear, ElasticEmbedding, ElasticHead, GatedNormWeight),
    "row": (ElasticRowLinear,),
    "replicated": (ElasticRMSNorm, ElasticRouter, ReplicatedLinear),
}


#: dimension that tensor parallelism shards -> Bridge's mapping; replicas are known by their module
_SHARED = {0: ColumnParallelMapping, 1: RowParallelMapping, None: AutoMapping}
#: parts of dimension 0 that it shards each by itself -> Bridge's mapping
_IN_PARTS = {("z", "x", "B", "C", "dt"): MambaInProjMapping, ("x", "B", "C"): MambaConv1dMapping}


def register_layers() -> None:
    """Tell Bridge's conversions; `apply_elastic` calls it. To do so twice changes nothing."""
    for shared, layers in LAYERS.items():
        for layer in layers:
            AutoMapping.register_module_type(layer.__name__, shared)
    if ARCHITECTURE not in AutoBridge.list_supported_models():
        named = {"source": ARCHITECTURE, "target": Model, "provider": HybridModelProvider, "model_type": PLAIN}
        MegatronModelBridge.register_bridge(**named)(NemotronH)


class NemotronH(MegatronModelBridge):
    """Bridge's conversion of a Nemotron-H between Hugging Face and megatron-core, from the layout table.

    Layers that predict further tokens are refused: Bridge's own conversion has them.
    """

    def provider_bridge(self, hf_pretrained: Any) -> HybridModelProvider:
        config = hf_pretrained.config
        data = config.to_dict()
        if predicts(data):
            name, why = "num_nextn_predict_layers", "this Megatron-Bridge has no conversion of such layers"
            raise bad(f"config.json: {name}", data[name], f"0: {why}")
        parent, _ = from_hf_config(data)
        return provider_of(parent, self.dtype_from_hf(config), seq_length=config.max_position_embeddings)

    def mapping_registry(self) -> MegatronMappingRegistry:
        kinds = [(None, (*FIRST, *LAST)), *((kind, kind.rows) for kind in KINDS.values())]
        rows = [(row, kind) for kind, rows in kinds for row in rows if row is fused(row, kind)[0]]
        return MegatronMappingRegistry(*(_mapping(row, kind) for row, kind in rows))

    @classmethod
    def megatron_to_hf_config(cls, provider: Any) -> dict[str, Any]:
        parent = parent_of(provider, provider.vocab_size, "model")
        return to_hf_config(parent, parent.full, base={"max_position_embeddings": provider.seq_length})


def _mapping(row: Row, kind: Kind | None) -> MegatronParamMapping:
    """Of all layers' tensors of a row, with those that are fused with them."""
    megatron, *hf = (n.format(i="*", e="*") for n in (own_name(row.megatron), *(r.hf for r in fused(row, kind))))
    if len(hf) > 1:
        return QKVMapping(megatron, *hf)
    return (_IN_PARTS[row.parts] if row.parts else _SHARED[row.parallel])(megatron, *hf)


class _OurAutoBridge(AutoBridge):
    """Takes our conversion for any model, whatever is registered."""

    @classmethod
    def _validate_config(cls, config: Any, path: str | None = None) -> None:
        from_hf_config(config.to_dict(), str(path))

    @property
    def _model_bridge(self) -> NemotronH:
        return NemotronH()


def auto_bridge(folder: str | Path, **given: Any) -> AutoBridge:
    """Bridge's `AutoBridge.from_hf_pretrained` of a Nemotron-H, with our conversion where Bridge has none or refuses.

    Args:
        folder: with the model, or its name on a hub.
        given: of `from_hf_pretrained`.

    Raises:
        ElasticError: neither takes it.
    """
    register_layers()
    takes = AutoBridge.can_handle(folder, trust_remote_code=given.get("trust_remote_code", False))
    return (AutoBridge if takes else _OurAutoBridge).from_hf_pretrained(str(folder), **given)


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
