# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A host of plain torch: one process, the model of `nn`. It shows how little a host has to bring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from nemo_elastic.core.family import Parent
from nemo_elastic.nn.forward import Layers
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.nn.rows import Rows
from nemo_elastic.ranking import Ranking, sort


class TorchHost:
    """Args: shape and weights of the parent; training sequences [n, s], the first of them for ranking and search."""

    first = True

    def __init__(
        self,
        parent: Parent,
        state: Mapping[str, torch.Tensor],
        data_ns: torch.Tensor,
        micro_batch_size: int,
    ) -> None:
        self.model = NemotronH(parent, {k: v.clone() for k, v in state.items()})
        self.frozen = NemotronH(parent, state, trainable=False)
        self.data, self.micro_batch_size, self.seq_length = data_ns, micro_batch_size, data_ns.shape[1]
        self.micro_batches, self.step = 1, 0

    def student(self, tokens: Any, choice: Any = None, documents: Any = None) -> torch.Tensor:
        return self.model(tokens, choice, documents=documents)

    @torch.no_grad()
    def teacher(self, tokens: Any, documents: Any = None) -> torch.Tensor:
        return self.frozen(tokens, documents=documents)

    def loss(
        self,
        distill: Any,
        student: torch.Tensor,
        teacher: torch.Tensor | None,
        labels: torch.Tensor,
        weights: Any = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        terms, logq, each = distill.of(teacher is not None), student.log_softmax(-1), torch.zeros(labels.shape)
        if "ce" in terms:
            ce = F.nll_loss(logq.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
            each = each + terms["ce"] * ce
        if teacher is not None:
            logp = teacher.log_softmax(-1)
            each = each + terms.get("kl", 0) * (logp.exp() * (logp - logq)).sum(-1)
            each = each + terms.get("reverse_kl", 0) * (logq.exp() * (logq - logp)).sum(-1)
        return (each if weights is None else each * weights).sum(), each.detach()

    def gradient_scale(self, tokens: torch.Tensor) -> torch.Tensor:
        """What a micro-batch's loss is multiplied by before its backward pass, which is the trainer's."""
        return 1 / tokens.clamp(min=1) / self.micro_batches

    def sequences(self, count: int, size: int) -> Iterator[Rows]:
        return iter(Rows(self.data[:count]).split(size))

    def layers(self) -> Layers:
        return Layers(self.model.weights())

    def shards(self) -> None:
        return None

    def sort(self, ranking: Ranking) -> None:
        self.model.load_state_dict(sort(self.model.state_dict(), ranking, self.model.parent))

    def weights_changed(self) -> None:
        """The optimizer holds no copy."""

    def evaluating(self) -> Any:
        return torch.no_grad()

    def sum_over_data_ranks(self, t: torch.Tensor) -> torch.Tensor:
        return t

    def positive_on_any_rank(self, here: torch.Tensor) -> list[bool]:
        return (here > 0).tolist()

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def gradient(self, parameter: Any) -> torch.Tensor:
        return torch.zeros(()) if parameter.grad is None else parameter.grad

    def whole_name(self, name: str) -> str:
        return name
