# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tells the model whose turn a step is, whichever worker runs it."""

from __future__ import annotations

from typing import Any

from vllm.config import CompilationMode, set_current_vllm_config


class RunsMembers:
    """For a worker of vLLM, before its own class."""

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
        return super().execute_model(scheduler_output)  # type: ignore[misc]
