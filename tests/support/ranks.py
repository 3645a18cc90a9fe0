# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A few gloo ranks that a test starts, and waits for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch.multiprocessing as mp

from tests.workers import environment, free_port


def spawn(function: Callable[..., None], *args: Any, world: int = 2) -> None:
    """Call `function(rank, port, *args)` on every rank, in a process with one thread.

    Where NeMo is installed the processes are forks of one that has imported it: see `tests/warm/sitecustomize.py`.

    Raises:
        Exception: A rank failed; with its traceback.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        mp.spawn(function, (free_port(), *args), nprocs=world)
