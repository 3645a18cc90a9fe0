# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""NeMo's callbacks on machines without CUDA: the hooks of which name it outside of any hook of a strategy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from nemo.lightning.pytorch.callbacks.progress_printer import ProgressPrinter
from nemo.utils.callbacks.dist_ckpt_io import AsyncFinalizerCallback

from nemo_elastic.nemo.platform.device import cuda_as_cpu

#: class, method, and what names CUDA below it (NeMo 2.7.3, megatron-core 0.15.3)
HOOKS: tuple[tuple[type[pl.Callback], str, str], ...] = (
    (AsyncFinalizerCallback, "on_train_batch_end", "whether all ranks have written, exchanged on current_device()"),
    (AsyncFinalizerCallback, "on_train_epoch_end", "as on_train_batch_end"),
    (AsyncFinalizerCallback, "on_train_end", "as on_train_batch_end"),
)


def as_cpu(callbacks: list[Any]) -> None:
    """Let the hooks of these callbacks that name CUDA mean the CPU. May be called again."""
    for callback in callbacks:
        if isinstance(callback, ProgressPrinter):
            # rank 0 alone gathers megatron-core's timers from all: of none NCCL makes nothing, but gloo waits for them
            callback.log_megatron_timers = lambda timers: None
        for kind, name, _ in HOOKS:
            if isinstance(callback, kind) and name not in vars(callback):
                setattr(callback, name, _inside(getattr(callback, name)))


def _inside(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with cuda_as_cpu():
            return method(*args, **kwargs)

    return wrapped
