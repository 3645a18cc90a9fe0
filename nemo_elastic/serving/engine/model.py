# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""All members and extra shapes of a family as one model of vLLM: one copy of the weights, one cache, one at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.models.nemotron_h import NemotronHForCausalLM

from nemo_elastic.core.family import Subnet
from nemo_elastic.core.kinds.attention import ATTENTION
from nemo_elastic.core.kinds.mamba import MAMBA
from nemo_elastic.formats.registry import open_source
from nemo_elastic.runtime import load_family
from nemo_elastic.runtime.family import members_of

from .member import Member
from .shared_cache import share_attention, share_mamba, share_metadata

logger = init_logger(f"vllm.{__name__}")  # vLLM writes what its own loggers say


class FamilyForCausalLM(NemotronHForCausalLM):
    """A family; `use` says which member the next steps run."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        nn.Module.__init__(self)
        self.vllm_config, self.model_config = vllm_config, vllm_config.model_config
        self.config = config = self.model_config.hf_config
        self.quant_config, self.scheduler_config = None, vllm_config.scheduler_config
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
        """Let this member run until told otherwise."""
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


def _share(member: Member, largest: Member, subnet: Subnet) -> list[tuple[str, str]]:
    """Give a member the pages of the largest; the names of its Mamba layers and of those whose states they use."""
    states = []
    for layer in subnet.layers:
        if layer.type == ATTENTION:
            share_attention(member.mixer(layer.index).attn, largest.mixer(layer.index).attn)
        elif layer.type == MAMBA:
            states.append(share_mamba(member.mixer(layer.index), largest.mixer(layer.index)))
    return states
