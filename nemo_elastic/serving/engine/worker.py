# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""vLLM's worker, of a CPU or a GPU, for a family: the model learns whose turn a step is."""

from __future__ import annotations

from typing import Any

from vllm.config import CompilationMode, CUDAGraphMode, set_current_vllm_config
from vllm.platforms import current_platform

from nemo_elastic.serving.choosing import SignalReader

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as Worker
else:
    from vllm.v1.worker.gpu_worker import Worker


class FamilyWorker(Worker):
    """Runs one member in each step."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.reading = SignalReader(self)

    def determine_available_memory(self) -> int:
        """Before memory is measured, compile every member: else its first client would wait for it."""
        if self.vllm_config.compilation_config.mode != CompilationMode.NONE:
            model = self.get_model()
            run = getattr(self.model_runner, "warming_up_model", self.model_runner.profile_run)  # the first on a CPU
            with set_current_vllm_config(self.vllm_config):
                for name in reversed(model.names):  # the largest stays, and is what memory is measured with
                    model.use(name)
                    run()
        return super().determine_available_memory()

    def compile_or_warm_up_model(self) -> Any:
        """vLLM captures CUDA graphs of the largest member; then capture those of the others.

        Each compiled piece of a member keeps its own graphs, one for each number of tokens.
        """
        times = super().compile_or_warm_up_model()
        if self.vllm_config.compilation_config.cudagraph_mode != CUDAGraphMode.NONE:
            model = self.get_model()
            for name in model.names[1:]:
                model.use(name)
                with self._get_cudagraph_capture_context():
                    self.model_runner.capture_model()
            model.use(model.names[0])
        return times

    def execute_model(self, scheduler_output: Any) -> Any:
        member = getattr(scheduler_output, "member", None)
        if member is not None:
            self.get_model().use(member)
        output = super().execute_model(scheduler_output)
        self.reading.after_step(scheduler_output)
        return self._written(output)

    def sample_tokens(self, grammar_output: Any) -> Any:
        return self._written(super().sample_tokens(grammar_output))

    def _written(self, output: Any) -> Any:
        """A step's result, once there is one, with the signals of the prompts that were read."""
        if output is not None:
            self.reading.write(output)
        return output
