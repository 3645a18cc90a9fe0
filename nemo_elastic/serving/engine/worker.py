# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tells the model whose turn a step is, whichever worker runs it, and the scheduler what was read of prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from vllm.config import CompilationMode, set_current_vllm_config

from nemo_elastic.runtime.auto.signals import signals

from .accepted import patch_cpu, remember_accepted


class TailPart(NamedTuple):
    """What a step reads of the end of a prompt that nobody has chosen a member for. A long prompt comes in parts.

    Attributes:
        tail: the prompt's last tokens, all that signals are read from.
        length: tokens of the prompt.
        before: how many of the tail earlier steps have read.
        now: how many this step reads.
    """

    tail: list[int]
    length: int
    before: int
    now: int

    @property
    def is_last(self) -> bool:
        """Whether the tail ends in this step."""
        return self.before + self.now == len(self.tail)


class RunsMembers:
    """For a worker of vLLM, before its own class."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._signals: Mapping[str, list[float]] = {}
        self._tails: dict[str, torch.Tensor] = {}  # what earlier steps made of the ends of prompts, [t, d]

    def determine_available_memory(self: Any) -> int:
        """Before memory is measured, compile every member: else its first client would wait for it."""
        if self.vllm_config.compilation_config.mode != CompilationMode.NONE:
            model = self.get_model()
            run = getattr(self.model_runner, "warming_up_model", self.model_runner.profile_run)  # the first on a CPU
            with set_current_vllm_config(self.vllm_config):
                for name in reversed(model.names):  # the largest stays, and is what memory is measured with
                    model.use(name)
                    run()
        return super().determine_available_memory()  # type: ignore[misc]

    def execute_model(self, scheduler_output: Any) -> Any:
        member = getattr(scheduler_output, "member", None)
        if member is not None:
            self.get_model().use(member)  # type: ignore[attr-defined]
        self._prepare_draft(scheduler_output)
        output = super().execute_model(scheduler_output)  # type: ignore[misc]
        for gone in getattr(scheduler_output, "finished_req_ids", ()):
            self._tails.pop(gone, None)
        self._signals = self._read(getattr(scheduler_output, "undecided", None) or {})
        return self._told(output)

    def _prepare_draft(self: Any, scheduler_output: Any) -> None:
        """Where a member drafts, tell it for whom."""
        if self.vllm_config.speculative_config is None:
            return
        runner = self.model_runner
        remember_accepted(runner)
        if runner.device.type == "cpu":
            patch_cpu()
        drafter = runner.drafter
        drafter.tell(runner.input_batch, scheduler_output.drafting, scheduler_output.finished_req_ids)

    def sample_tokens(self, grammar_output: Any) -> Any:
        return self._told(super().sample_tokens(grammar_output))  # type: ignore[misc]

    @torch.inference_mode()
    def _read(self: Any, undecided: Mapping[str, TailPart]) -> dict[str, list[float]]:
        """Signals of prompts whose last tokens were read in this step."""
        found, runner, model = {}, self.model_runner, self.get_model()
        for request_id, part in undecided.items():
            end = int(runner.query_start_loc.np[runner.input_batch.req_id_to_index[request_id] + 1])
            hidden_td = model.hidden[end - part.now : end]
            if (earlier := self._tails.pop(request_id, None)) is not None:
                hidden_td = torch.cat([earlier[: part.before], hidden_td])
            if part.is_last:
                found[request_id] = signals(model.compute_logits(hidden_td), part.tail[-len(hidden_td) :], part.length)
            else:
                self._tails[request_id] = hidden_td.clone()
        return found

    def _told(self, output: Any) -> Any:
        """A step's output, once there is one, with the signals that were read in it."""
        if output is not None and self._signals:
            output.signals, self._signals = self._signals, {}
        return output
