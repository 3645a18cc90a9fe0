# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Linear layers and embeddings of vLLM on views of the family's storage: nothing is allocated, copied or repacked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

from nemo_elastic.nn.weights import Places

from .products import product

#: a matrix and where it has the member's channels
Part = tuple[torch.Tensor, Places | None]


class OnViews(QuantizeMethodBase):
    """A layer whose output is that of one or more matrices, one behind the other, each a view.

    To vLLM it is a quantization method: the one place where a layer's weights and product are exchanged.
    """

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.turned = True

    def create_weights(self, layer: nn.Module, *sizes: Any, **more: Any) -> None:
        """Nothing: the storage is there already, or will be."""

    def place(self, parts: Sequence[Part], turned: bool = True) -> None:
        """Let the layer read these; `turned` as `product` takes it."""
        self.parts, self.turned = list(parts), turned

    def apply(self, layer: nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """``x @ W.T``; activations are moved to where a matrix has their channels, and back."""
        out = [product(x, weight, at, self.turned) for weight, at in self.parts]
        return out[0] if len(out) == 1 else torch.cat(out, -1)

    def embedding(self, layer: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        """Rows of the only part."""
        return F.embedding(ids, self.parts[0][0])


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
