# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A step of a family on megatron-core, a validation, and their sums over ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func

from nemo_elastic.core.family import Subnet
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.gates import Choice
from nemo_elastic.train.heldout import HeldOut
from nemo_elastic.train.samples import Sample
from nemo_elastic.train.training import FamilyTraining, MicroBatchRecord

from .cpu import cuda_as_cpu
from .megatron_host import MegatronHost, join_streams
from .vocabulary import Output


@dataclass
class FamilyStep:
    """What a rank does in a step."""

    family: FamilyTraining
    host: MegatronHost
    heldout: HeldOut

    @property
    def teaches_in_pipeline(self) -> bool:
        """Whether pipeline ranks pass on the teacher's hidden states with the student's, see `megatron_host`."""
        ranks = parallel_state.get_pipeline_model_parallel_world_size()
        return ranks > 1 and self.family.config.distill.has_teacher

    @property
    def validates_in_pipeline(self) -> bool:
        """Whether they do so in a validation: the whole model, where it teaches, has been seen on the last rank."""
        return self.teaches_in_pipeline and self.host.frozen is not None

    # ------------------------------------------------------------------ training

    def pass_on(self, tokens_bs: torch.Tensor, sample: Sample, documents: Documents | None = None) -> torch.Tensor:
        """What all ranks but the last pass on of a training micro-batch."""
        self.family.record(sample)
        teacher = self.family.teacher_of(self.host, tokens_bs, sample, documents)
        hidden = self.host.student(tokens_bs, sample.choice, documents)[1]
        if not self.teaches_in_pipeline:
            return hidden
        return join_streams(hidden, hidden if teacher is None else teacher[1])

    # ------------------------------------------------------------------ validating

    def begin_validation(self) -> None:
        """Start one: all members run, as they are now; the whole model alone before there are any."""
        names = [b.name for b in self.family.config.budgets]
        choices: list[Choice] = [None, *self.family.members.get()[1:]]
        self.heldout.begin(names[: len(choices)], choices, taught=self.host.frozen is not None)

    def pass_on_member(self, batch: dict[str, Any]) -> torch.Tensor:
        """What all ranks but the last pass on for a member; the teacher runs beside the first one."""
        tokens, documents = batch["tokens"], batch.get("documents")
        hidden = self.host.student(tokens, batch["choice"], documents)[1]
        if not self.validates_in_pipeline:
            return hidden
        return join_streams(hidden, self.host.teacher(tokens, documents)[1] if batch["member"] == 0 else hidden)

    def measure(self, batch: dict[str, Any], heldout: HeldOut | None = None) -> torch.Tensor:
        """Sums of a member's losses over a micro-batch on the last rank, see `HeldOut.measure`.

        Args:
            heldout: of a validation that is not the host's own.
        """
        tokens, documents = batch["tokens"], batch.get("documents")

        def teach() -> Output | None:
            return None if self.host.frozen is None else self.host.teacher(tokens, documents)

        student = self.host.student(tokens, batch["choice"], documents)
        return (heldout or self.heldout).measure(self.host, batch, student, teach)

    # ------------------------------------------------------------------ measuring

    def sums(self, members: Sequence[Subnet], batches: Sequence[dict[str, Any]]) -> torch.Tensor:
        """What the whole model and some members lose: a validation outside of the host's own.

        All ranks call it. No step, sample or gradient is taken.

        Args:
            batches: micro-batches of this data-parallel rank, as the host reads them.

        Returns:
            Sums [1 + members, 3] of `HeldOut` over all ranks, the whole model's first: on all ranks the same bits.
        """
        core, heldout, rows = self.host.core, HeldOut(self.family.config.distill), []
        heldout.begin([str(i) for i in range(1 + len(members))], [None, *members])
        source = iter(batches)

        def forward(*_: Any) -> tuple[torch.Tensor, Any]:
            if not core.pre_process:
                self.host.receive(core.decoder.input_tensor)
            batch = heldout.next(lambda: next(source))
            if not core.post_process:
                return self.pass_on_member(batch), None
            return self.measure(batch, heldout), lambda sums, **_: rows.append(heldout.row(batch, sums))

        with self.host.evaluating(), cuda_as_cpu(), _of_any_length(core.config):
            get_forward_backward_func()(
                forward_step_func=forward,
                data_iterator=source,
                model=core,
                num_microbatches=len(batches) * len(heldout.choices),
                seq_length=self.host.seq_length,
                micro_batch_size=self.host.micro_batch_size,
                forward_only=True,
                collect_non_loss_data=True,
            )
        sums = from_last_rank(all_ranks(rows) if rows else heldout.sums.to(next(core.parameters()).device))
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


def report_of(ran: MicroBatchRecord, tokens: torch.Tensor, budgets: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What a micro-batch reports of its loss, without the router's.

    Returns:
        [loss sum, tokens], and a row like it for each budget: zeros for those that it did not sample.
    """
    assert ran.loss is not None
    total, each = torch.stack([ran.loss, tokens]), torch.zeros(budgets, 2, device=tokens.device)
    each[ran.budget] = total
    return total, each


def mean_by_budget(each: torch.Tensor) -> dict[int, float]:
    """Budget index -> mean loss of those that were sampled, over data-parallel ranks; all of them call it.

    `each` has the sums over this rank's micro-batches of what `report_of` gave of the budgets.
    """
    torch.distributed.all_reduce(each, group=parallel_state.get_data_parallel_group())
    return {i: float(s / n) for i, (s, n) in enumerate(each.tolist()) if n > 0}


def tokens_counted(totals: Sequence[torch.Tensor]) -> int:
    """Tokens that count in a step's loss, known to every rank; all of them call it.

    Of `report_of` only the last pipeline rank has any totals.
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


def losses_of_last_rank(by_budget: Mapping[int, float], budgets: int) -> dict[int, float]:
    """Budget index -> mean loss of the last step, on every rank: only the last pipeline rank has seen them."""
    seen = torch.zeros(budgets, 2, dtype=torch.float64)
    for i, loss in by_budget.items():
        seen[i] = torch.tensor([1.0, loss], dtype=torch.float64)
    return {i: loss for i, (sampled, loss) in enumerate(from_last_rank(seen).tolist()) if sampled}
