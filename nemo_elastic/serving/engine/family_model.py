# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""All members and extra shapes of a family as one model of vLLM: one copy of the weights, one cache, one at a time.

Every member is vLLM's Nemotron-H on views of the family's weights: nothing is allocated, copied or repacked, and
products are the runtime's (`LayerWeights.linear`).

Members share one cache. Attention of a smaller member keeps the same heads of keys and values, so it reads
and writes pages of the largest. Its Mamba states are smaller: they are at the beginning of the same page.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from vllm.compilation.backends import set_model_tag
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.forward_context import get_forward_context
from vllm.logger import init_logger
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.mamba.mamba_mixer2 import MambaMixer2
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.models.nemotron_h import (
    ALL_DECODER_LAYER_TYPES,
    NemotronHForCausalLM,
    NemotronHMambaDecoderLayer,
    NemotronHModel,
)
from vllm.utils.torch_utils import _encode_layer_name

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.attention import ATTENTION, ATTENTION_HEADS
from nemo_elastic.core.kinds.mamba import MAMBA, MAMBA_HEADS
from nemo_elastic.core.kinds.mlp import MLP
from nemo_elastic.core.layout import by_name, originals
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf.config import to_hf_config
from nemo_elastic.nn.weights import LayerWeights, Weights
from nemo_elastic.plugins import load_plugins
from nemo_elastic.runtime import load_family
from nemo_elastic.runtime.family_runtime import Stacks, members_of

from .experts import ExpertsLayer

logger = init_logger(f"vllm.{__name__}")  # vLLM shows only messages of its loggers


class FamilyForCausalLM(NemotronHForCausalLM):
    """A family; `use` sets the member of the next steps."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        nn.Module.__init__(self)
        self.vllm_config, self.model_config = vllm_config, vllm_config.model_config
        self.config = config = self.model_config.hf_config
        self.quant_config, self.scheduler_config = None, vllm_config.scheduler_config
        load_plugins()
        self.source = open_source(self.model_config.model)
        shapes = members_of(self.source)
        self.names = tuple(shapes)
        members = [
            Member(vllm_config, self.source.parent, subnet, f"member_{i}") for i, subnet in enumerate(shapes.values())
        ]
        self.members = nn.ModuleList(members)
        self._states = [pair for member in members[1:] for pair in _share(member, members[0])]
        self.logits_processor = LogitsProcessor(config.vocab_size)
        self.make_empty_intermediate_tensors = members[0].model.make_empty_intermediate_tensors
        self._active = 0

    def use(self, name: str) -> None:
        """Let this member run until the next call."""
        self._active = self.names.index(name)

    @property
    def active(self) -> Member:
        """The member that runs."""
        return self.members[self._active]

    @property
    def model(self) -> nn.Module:  # vLLM looks into it
        return self.active.model

    @property
    def lm_head(self) -> nn.Module:
        return self.active.lm_head

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.active.model.embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **more: Any,
    ) -> torch.Tensor:
        share_metadata(self._states)
        self.hidden = self.active.model(input_ids, positions, intermediate_tensors, inputs_embeds)
        return self.hidden

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        return self.logits_processor(self.active.lm_head, hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load the family once; what vLLM would read of the files stays unread."""
        device = self.active.model.norm_f.weight.device
        self.family = load_family(self.source, dtype=self.model_config.dtype, device=device)
        if self.family.underflowed:
            dtype = self.model_config.dtype
            logger.warning("%d weights are too small for %s, and are 0", self.family.underflowed, dtype)
        stacks = self.family.stack_experts()
        for name, member in zip(self.names, self.members, strict=True):
            member.read(self.family.select(name).weights, self.source.subnet, stacks)
        logger.info(
            "Family of %d models: %.1f MiB of weights, %.1f MiB for members",
            len(self.names), self.family.nbytes / 2**20, self.family.slice_bytes / 2**20,
        )  # fmt: skip
        return {name for name, _ in self.named_parameters()}


class MambaLayer(NemotronHMambaDecoderLayer):
    """vLLM's Mamba layer with the widths of its layer, where those differ."""

    def __init__(self, config: Any, layer_idx: int, *more: Any, **named: Any) -> None:
        super().__init__(config.get_nemotron_h_config_for_layer(layer_idx), layer_idx, *more, **named)
        # A mixer reads `conv_weights`. On some CPUs vLLM repacks the other copy, and fails on widths of a member.
        self.mixer.conv1d.quant_method = OnViews()


