# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Attention over a long context: which of torch's kernels runs, and that no matrix of length x length is made."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend
from torch.utils._python_dispatch import TorchDispatchMode

from nemo_elastic.nn.attention import causal_attention

__all__ = ["LENGTH", "attend", "long_context"]

#: tokens of stage 2
LENGTH = 49152
#: of the 12B on one rank at tensor-parallel size 4: query heads, key-value heads, channels
HEADS, GROUPS, CHANNELS = 10, 2, 128


class _Squares(TorchDispatchMode):
    """Notes every operation whose result is length x length."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length, self.found = length, set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, torch.Tensor) and tuple(value.shape[-2:]) == (self.length, self.length):
                self.found.add(str(func))
        return out


def long_context(device: str, place: Path) -> dict[str, Any]:
    """As stage 2 of the 12B attends, forward and backward."""
    return attend(device, LENGTH)


def attend(device: str, length: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, Any]:
    """`nn.attention.causal_attention` over so many tokens, forward and backward.

    On CUDA the memory that it takes on top of its inputs must stay below one byte per pair of tokens, half of one
    head's scores; anywhere, no operation of its forward may give a matrix of length x length.
    """
    g = torch.Generator(device).manual_seed(0)
    sizes = {"q": (1, HEADS, length, CHANNELS), "k": (1, GROUPS, length, CHANNELS), "v": (1, GROUPS, length, CHANNELS)}
    q, k, v = (torch.randn(*size, generator=g, device=device, dtype=dtype).requires_grad_() for size in sizes.values())
    chosen = torch._fused_sdp_choice(q, k, v, None, 0.0, True, enable_gqa=True)  # pyright: ignore[reportPrivateImportUsage]
    kernel = SDPBackend(chosen).name
    on_gpu = device != "cpu"
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_gpu else 0
    start = time.perf_counter()
    with _Squares(length) as squares:
        y = causal_attention(q, k, v)
    torch.autograd.grad(y.float().square().mean(), [q, k, v])
    extra = None
    if on_gpu:
        torch.cuda.synchronize()
        extra = torch.cuda.max_memory_allocated() - before
    seconds = time.perf_counter() - start
    matrix = bool(squares.found) or (extra is not None and extra >= length * length)
    told = f"{kernel} at {length} tokens, {seconds:.2f} s"
    told += f", {extra / 1e9:.2f} GB on top of its inputs" if extra is not None else ""
    if matrix:
        told += f"; one head's scores are {2e-9 * length * length:.2f} GB: some are made"
    figures = {"kernel": kernel, "length": length, "seconds": seconds, "extra_bytes": extra,
               "operations": sorted(squares.found)}  # fmt: skip
    return {"ok": not matrix, "told": told, "figures": figures}
