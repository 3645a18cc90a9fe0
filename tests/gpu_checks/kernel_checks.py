# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show: the calls of the installed mamba_ssm, their times on slices, and attention's memory.

python -m tests.gpu_checks.kernel_checks: the times of slices as JSON, with the fastest of some configurations.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend
from torch.utils._python_dispatch import TorchDispatchMode

from nemo_elastic.nn.functional import causal_attention
from nemo_elastic.nn.mixer import Kernels

from .kernel_cases import SPEED, Case, CaseLayer, Limits

#: products of float32 are not rounded to TF32 (`EXACT`), exponentials are the GPU's; in bf16 as interpreted on a CPU
LIMITS: Limits = {False: (1e-5, 2e-4), True: (8e-3, 3e-2)}
#: read when Triton compiles: products of float32 as torch has them
EXACT = {"TRITON_F32_DEFAULT": "ieee"}


def installed(choices: slice) -> Kernels:
    """The three calls, with some of the configurations among which Triton looks for the fastest: all take minutes.

    Args:
        choices: which of them, sorted by the size of their tiles. Larger ones may not fit a GPU in float32.
    """
    import triton

    tune = triton.autotune

    def few(configs: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        by_size = sorted(configs, key=_tile)
        return tune(by_size[choices] or by_size[:1], *args, **kwargs)

    triton.autotune = few
    try:
        from causal_conv1d import causal_conv1d_fn
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined
    finally:
        triton.autotune = tune
    return Kernels(mamba_split_conv1d_scan_combined, mamba_chunk_scan_combined, causal_conv1d_fn, SPEED[0].chunk)


def _tile(config: Any) -> int:
    """Elements that a configuration holds at once, roughly."""
    size = max(1, config.num_stages)
    for name, value in config.kwargs.items():
        size *= value if name.startswith("BLOCK_SIZE") else 1
    return size


def times(kernels: Kernels | None, device: str, cases: Sequence[Case], rounds: int = 10) -> dict[str, float]:
    """Milliseconds of a forward and backward of each case, the median of some rounds."""
    medians = {}
    for case in cases:
        layer = CaseLayer(case, device)

        def once(layer: CaseLayer = layer) -> float:
            _wait(device)
            start = time.perf_counter()
            y = layer.forward(kernels)
            layer.gradients(y, torch.ones((), device=device))
            _wait(device)
            return 1e3 * (time.perf_counter() - start)

        for _ in range(2):
            once()
        medians[case.title] = sorted(once() for _ in range(rounds))[rounds // 2]
    return medians


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


#: of the 12B on one rank at tensor-parallel size 4: query heads, key-value heads, channels
HEADS, GROUPS, CHANNELS = 10, 2, 128


class _Squares(TorchDispatchMode):
    """Notes every operation whose result is length x length."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length, self.operations = length, set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, torch.Tensor) and tuple(value.shape[-2:]) == (self.length, self.length):
                self.operations.add(str(func))
        return out


def attend(device: str, length: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, Any]:
    """`nn.functional.causal_attention` over so many tokens, forward and backward: what ran, and what it took.

    `operations` are those of its forward that give a matrix of length x length; `extra_bytes`, on CUDA alone, is the
    memory that it takes on top of its inputs.
    """
    g = torch.Generator(device).manual_seed(0)
    sizes = {"q": (1, HEADS, length, CHANNELS), "k": (1, GROUPS, length, CHANNELS), "v": (1, GROUPS, length, CHANNELS)}
    q, k, v = (torch.randn(*size, generator=g, device=device, dtype=dtype).requires_grad_() for size in sizes.values())
    chosen = torch._fused_sdp_choice(q, k, v, None, 0.0, True, enable_gqa=True)  # pyright: ignore[reportPrivateImportUsage]
    on_gpu = device != "cpu"
    _wait(device)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_gpu else 0
    with _Squares(length) as squares:
        y = causal_attention(q, k, v)
    torch.autograd.grad(y.float().square().mean(), [q, k, v])
    _wait(device)
    extra = torch.cuda.max_memory_allocated() - before if on_gpu else 0
    return {"kernel": SDPBackend(chosen).name, "operations": sorted(squares.operations), "extra_bytes": extra}


if __name__ == "__main__":
    print(json.dumps(times(installed(slice(-3, None)), "cuda", SPEED)))
