# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Validation of every member, in NeMo's own validation loop.

Each micro-batch of validation data runs once for every member, as micro-batches of their own behind each other: that
is all a pipeline schedule has to know, and each of its stages counts them for itself. No draw and no random number is
taken. Data-parallel ranks read shares of the data, and their sums are added up.

NeMo's loop counts `limit_val_batches` in micro-batches, and its steps take as many as those of training: where a limit
is below that, it validates nothing and does not say so. Here a validation is one step of all that the limit allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from megatron.core import parallel_state
from nemo.lightning.megatron_parallel import MegatronLossReduction

from nemo_elastic.config import DistillConfig
from nemo_elastic.nn.gates import Choice

from .loss import Output, distill_loss

#: what is logged of a member: cross-entropy, and divergence from the teacher, in nats per token
LOSS, KL = "val_loss/{}", "val_kl/{}"
#: of the sums of a member
CE_SUM, KL_SUM, TOKENS = range(3)


@dataclass(frozen=True)
class Measured:
    """A validation's losses in nats per token, by member; those that did not run are absent.

    Attributes:
        losses: cross-entropy.
        kl: divergence from the frozen teacher, or else from the whole model as it is now, which then has none itself.
    """

    losses: dict[str, float] = field(default_factory=dict)
    kl: dict[str, float] = field(default_factory=dict)

    def logged(self) -> dict[str, float]:
        """By the names of `LOSS` and `KL`."""
        return {LOSS.format(n): v for n, v in self.losses.items()} | {KL.format(n): v for n, v in self.kl.items()}


