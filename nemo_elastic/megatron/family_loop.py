# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family's loop on megatron-core: micro-batches, steps, validations, and their sums over ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from megatron.core import parallel_state
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func

from nemo_elastic.core.family import Subnet
from nemo_elastic.nn.gates import Choice
from nemo_elastic.train.heldout import HeldOut, HeldOutLosses
from nemo_elastic.train.metrics import step_facts_of
from nemo_elastic.train.shaping import prepare_members, shape_members
from nemo_elastic.train.training import FamilyTraining

from .cpu import cuda_as_cpu
from .megatron_host import MegatronHost, check_pipeline, join_streams
from .vocabulary import Output


class Report(NamedTuple):
    """What a training micro-batch tells the host on the last pipeline rank.

    Attributes:
        tokens: that count, as megatron-core's schedule takes them.
        total: [loss sum without the router's, tokens], for the log.
    """

    tokens: torch.Tensor
    total: torch.Tensor


class FamilyLoop:
    """The calls of a host that trains a family on megatron-core; all ranks make them in the same order.

    `run_began`, then for every step `step_began`, `train_batch` for each micro-batch, `step_ended`; for a validation
    `validation_began`, `valid_batch`, `validation_ended`. A batch has `tokens`, `labels`, `loss_mask` and, where they
    are kept apart, `documents`.
    """

    def __init__(self, family: FamilyTraining, host: MegatronHost) -> None:
        self.family, self.host = family, host
        self.heldout = HeldOut(family.config.distill)
        self._by_budget: list[torch.Tensor] = []  # of each micro-batch of the step: [loss sum, tokens] of the budgets
        self._sums: list[torch.Tensor] = []  # of each micro-batch of a validation, see `HeldOut.row`
        self._facts: tuple[int, dict[str, float]] = (-1, {})  # (steps done, facts of the last)

    def two_streams(self, training: bool = True) -> bool:
        """Whether pipeline ranks pass on the teacher's hidden states with the student's, see `megatron_host`.

        In a validation, where the whole model teaches, the last rank has seen its output already.
        """
        pipeline = parallel_state.get_pipeline_model_parallel_world_size() > 1
        return pipeline and self.family.config.distill.has_teacher and (training or self.host.frozen is not None)

    # ------------------------------------------------------------------ training

    def run_began(self, out: Path, where: str = "") -> None:
        """Rank, sort and search where the model has no members yet.

        Args:
            out: folder of the ranking, the search's trace and the frozen members.
            where: prefix of the host's setting for pipeline ranks, in errors.
        """
        self.out = out
        if not self.family.members.known:
            check_pipeline(parallel_state.get_pipeline_model_parallel_world_size(), where)
            prepare_members(self.family, self.host, out)

    def step_began(self) -> None:
        """Freeze the shapes where it is due."""
        shape_members(self.family, self.host, self.out)
        self._by_budget = []

    def train_batch(self, batch: dict[str, Any]) -> tuple[torch.Tensor, Report | None]:
        """The next micro-batch: its loss sum and report on the last pipeline rank, else the hidden states to pass on.

        The loss has the router's, see `FamilyTraining.loss`.
        """
        family, host = self.family, self.host
        host.receive()
        sample, tokens, documents = family.next_sample(host), batch["tokens"], batch.get("documents")
        if not host.core.post_process:
            family.record(sample)
            teacher = family.teacher_of(host, tokens, sample, documents)
            hidden = host.student(tokens, sample.choice, documents)[1]
            if self.two_streams():
                hidden = join_streams(hidden, hidden if teacher is None else teacher[1])
            return hidden, None
        mask = batch["loss_mask"]
        loss, ran = family.loss(host, sample, tokens, batch["labels"], mask, documents)
        assert ran.loss is not None
        total = torch.stack([ran.loss, mask.sum().to(torch.int)])
        each = torch.zeros(len(family.config.budgets), 2, device=total.device)
        each[ran.budget] = total
        self._by_budget.append(each)
        loss, counted = host.loss_and_tokens(loss, mask)
        return loss, Report(counted, total)

    def step_ended(self, done: int) -> dict[str, float]:
        """What the last step measured; asked again, the same. After a run's last step its shapes are frozen.

        Args:
            done: steps that are done.
        """
        if self._facts[0] != done:
            losses = losses_by_budget(self._by_budget, len(self.family.config.budgets))
            self._facts = done, step_facts_of(self.family, losses)
            if done == self.family.steps:
                shape_members(self.family, self.host, self.out, done)
        return self._facts[1]

    def tokens_counted(self) -> int:
        """Tokens that counted in the step's loss, known to every rank."""
        return tokens_counted([each.sum(0) for each in self._by_budget])

    # ------------------------------------------------------------------ validating

    def validation_began(self) -> None:
        """All members run, as they are now; the whole model alone before there are any."""
        self._sums = []
        names = [b.name for b in self.family.config.budgets]
        choices: list[Choice] = [None, *self.family.members.get()[1:]]
        self.heldout.begin(names[: len(choices)], choices, has_teacher=self.host.frozen is not None)

    def valid_batch(self, batch: dict[str, Any]) -> torch.Tensor:
        """A micro-batch of `heldout.next`: its member's sums [3] on the last pipeline rank, else hidden states.

        The frozen teacher runs with the first member.
        """
        host, tokens, documents = self.host, batch["tokens"], batch.get("documents")
        host.receive()
        student = host.student(tokens, batch["choice"], documents)
        if not host.core.post_process:
            if not self.two_streams(training=False):
                return student[1]
            return join_streams(student[1], host.teacher(tokens, documents)[1] if batch["member"] == 0 else student[1])

        def teach() -> Output | None:
            return None if host.frozen is None else host.teacher(tokens, documents)

        sums = self.heldout.measure(host, batch, student, teach)
        self._sums.append(self.heldout.row(batch, sums))
        return sums

    def add_up(self) -> torch.Tensor:
        """Sums [members, 3] of the micro-batches since the last call, over data-parallel ranks; zeros where none ran.

        All ranks of the last pipeline stage call it, after the same micro-batches.
        """
        sums = all_ranks(self._sums) if self._sums else torch.zeros_like(self.heldout.sums)
        self._sums = []
        self.heldout.add(sums)
        return sums

    def validation_ended(self) -> HeldOutLosses:
        """Every member's losses, on all ranks: only the last pipeline rank has measured them."""
        self.add_up()
        return self.heldout.end(from_last_rank(self.heldout.sums))

    # ------------------------------------------------------------------ measuring

    def sums(self, members: Sequence[Subnet], batches: Sequence[dict[str, Any]]) -> torch.Tensor:
        """What the whole model and some members lose: a validation outside of the host's.

        All ranks call it. No step, sample or gradient is taken.

        Args:
            batches: micro-batches of this data-parallel rank, as the host reads them.

        Returns:
            Sums [1 + members, 3] of `HeldOut` over all ranks, the whole model's first: on all ranks the same bits.
        """
        core, loop, source = self.host.core, FamilyLoop(self.family, self.host), iter(batches)
        loop.heldout.begin([str(i) for i in range(1 + len(members))], [None, *members])

        def forward(*_: Any) -> tuple[torch.Tensor, Any]:
            return loop.valid_batch(loop.heldout.next(lambda: next(source))), lambda sums, **_: sums

        with self.host.evaluating(), cuda_as_cpu(), _of_any_length(core.config):
            get_forward_backward_func()(
                forward_step_func=forward,
                data_iterator=source,
                model=core,
                num_microbatches=len(batches) * len(loop.heldout.choices),
                seq_length=self.host.seq_length,
                micro_batch_size=self.host.micro_batch_size,
                forward_only=True,
                collect_non_loss_data=True,
            )
        loop.add_up()
        sums = from_last_rank(loop.heldout.sums.to(next(core.parameters()).device))
        torch.distributed.broadcast(sums, 0)  # the last bits are those of one rank
        return sums


