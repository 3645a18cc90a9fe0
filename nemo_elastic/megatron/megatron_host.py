# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A megatron-core model in training: what the hosts on megatron-core share of `train.seam.Host`.

In a pipeline the teacher is cut as the student is, and runs on the same ranks. A rank passes on both hidden states as
one tensor [s, b, 2D], the student's first, as ModelOpt's distillation for Megatron does: megatron-core's schedule
knows one tensor per micro-batch and asks how its shape differs from the model's. Gradients come back in the same
shape; the teacher's half of them is zero and ends where it came from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.num_microbatches_calculator import get_num_microbatches

from nemo_elastic.errors import bad
from nemo_elastic.formats.megatron.stored import ELASTIC
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.gates import Choice
from nemo_elastic.ranking import Ranking
from nemo_elastic.ranking.scores import Shards

from .choice import ElasticState
from .compat import named_parameters, named_weights
from .context import context_group, own_positions
from .layers import MegatronLayers
from .overlap import report_absent
from .sharded_sort import sort_in_place
from .vocabulary import Output, distill_loss, hidden_states


@dataclass
class MegatronHost:
    """A megatron-core model in training, and the ranks around it.

    Whoever trains it adds what only it knows: `micro_batch_size`, `seq_length`, `sequences`, `weights_changed` and
    `step`.

    Attributes:
        frozen: the frozen teacher, a megatron-core model too; None where the block has none.
        wrapped: the model as data parallelism wraps it, once it does.
    """

    state: ElasticState
    core: Any
    frozen: Any = None
    wrapped: Any = field(default=None, init=False)

    loss = staticmethod(distill_loss)

    def __post_init__(self) -> None:
        #: what the pipeline rank before this one gave of student and teacher
        self.received: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)

    # ------------------------------------------------------------------ a micro-batch

    def student(
        self, tokens_bs: torch.Tensor | None, choice: Choice = None, documents: Documents | None = None
    ) -> Output:
        """The core module and what enters its head for a choice: what a loss needs, without logits."""
        self.state.choice = choice
        if self.state.rounding is not None:
            self.state.rounding.begin(self.step)
        try:
            hidden_sbd = hidden_states(self.core, tokens_bs, documents)
        finally:
            self.state.choice = None
        report_absent(self.wrapped, self.core, choice, hidden_sbd)
        return self.core, hidden_sbd

    @torch.no_grad()
    def teacher(self, tokens_bs: torch.Tensor | None, documents: Documents | None = None) -> Output:
        """The teacher and what enters its head, or on all pipeline ranks but the last what its layers here give.

        It is a model of its own, or in mode `trainable` the whole student.
        """
        core, given = self.frozen or self.core, self.received

        def run(tokens_bs: torch.Tensor | None) -> Output:
            if self.frozen is None:
                return self.student(tokens_bs, None, documents)
            return core, hidden_states(core, tokens_bs, documents)

        if given[1] is None:  # the first rank, or no pipeline
            return run(tokens_bs)
        core.set_input_tensor([given[1].to(core.config.params_dtype)])
        try:
            return run(None)
        finally:
            core.set_input_tensor([given[0] if core is self.core else None])

    def receive(self) -> None:
        """Take what the pipeline rank before this one has given, where megatron-core's schedule has left it."""
        if not self.core.pre_process:
            self.received = split_streams(self.core.decoder.input_tensor, self.core.config.hidden_size)
            self.core.set_input_tensor([self.received[0]])

    def loss_and_tokens(self, loss: torch.Tensor, mask_bs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A micro-batch's loss sum and its tokens, as megatron-core's schedule takes them.

        Where the loss is one per token it adds both up over all ranks, those of a sequence too, to whom the whole sum
        is known: each then gives its share.
        """
        ranks = context_group(self.core)
        if ranks is not None and self.core.config.calculate_per_token_loss:
            loss, mask_bs = loss / ranks.size(), own_positions(mask_bs, ranks)
        return loss, mask_bs.sum().to(torch.int)

    # ------------------------------------------------------------------ shapes

    def layers(self) -> MegatronLayers:
        return MegatronLayers(self.core)

    def shards(self) -> Shards | None:
        return self.layers().shards

    def weights(self) -> dict[str, torch.Tensor]:
        """This rank's shards of the parent's tensors, by megatron-core's name."""
        return {k: t for k, t in named_weights(self.core) if not k.startswith(ELASTIC)}

    def sort(self, ranking: Ranking) -> None:
        assert self.state.parent is not None
        sort_in_place(dict(named_weights(self.core)), ranking, self.state.parent)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        training = self.core.training
        self.core.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.core.train(training)

    # ------------------------------------------------------------------ ranks

    @property
    def first(self) -> bool:
        return torch.distributed.get_rank() == 0

    @property
    def micro_batches(self) -> int:
        return get_num_microbatches()

    def sum_over_data_ranks(self, t: torch.Tensor) -> torch.Tensor:
        """The sum over data-parallel ranks, on all ranks as rank 0 has it.

        Layers go and members are chosen by such sums: a rank with another last bit would go on alone.
        """
        torch.distributed.all_reduce(t, group=parallel_state.get_data_parallel_group())
        torch.distributed.broadcast(t, 0)
        return t

    def positive_on_any_rank(self, here: torch.Tensor) -> list[bool]:
        torch.distributed.all_reduce(here, torch.distributed.ReduceOp.MAX)
        return (here > 0).tolist()

    def gather(self, value: Any) -> list[Any]:
        every: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(every, value)
        return every

    # ------------------------------------------------------------------ looking for what is not finite

    def gradient(self, parameter: Any) -> torch.Tensor:
        """Where megatron-core's data parallelism keeps it."""
        grad = getattr(parameter, "main_grad", None)
        grad = parameter.grad if grad is None else grad
        return torch.zeros((), device=parameter.device) if grad is None else grad

    def whole_name(self, name: str) -> str:
        """A pipeline rank counts its own layers from 0."""
        layers = self.core.decoder.layers
        return re.sub(r"(?<=layers\.)\d+", lambda match: str(layers[int(match[0])].layer_number - 1), name)


def trained(chunks: Sequence[Any]) -> Iterable[tuple[str, Any]]:
    """Trained parameters of a model as data parallelism wraps it, with their megatron-core names."""
    for chunk in chunks:
        for name, param in named_parameters(chunk):
            if param.requires_grad:
                yield name.rpartition("module.")[2], param


def check_pipeline(ranks: int, where: str = "") -> None:
    """Raise for pipeline ranks above 1: ranking and search need all layers on one rank.

    `where` is the prefix of the setting in the error.
    """
    if ranks > 1:
        allowed = "1 for ranking and search; to train in pipeline stages, start from a ranked checkpoint (rank_only)"
        raise bad(f"{where}pipeline_model_parallel_size", ranks, allowed)


Shapes = list[tuple[int, ...]]


def twice_as_wide(received: Shapes, sent: Shapes) -> tuple[Shapes, Shapes]:
    """The shapes of what a rank receives and sends, with room for both streams."""
    both = [[(*shape[:-1], 2 * shape[-1]) for shape in shapes] for shapes in (received, sent)]
    return both[0], both[1]


def join_streams(student_sbd: torch.Tensor, teacher_sbd: torch.Tensor) -> torch.Tensor:
    """What a rank passes on, [s, b, 2D]."""
    return torch.cat([student_sbd, teacher_sbd.detach().to(student_sbd.dtype)], -1)


def split_streams(received: torch.Tensor | None, width: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The student's and the teacher's half of a rank's input; None where it is absent."""
    if received is None or received.shape[-1] == width:
        return received, None
    return received[..., :width], received[..., width:].detach()
