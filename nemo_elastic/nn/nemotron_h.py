# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Nemotron-H in torch alone, under Hugging Face's names: the reference that every other runtime is compared with.

It holds one member's weights (the parent's, mostly) and runs any smaller member out of them: as a slice, or gated at
full size. It trains, it decodes, it runs on any device; on a GPU the kernels of mamba_ssm are faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.layout import is_exact
from nemo_elastic.errors import bad
from nemo_elastic.nn.cache import Cache
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.forward import forward
from nemo_elastic.nn.functional import cast_dtype
from nemo_elastic.nn.gates import Choice, Gates, Probe
from nemo_elastic.nn.generate import generate
from nemo_elastic.nn.low_precision import rounded_state
from nemo_elastic.nn.weights import Weights, check_state, cut, cut_state, random_state


class NemotronH(nn.Module):
    """Weights of one member, and every model inside it.

    `state_dict()` and `named_parameters()` have exactly the names of a Hugging Face `nemotron_h` folder.

    Args:
        parent: shape of the whole model.
        state: tensors by name. They are not copied: a parameter shares memory with what it was made from.
        member: whose tensors these are; the parent's by default.
        trainable: whether the parameters require gradients.

    Attributes:
        parent: shape of the whole model.
        member: the member that is held.
        rounding: nvfp4 or fp8: of a parent, all members run on its weights as low precision has them; gradients pass
            straight through. None runs them as they are.

    Raises:
        ElasticError: a tensor is missing, unknown or of the wrong shape, or `member` is no member of `parent`.
    """

    def __init__(
        self, parent: Parent, state: Mapping[str, torch.Tensor], member: Subnet | None = None, trainable: bool = True
    ) -> None:
        super().__init__()
        self.parent, self.member = parent, (member or parent.full).validate(parent)
        self.rounding: str | None = None
        check_state(parent, self.member, state)
        for name, tensor in state.items():
            *path, leaf = name.split(".")
            module: nn.Module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_parameter(leaf, nn.Parameter(tensor.detach(), requires_grad=trainable))

    def _apply(self, fn: Any, recurse: bool = True) -> NemotronH:
        """Move or cast all weights, as `to`, `bfloat16` and others do; what no cast may round is moved alone."""
        exact = {name: weight.data for name, weight in self.named_parameters() if is_exact(name)}
        super()._apply(fn, recurse)
        for name, before in exact.items():
            weight = self.get_parameter(name)
            if weight.dtype != (dtype := cast_dtype(name, weight.dtype)):
                weight.data = before.to(weight.device, dtype)
        return self

    @classmethod
    def random(
        cls,
        parent: Parent,
        seed: int = 0,
        scale: float = 1.0,
        member: Subnet | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> NemotronH:
        """A model with random weights, none of them degenerate; see `random_state`."""
        return cls(parent, random_state(parent, member or parent.full, seed, scale, dtype), member)

    def forward(
        self,
        tokens_bl: torch.Tensor,
        choice: Choice = None,
        probe: Probe | None = None,
        cache: Cache | None = None,
        last: bool = False,
        documents: Documents | None = None,
    ) -> torch.Tensor:
        """Logits of every token, [b, l, v], or [b, 1, v] with `last`; see `nn.forward.forward`.

        Without a `choice` the stored member runs whole; a `Subnet` nested in it runs on sliced weights and at its
        cost; `Gates` run at full size, where the parent is stored. `ElasticError` for any other choice.
        """
        if not isinstance(choice, Gates):
            return forward(self.weights(choice), tokens_bl, None, probe, cache, last, documents)
        if self.member != self.parent.full:
            raise bad("choice", "Gates", "a Subnet: gates have the parent's size, and only a member is loaded")
        return forward(self.weights(), tokens_bl, choice, probe, cache, last, documents)

    def weights(self, choice: Subnet | None = None) -> Weights:
        """What a forward of `choice` reads: views and gathers of the parameters as they are now; see `cut`."""
        state: Mapping[str, torch.Tensor] = dict(self.named_parameters())
        if self.rounding is not None:
            assert self.member == self.parent.full, "the scales are those of the parent's weights"
            state = rounded_state(self.parent, state, self.rounding)
        return cut(self.parent, self.member, state, choice)

    def submodel(self, choice: Subnet) -> NemotronH:
        """A model that holds `choice` alone, in memory of its own."""
        return NemotronH(self.parent, cut_state(self.parent, self.member, self.state_dict(), choice), choice)

    def init_cache(self, batch: int, choice: Subnet | None = None) -> Cache:
        """State before the first token of `batch` sequences that `choice` will decode."""
        return Cache.empty(self.parent, choice or self.member, batch, self.get_parameter("backbone.embeddings.weight"))

    def generate(
        self,
        prompts: torch.Tensor | Sequence[Sequence[int]],
        max_new_tokens: int | Sequence[int],
        stop_ids: Iterable[int] = (),
        choice: Subnet | None = None,
    ) -> list[list[int]]:
        """New tokens for each prompt, greedily; see `nn.generate.generate`. The slices are made once."""
        with torch.no_grad():
            weights = self.weights(choice)
        return generate(weights, prompts, max_new_tokens, stop_ids)