@contextmanager
def _of_any_length(config: Any) -> Iterator[None]:
    """While it lasts pipeline ranks tell each other the shapes of what they pass on.

    Streams may be two, and rows as long as the longest of them: no host says here how long they are.
    """
    before, config.variable_seq_lengths = config.variable_seq_lengths, True
    try:
        yield
    finally:
        config.variable_seq_lengths = before


def losses_by_budget(each: Sequence[torch.Tensor], budgets: int) -> dict[int, float]:
    """Budget index -> mean loss of those that a step sampled, known to every rank; all of them call it.

    Args:
        each: of a micro-batch [budgets, 2], loss sums and tokens; only the last pipeline rank has any.
    """
    sums = all_ranks(each) if each else torch.zeros(budgets, 2)
    return {i: s / n for i, (s, n) in enumerate(from_last_rank(sums).tolist()) if n > 0}


def tokens_counted(totals: Sequence[torch.Tensor]) -> int:
    """Tokens that count in a step's loss, known to every rank; all of them call it.

    Only the last pipeline rank has totals, see `Report`.
    """
    tokens = all_ranks([t[1].double() for t in totals]) if totals else torch.zeros((), dtype=torch.float64)
    return int(from_last_rank(tokens))


def all_ranks(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of what micro-batches gave, over data-parallel ranks too; all of them call it."""
    sums = torch.stack(list(rows)).sum(0)
    torch.distributed.all_reduce(sums, group=parallel_state.get_data_parallel_group())
    return sums


def from_last_rank(t: torch.Tensor) -> torch.Tensor:
    """A tensor as the last pipeline rank has it, on all ranks."""
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        t = t.to(torch.cuda.current_device() if torch.cuda.is_available() else "cpu")
        torch.distributed.broadcast(
            t,
            parallel_state.get_pipeline_model_parallel_last_rank(),
            parallel_state.get_pipeline_model_parallel_group(),
        )
    return t
