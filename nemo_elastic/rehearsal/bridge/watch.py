# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What is written down inside the jobs of a rehearsal: what each starts with, and what its members lose at its end."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from megatron.bridge.training.callbacks import Callback
from megatron.bridge.training.checkpointing import save_checkpoint
from megatron.core import parallel_state
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func

from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.formats.megatron.metadata import ITERATION, TRACKER
from nemo_elastic.hosts.bridge.step import ElasticStep
from nemo_elastic.io.atomic import atomic_write
from nemo_elastic.megatron.gpt_tokens import dataset_tokens
from nemo_elastic.megatron.reports import from_last_rank
from nemo_elastic.megatron.vocabulary import distill_loss
from nemo_elastic.rehearsal.short import FROM, SEQUENCES, START


class Watch(Callback):
    """Saves what a training job starts with, before its first step, and what its members lose after the last.

    Args:
        step: of the run.
        out: folder; each start has one of its own in it, `0`, `1`, …, with `start/` (the state, as a checkpoint),
            `from/` (the checkpoint that it goes on from, where it is one of its own run) and `facts.json`.
        stop_after: the first start ends without a word after this step, all processes at once, as if it were killed;
            with exit code 0, so that what was submitted behind it starts.
    """

    def __init__(self, step: ElasticStep, out: str, stop_after: int | None = None) -> None:
        self.step, self.out, self.stop_after = step, out, stop_after

    def on_train_start(self, context: Any) -> None:
        """Behind the callback that has prepared the members."""
        folder, state = Path(self.out), context.state
        number, checkpoint = state.train_state.step, state.cfg.checkpoint
        self._here = folder / str(sum(1 for _ in folder.glob("*/facts.json")))
        torch.distributed.barrier()
        self.facts: dict[str, Any] = {"step": number, "killed": False}
        if self.step.host.first:
            self._here.mkdir(parents=True, exist_ok=True)
            if number:  # it may be gone when the job ends; a link takes no room
                own = Path(checkpoint.load, f"{ITERATION}{number:07d}")
                shutil.copytree(own, self._here / FROM / own.name, copy_function=os.link)
                (self._here / FROM / TRACKER).write_text(str(number))
        torch.distributed.barrier()
        saved = {name: getattr(checkpoint, name) for name in ("save", "save_optim", "most_recent_k")}
        checkpoint.save, checkpoint.most_recent_k = str(self._here / START), -1
        checkpoint.save_optim = number > 0 or self.step.family.stage > 1  # a new optimizer has no moments yet
        try:
            save_checkpoint(state, context.model, context.optimizer, context.scheduler, 0)
        finally:
            for name, value in saved.items():
                setattr(checkpoint, name, value)
        self._tell()

    def on_train_step_end(self, context: Any) -> None:
        """Bridge counts the step after this."""
        reached = context.state.train_state.step + 1
        if self.stop_after is not None and reached == self.stop_after and self.facts["step"] == 0:
            self.facts |= {"killed": True, "reached": reached}
            self._tell()
            torch.distributed.barrier()
            os._exit(0)

    def on_train_end(self, context: Any) -> None:
        self.facts["reached"] = context.state.train_state.step
        self.facts |= members_lose(context, self.step)
        self._tell()

    def _tell(self) -> None:
        if self.step.host.first:
            atomic_write(self._here / "facts.json", json.dumps(self.facts))


@torch.no_grad()
def members_lose(context: Any, step: ElasticStep) -> dict[str, Any]:
    """Cross-entropy of every member in nats per token, on held-out sequences, and these."""
    host = step.host
    tokens_bl, labels_bl = dataset_tokens(host.datasets(0, SEQUENCES, 0)[1], SEQUENCES)
    names = [budget.name for budget in step.family.config.budgets]
    losses = {}
    for name, choice in zip(names, [None, *step.family.members.get()[1:]], strict=True):

        def forward(batches: Any, _: Any, choice: Any = choice) -> Any:
            tokens = next(batches)
            if not host.core.pre_process:
                host.receive(host.core.decoder.input_tensor)
            student = host.student(tokens, choice)
            loss = lambda *_, **__: distill_loss(DistillConfig(mode="ce"), student, None, labels_bl)[0]  # noqa: E731
            return student[1], loss

        with host.evaluating():
            sums = get_forward_backward_func()(
                forward_step_func=forward,
                data_iterator=iter([tokens_bl]),
                model=context.model,
                num_microbatches=1,
                seq_length=tokens_bl.shape[1],
                micro_batch_size=SEQUENCES,
                forward_only=True,
                collect_non_loss_data=True,
            )
        last = parallel_state.is_pipeline_last_stage()
        total = sums[0].double() / labels_bl.numel() if last else torch.zeros((), dtype=torch.float64)
        losses[name] = float(from_last_rank(total))
    return {"losses": losses, "tokens": tokens_bl.tolist(), "labels": labels_bl.tolist()}