def member_config(base: Any, parent: Parent, subnet: Subnet) -> Any:
    """The config of a member, from the family's config `base`, of the same class."""
    kept = {key: value for key, value in base.to_dict().items() if key not in ("layers_block_type", "layer_types")}

    def config(widths: Subnet) -> dict[str, Any]:
        plain = to_hf_config(parent, widths, base=kept)
        fields = {
            key: plain[key] for key in plain if key not in ("architectures", "model_type", "auto_map", "torch_dtype")
        }
        return {**kept, **fields}

    of_layer = []
    for layer in subnet.layers:  # each alone, so that what is the largest over the layers is that of this one
        of_layer.append(type(base).from_dict(config(Subnet(subnet.hidden, (layer,)))))

    class MemberConfig(type(base)):
        """With the widths of each layer."""

        def get_nemotron_h_config_for_layer(self, index: int) -> Any:
            return of_layer[index]

    made = type(base).from_dict(config(subnet))
    made.__class__ = MemberConfig
    return made


class Member(nn.Module):
    """A member; `prefix` begins the names of its layers, without a number between dots."""

    def __init__(self, vllm_config: VllmConfig, parent: Parent, subnet: Subnet, prefix: str) -> None:
        super().__init__()
        model_config, own = copy.copy(vllm_config.model_config), copy.copy(vllm_config)
        config = member_config(model_config.hf_config, parent, subnet)
        model_config.hf_config = model_config.hf_text_config = config
        own.model_config, own.quant_config = model_config, ViewsConfig()
        # what is compiled is kept by a hash of these settings, which knows no widths: members would read each other's
        own.additional_config = {**own.additional_config, "nemo_elastic_member": [prefix, subnet.to_json()]}
        self.subnet = subnet
        kinds = {**ALL_DECODER_LAYER_TYPES, "M": MambaLayer, "E": ExpertsLayer}
        with set_model_tag(prefix), set_current_vllm_config(own):
            self.model = NemotronHModel(vllm_config=own, prefix=f"{prefix}.model", decoder_layer_types=kinds)
        self.lm_head = ParallelLMHead(
            config.vocab_size, config.hidden_size, quant_config=own.quant_config, prefix=f"{prefix}.lm_head"
        )

    def mixer(self, index: int) -> nn.Module:
        """What mixes tokens in the layer that is number `index` of the parent."""
        at = [layer.index for layer in self.subnet.layers].index(index)
        return self.model.layers[at].mixer

    @torch.no_grad()
    def read(self, weights: Weights, held: Subnet, stacks: Stacks) -> None:
        """Use matrices as views, and copy vectors. `stacks` are the experts of the layers of `held`, the family's."""
        self.model.embed_tokens.quant_method.weight = weights.embedding
        self.lm_head.quant_method.weight = weights.head
        self.model.norm_f.weight.copy_(weights.final_norm)
        for layer, cut in zip(self.model.layers, weights.layers, strict=True):
            layer.norm.weight.copy_(cut["pre_norm"])
            if (index := cut.layer.index) in stacks:
                kept = originals(weights.parent, by_name("moe.up"), held, self.subnet, index)
                layer.mixer.read(weights.parent, cut, *stacks[index], kept)
            else:
                _READ[cut.layer.type](layer.mixer, cut)


def _place(layer: Any, weights: LayerWeights, *names: str) -> None:
    layer.quant_method.parts = [(weights, name) for name in names]


def _read_mamba(mixer: Any, weights: LayerWeights) -> None:
    _place(mixer.in_proj, weights, "in_proj")
    _place(mixer.out_proj, weights, "out_proj")
    mixer.conv1d.weight.copy_(weights["conv_weight"].view_as(mixer.conv1d.weight))
    mixer.conv1d.bias.copy_(weights["conv_bias"])
    mixer.A.copy_(-torch.exp(weights["a_log"].float()))
    for name, param in (("d", mixer.D), ("dt_bias", mixer.dt_bias), ("norm", mixer.norm.weight)):
        param.copy_(weights[name])


def _read_mlp(mixer: Any, weights: LayerWeights) -> None:
    _place(mixer.up_proj, weights, "up")
    _place(mixer.down_proj, weights, "down")


def _read_attention(mixer: Any, weights: LayerWeights) -> None:
    _place(mixer.qkv_proj, weights, "q", "k", "v")
    _place(mixer.o_proj, weights, "out")


_READ = {MAMBA: _read_mamba, MLP: _read_mlp, ATTENTION: _read_attention}


