# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tells the model whose turn a step is, whichever worker runs it, and the scheduler what was read of prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from vllm.config import CompilationMode, set_current_vllm_config

from nemo_elastic.runtime.auto.signals import signals


class RunsMembers:
    """For a worker of vLLM, before its own class."""

    _signals: Mapping[str, list[float]] = {}

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
        output = super().execute_model(scheduler_output)  # type: ignore[misc]
        self._signals = self._read(getattr(scheduler_output, "undecided", None) or {})
        return self._told(output)

    def sample_tokens(self, grammar_output: Any) -> Any:
        return self._told(super().sample_tokens(grammar_output))  # type: ignore[misc]

    @torch.inference_mode()
    def _read(self: Any, undecided: Mapping[str, tuple[list[int], int]]) -> dict[str, list[float]]:
        """Signals of prompts whose last tokens were read in this step."""
        found, runner, model = {}, self.model_runner, self.get_model()
        for request_id, (tail, length) in undecided.items():
            end = int(runner.query_start_loc.np[runner.input_batch.req_id_to_index[request_id] + 1])
            logits_tv = model.compute_logits(model.hidden[end - len(tail) : end])
            found[request_id] = signals(logits_tv, tail, length)
        return found

    def _told(self, output: Any) -> Any:
        """A step's output, once there is one, with the signals that were read in it."""
        if output is not None and self._signals:
            output.signals, self._signals = self._signals, {}
        return output