class HeldOut(MegatronLossReduction):
    """Which member a micro-batch of a validation runs, and the sums of all losses: NeMo's reduction of a validation.

    Args:
        distill: the elastic block's section, for the size of its chunks; losses are at temperature 1, over all tokens.
    """

    def __init__(self, distill: DistillConfig) -> None:
        super().__init__()
        chunks = distill.chunk_tokens
        self._ce, self._kl = DistillConfig(mode="ce", chunk_tokens=chunks), DistillConfig(chunk_tokens=chunks)
        self.measured = Measured()
        self.begin([""], [None])

    def begin(self, names: Sequence[str], choices: Sequence[Choice], taught: bool = False) -> None:
        """Start a validation.

        Args:
            names: of the members, the whole model's first.
            choices: what runs.
            taught: whether there is a teacher beside the whole model.
        """
        self.names, self.choices, self.taught = list(names), list(choices), taught
        self._turn, self._batch, self._teacher = 0, {}, None
        self._sums = torch.zeros(len(self.names), 3, dtype=torch.float64)

    # ------------------------------------------------------------------ micro-batches

    def next(self, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The next micro-batch: the last data that was read for the next member, or new data for the first.

        Args:
            read: NeMo's data step.
        """
        member = self._turn % len(self.choices)
        self._turn += 1
        if member == 0:
            self._batch = read()
        return {**self._batch, "member": member, "choice": self.choices[member]}

    def measure(self, batch: dict[str, Any], student: Output, teach: Callable[[], Output | None]) -> torch.Tensor:
        """Sums [3] over a micro-batch: cross-entropy, divergence, tokens.

        Args:
            batch: what `next` gave.
            student: of the member.
            teach: gives the teacher's output, None where the whole model is the teacher; asked once per batch of data.
        """
        labels, mask = batch["labels"], batch["loss_mask"]
        if batch["member"] == 0:
            self._teacher = teach() or student
        ce, _ = distill_loss(self._ce, student, None, labels, mask)
        kl = torch.zeros_like(ce)
        if self._teacher is not None and self._teacher is not student:
            kl, _ = distill_loss(self._kl, student, self._teacher, labels, mask)
        return torch.stack([ce.double(), kl.double(), mask.sum().double()])

    # ------------------------------------------------------------------ NeMo's reduction

    def forward(self, batch: dict[str, Any], forward_out: torch.Tensor) -> Any:  # pyright: ignore
        """(loss sum, tokens, report) of a micro-batch."""
        report = forward_out.new_zeros(len(self.names), 3)
        report[batch["member"]] = forward_out
        return forward_out[CE_SUM].clone(), forward_out[TOKENS].to(torch.int), report

    def reduce(self, losses_reduced_per_micro_batch: Sequence[torch.Tensor]) -> torch.Tensor:  # pyright: ignore
        """The mean over members of their cross-entropy on all data-parallel ranks: what NeMo logs as `val_loss`."""
        sums = torch.stack(list(losses_reduced_per_micro_batch)).sum(0)
        torch.distributed.all_reduce(sums, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
        self._sums = self._sums.to(sums.device) + sums
        ran = sums[sums[:, TOKENS] > 0]
        return (ran[:, CE_SUM] / ran[:, TOKENS]).mean().float()

    def end(self) -> Measured:
        """What was measured, on every rank: only the last pipeline stage has seen it. All ranks call it."""
        self._batch, self._teacher = {}, None
        found = from_last_stage(self._sums).tolist()
        ran = {name: row for name, row in zip(self.names, found, strict=True) if row[TOKENS]}
        taught = [name for name in ran if self.taught or name != self.names[0]]
        self.measured = Measured(
            {name: row[CE_SUM] / row[TOKENS] for name, row in ran.items()},
            {name: ran[name][KL_SUM] / ran[name][TOKENS] for name in taught},
        )
        return self.measured


def from_last_stage(t: torch.Tensor) -> torch.Tensor:
    """A tensor as the last pipeline stage has it, on all stages."""
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        t = t.to(torch.cuda.current_device() if torch.cuda.is_available() else "cpu")
        torch.distributed.broadcast(
            t,
            parallel_state.get_pipeline_model_parallel_last_rank(),
            parallel_state.get_pipeline_model_parallel_group(),
        )
    return t


def every_member(step: Any, members: int) -> None:
    """Let a validation step of NeMo's run every member on all data that is left: `on_megatron_microbatches_start`.

    Args:
        step: NeMo's MegatronStep; changed.
        members: how many.
    """
    if step.has_global_batch_sampler:  # fine-tuning: a batch of the loader is a global one, which is split here
        data, length = step.get_data_iterator_and_seq_length()
        # read by our side from here on, one micro-batch at a time
        step.has_global_batch_sampler, step.data, step.seq_length = False, data, length or step.seq_length
    elif getattr(step.data, "length", None) is not None:
        step.num_microbatches = step.data.length - step.data.fetched
    step.num_microbatches *= members


def due(trainer: Any) -> bool:
    """Whether the steps done so far are a multiple of `val_check_interval`."""
    every = trainer.val_check_batch
    return trainer.enable_validation and every != float("inf") and trainer.global_step % every == 0


def validate_by_steps(trainer: Any) -> None:
    """Let Lightning validate when it is `due`, and each time on all of the data, also in a run that was resumed.

    Its own count goes on one too far where a checkpoint was written before a step was over, as most are. One that was
    written at the end of a validation says that the next validation has read a part of its data.
    """
    loop = trainer.fit_loop.epoch_loop
    # NeMo's loop says so where a run starts again: Lightning would repeat the validation and leave out a batch for it
    loop._should_check_val_fx = lambda _: due(trainer) and not getattr(loop, "skip_val_on_restart", False)
    loop.val_loop.batch_progress.reset_on_run()


def validate(trainer: Any) -> None:
    """Run a validation where Lightning does not: before the first step, and at the end. All ranks call it."""
    loop, connector = trainer.fit_loop.epoch_loop.val_loop, trainer._logger_connector
    first = connector._first_loop_iter
    trainer.validating = True
    try:
        with torch.random.fork_rng(devices=()):  # a loader that starts takes a number
            loop.run()
    finally:
        trainer.training = True
        connector._first_loop_iter = first