class OnViews(QuantizeMethodBase):
    """A linear layer with the concatenated outputs of one or more matrices, each a view.

    To vLLM it is a quantization method: the one place where a layer's weights and product are exchanged.

    Attributes:
        parts: the matrices, by name, of a layer of a member.
        weight: weight of an embedding or the head, used instead of `parts`.
    """

    def __init__(self) -> None:
        self.parts: list[tuple[LayerWeights, str]] = []
        self.weight: torch.Tensor | None = None

    def create_weights(self, layer: nn.Module, *sizes: Any, **more: Any) -> None:
        """Nothing: the storage is there already, or will be."""

    def apply(self, layer: nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """``x @ W.T``, channels in order."""
        if self.weight is not None:
            return F.linear(x, self.weight)
        out = [weights.linear(name, x) for weights, name in self.parts]
        return out[0] if len(out) == 1 else torch.cat(out, -1)

    def embedding(self, layer: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        """Rows of the matrix."""
        return F.embedding(ids, self.weight)


class ViewsConfig(QuantizationConfig):
    """Gives every linear layer and embedding of a member an `OnViews`."""

    def get_name(self) -> str:
        return "nemo_elastic_views"

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        return [torch.float32, torch.bfloat16, torch.float16]

    @classmethod
    def get_min_capability(cls) -> int:
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ViewsConfig:
        return cls()

    def get_quant_method(self, layer: nn.Module, prefix: str) -> QuantizeMethodBase | None:
        return OnViews() if isinstance(layer, (LinearBase, VocabParallelEmbedding)) else None


class GuestAttention(Attention):
    """Attention on the pages of another layer. vLLM's layers that share pages only read them; this one writes too."""

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        output_shape: torch.Size | None = None,
        output_dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        q = query.view(-1, self.num_heads, self.head_size)
        k = key.view(-1, self.num_kv_heads, self.head_size)
        v = value.view(-1, self.num_kv_heads, self.head_size_v)
        out = torch.empty(
            (q.shape[0], self.num_heads, self.head_size_v), dtype=output_dtype or query.dtype, device=query.device
        )
        name, written = _encode_layer_name(self.layer_name), None
        if not self.attn_backend.forward_includes_kv_cache_update:
            # a compiler drops a write without a use
            written = torch.ops.vllm.unified_kv_cache_update(k, v, name)
        torch.ops.vllm.unified_attention_with_output(q, k, v, out, name, kv_cache_dummy_dep=written)
        return out.view(-1, self.num_heads * self.head_size_v)


class GuestMamba(MambaMixer2):
    """A Mamba layer that uses the largest member's cache pages."""

    def get_kv_cache_spec(self, vllm_config: VllmConfig) -> None:
        return None


class HostMamba(MambaMixer2):
    """A Mamba layer of the largest member: gets pages, and hands them on."""

    guests: tuple[GuestMamba, ...] = ()

    def bind_kv_cache(self, kv_cache: torch.Tensor) -> None:
        super().bind_kv_cache(kv_cache)
        for guest in self.guests:
            guest.bind_kv_cache(kv_cache)


def share_attention(guest: Attention, host: Attention) -> None:
    """Let `guest` use the pages of `host`."""
    guest.__class__ = GuestAttention  # vLLM's model constructs the layer with its class
    guest.kv_sharing_target_layer_name = host.layer_name


def share_mamba(guest: MambaMixer2, host: MambaMixer2) -> tuple[str, str]:
    """Let `guest` use the pages of `host`; gives the names of both."""
    guest.__class__, host.__class__ = GuestMamba, HostMamba
    host.guests = (*getattr(host, "guests", ()), guest)
    return guest.prefix, host.prefix


def share_metadata(pairs: list[tuple[str, str]]) -> None:
    """Let guests find where this step's requests have their states: vLLM tells it to layers with pages only."""
    metadata: Any = get_forward_context().attn_metadata
    if isinstance(metadata, dict):
        for guest, host in pairs:
            if host in metadata:
                metadata[guest] = metadata[host]


def _share(member: Member, largest: Member) -> list[tuple[str, str]]:
    """Give a member the pages of the largest; the names of its Mamba layers and of those whose states they use."""
    states = []
    for layer in member.subnet.layers:
        guest, host = member.mixer(layer.index), largest.mixer(layer.index)
        if ATTENTION_HEADS in layer.widths:
            share_attention(guest.attn, host.attn)
        elif MAMBA_HEADS in layer.widths:
            states.append(share_mamba(guest, host))
    return states
