# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""All members and extra shapes of a family as one model of vLLM: one copy of the weights, one cache, one at a time.

Each member is vLLM's own Nemotron-H, on views of the family's weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from vllm.compilation.backends import set_model_tag
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.logger import init_logger
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.models.nemotron_h import (
    ALL_DECODER_LAYER_TYPES,
    NemotronHForCausalLM,
    NemotronHMambaDecoderLayer,
    NemotronHModel,
)

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.attention import ATTENTION, ATTENTION_HEADS
from nemo_elastic.core.kinds.mamba import MAMBA, MAMBA_HEADS
from nemo_elastic.core.kinds.mlp import MLP
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf.config import to_hf_config
from nemo_elastic.nn.weights import LayerWeights, Weights
from nemo_elastic.plugins import load_plugins
from nemo_elastic.runtime import load_family
from nemo_elastic.runtime.family_runtime import members_of

from .shared_cache import share_attention, share_mamba, share_metadata
from .views import OnViews, ViewsConfig

logger = init_logger(f"vllm.{__name__}")  # vLLM writes what its own loggers say


class FamilyForCausalLM(NemotronHForCausalLM):
    """A family; `use` says which member the next steps run."""

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
        self._states = [pair for member in members[1:] for pair in _share(member, members[0], member.subnet)]
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
        for name, member in zip(self.names, self.members, strict=True):
            member.read(self.family.select(name).weights)
        logger.info(
            "Family of %d models: %.1f MiB of weights, %.1f MiB beside them",
            len(self.names), self.family.nbytes / 2**20, self.family.slice_bytes / 2**20,
        )  # fmt: skip
        return {name for name, _ in self.named_parameters()}


class MambaLayer(NemotronHMambaDecoderLayer):
    """vLLM's Mamba layer with the widths of its own layer, where those differ."""

    def __init__(self, config: Any, layer_idx: int, *more: Any, **named: Any) -> None:
        super().__init__(config.get_nemotron_h_config_for_layer(layer_idx), layer_idx, *more, **named)
        # A mixer reads `conv_weights`. On some CPUs vLLM repacks the other copy, and fails on widths of a member.
        self.mixer.conv1d.quant_method = OnViews()


def member_config(base: Any, parent: Parent, subnet: Subnet) -> Any:
    """The config of a member, of the class of the family's own config.

    Args:
        base: the family's config, as vLLM has it.
        parent: shape in which layers are counted.
        subnet: the member.
    """
    kept = {key: value for key, value in base.to_dict().items() if key not in ("layers_block_type", "layer_types")}

    def config(widths: Subnet) -> dict[str, Any]:
        plain = to_hf_config(parent, widths, base=kept)
        own = {
            key: plain[key] for key in plain if key not in ("architectures", "model_type", "auto_map", "torch_dtype")
        }
        return {**kept, **own}

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
    """A member.

    Args:
        vllm_config: of the engine.
        parent: shape in which layers are counted.
        subnet: the member.
        prefix: of the names of its layers, without a number between dots.
    """

    def __init__(self, vllm_config: VllmConfig, parent: Parent, subnet: Subnet, prefix: str) -> None:
        super().__init__()
        model_config, own = copy.copy(vllm_config.model_config), copy.copy(vllm_config)
        config = member_config(model_config.hf_config, parent, subnet)
        model_config.hf_config = model_config.hf_text_config = config
        own.model_config, own.quant_config = model_config, ViewsConfig()
        # what is compiled is kept by a hash of these settings, which knows no widths: members would read each other's
        own.additional_config = {**own.additional_config, "nemo_elastic_member": [prefix, subnet.to_json()]}
        self.subnet = subnet
        kinds = {**ALL_DECODER_LAYER_TYPES, "M": MambaLayer}
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
    def read(self, weights: Weights) -> None:
        """Take matrices as views, and copy what is small."""
        self.model.embed_tokens.quant_method.place([(weights.embedding, None)])
        self.lm_head.quant_method.place([(weights.head, None)])
        self.model.norm_f.weight.copy_(weights.final_norm)
        for layer, own in zip(self.model.layers, weights.layers, strict=True):
            layer.norm.weight.copy_(own["pre_norm"])
            _READ[own.layer.type](layer.mixer, own)


def _place(layer: Any, own: LayerWeights, *names: str, turned: bool = True) -> None:
    layer.quant_method.place([(own[name], own.places.get(name)) for name in names], turned)


def _read_mamba(mixer: Any, own: LayerWeights) -> None:
    _place(mixer.in_proj, own, "in_proj")
    _place(mixer.out_proj, own, "out_proj")
    mixer.conv1d.weight.copy_(own["conv_weight"].view_as(mixer.conv1d.weight))
    mixer.conv1d.bias.copy_(own["conv_bias"])
    mixer.A.copy_(-torch.exp(own["a_log"].float()))
    for name, param in (("d", mixer.D), ("dt_bias", mixer.dt_bias), ("norm", mixer.norm.weight)):
        param.copy_(own[name])


def _read_mlp(mixer: Any, own: LayerWeights) -> None:
    _place(mixer.up_proj, own, "up", turned=False)  # its activation is of single numbers
    _place(mixer.down_proj, own, "down")


def _read_attention(mixer: Any, own: LayerWeights) -> None:
    _place(mixer.qkv_proj, own, "q", "k", "v")
    _place(mixer.o_proj, own, "out")


_READ = {MAMBA: _read_mamba, MLP: _read_mlp, ATTENTION: _read_attention}


def _share(member: Member, largest: Member, subnet: Subnet) -> list[tuple[str, str]]:
    """Give a member the pages of the largest; the names of its Mamba layers and of those whose states they use."""
    states = []
    for layer in subnet.layers:
        if ATTENTION_HEADS in layer.widths:
            share_attention(member.mixer(layer.index).attn, largest.mixer(layer.index).attn)
        elif MAMBA_HEADS in layer.widths:
            states.append(share_mamba(member.mixer(layer.index), largest.mixer(layer.index)))
    return states
