# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Validation of every member, in NeMo's own validation loop.

NeMo's loop counts `limit_val_batches` in micro-batches, and its steps take as many as those of training: where a limit
is below that, it validates nothing and does not say so. Here a validation is one step of all that the limit allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from nemo.lightning.megatron_parallel import MegatronLossReduction

from nemo_elastic.megatron.family_step import all_ranks, from_last_rank
from nemo_elastic.train.heldout import CE_SUM, TOKENS, HeldOut, HeldOutLosses


class HeldOutReduction(HeldOut, MegatronLossReduction):
    """`HeldOut` as NeMo's reduction of a validation."""

    def forward(self, batch: dict[str, Any], forward_out: torch.Tensor) -> Any:  # pyright: ignore
        """(loss sum, tokens, report) of a micro-batch."""
        return forward_out[CE_SUM].clone(), forward_out[TOKENS].to(torch.int), self.row(batch, forward_out)

    def reduce(self, losses_reduced_per_micro_batch: Sequence[torch.Tensor]) -> torch.Tensor:  # pyright: ignore
        """The mean over members of their cross-entropy on all data-parallel ranks: what NeMo logs as `val_loss`."""
        sums = all_ranks(losses_reduced_per_micro_batch)
        self.add(sums)
        ran = sums[sums[:, TOKENS] > 0]
        return (ran[:, CE_SUM] / ran[:, TOKENS]).sum().float() / max(1, len(ran))

    def end(self, sums: torch.Tensor | None = None) -> HeldOutLosses:
        """What was measured, on every rank: only the last pipeline stage has seen it. All ranks call it."""
        return super().end(from_last_rank(self.sums) if sums is None else sums)


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
