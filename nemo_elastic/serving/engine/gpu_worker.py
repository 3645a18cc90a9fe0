# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""vLLM's worker on a GPU, for a family."""

from __future__ import annotations

from vllm.v1.worker.gpu_worker import Worker

from .worker import RunsMembers


class FamilyGpuWorker(RunsMembers, Worker):
    """Runs one member in each step."""
