# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""vLLM's worker on a CPU, for a family."""

from __future__ import annotations

from vllm.v1.worker.cpu_worker import CPUWorker

from .worker import RunsMembers


class FamilyCpuWorker(RunsMembers, CPUWorker):
    """Runs one member in each step."""
