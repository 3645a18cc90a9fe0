# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tells the model whose turn a step is, whichever worker runs it."""

from __future__ import annotations

from typing import Any


class RunsMembers:
    """For a worker of vLLM, before its own class."""

    def execute_model(self, scheduler_output: Any) -> Any:
        member = getattr(scheduler_output, "member", None)
        if member is not None:
            self.get_model().use(member)  # type: ignore[attr-defined]
        return super().execute_model(scheduler_output)  # type: ignore[misc]
