# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The installed mamba_ssm on this GPU: the results of torch on every case, the time of slices. Attention's memory.

python -m tests.gpu_checks.kernel_checks INDEX COUNT DEVICE FILE: a share of the cases, in this process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend
from torch.utils._python_dispatch import TorchDispatchMode

from nemo_elastic.nn.functional import causal_attention
from nemo_elastic.nn.mixer import Kernels

from .kernel_cases import CASES, SPEED, Case, CaseLayer, Limits, compare, faults

__all__ = [
    "EXACT",
    "LENGTH",
    "LIMITS",
    "attend",
    "installed",
    "judge",
    "long_context",
    "parity",
    "part",
    "shares",
    "speed",
    "times",
]

#: products of float32 are not rounded to TF32 (`EXACT`), exponentials are the GPU's; in bf16 as interpreted on a CPU
LIMITS: Limits = {False: (1e-5, 2e-4), True: (8e-3, 3e-2)}
#: read when Triton compiles: products of float32 as torch has them
EXACT = {"TRITON_F32_DEFAULT": "ieee"}
#: processes that compile kernels, at most
PARTS = 8


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


def part(kernels: Kernels, device: str, cases: Sequence[Case], tell: Callable[[Case, dict[str, Any]], None]) -> None:
    """Compare some cases, and tell each as it is done."""
    for case in cases:
        tell(case, compare(case, kernels, device))


def parity(device: str, place: Path) -> dict[str, Any]:
    """All cases, shared among processes, since most of the time goes into compiling."""
    count = min(PARTS, len(CASES), os.cpu_count() or 1)
    started = []
    for i in range(count):
        command = [sys.executable, "-m", __name__, str(i), str(count), device, str(place / f"{i}.jsonl")]
        started.append(subprocess.Popen(command, env=os.environ | EXACT, stderr=subprocess.PIPE, text=True))
    failed = []
    for one in started:
        said = one.communicate()[1]
        if one.returncode:
            failed.append((said.strip().splitlines() or [f"exit code {one.returncode}"])[-1])
    lines = [line for i in range(count) if (place / f"{i}.jsonl").exists()
             for line in (place / f"{i}.jsonl").read_text(encoding="utf-8").splitlines()]  # fmt: skip
    return judge(dict(json.loads(line) for line in lines), failed)


def judge(compared: dict[str, dict[str, Any]], failed: Sequence[str] = ()) -> dict[str, Any]:
    """The result of all cases; by index.

    Args:
        compared: index of a case, as text -> what `compare` gives.
        failed: what ended processes before they had compared all of theirs.
    """
    wrong = list(failed)
    for i, case in enumerate(CASES):
        kind = f"{case.title} ({'bf16' if case.bf16 else 'float32'})"
        if str(i) not in compared:
            wrong.append(f"{kind}: not compared")
        else:
            wrong += [f"{kind}: {fault}" for fault in faults(case, compared[str(i)], LIMITS)]
    figures: dict[str, Any] = {}
    for name, half in (("float32", False), ("bf16", True)):
        own = [entry for i, entry in compared.items() if CASES[int(i)].bf16 is half]
        if own:
            figures[name] = {
                "output": max(entry["out"] for entry in own),
                "gradient": max(max(entry["grads"].values()) for entry in own),
            }
    line = "; ".join(f"{k}: output {v['output']:.1e}, gradients {v['gradient']:.1e}" for k, v in figures.items())
    if wrong:
        line = f"{wrong[0]}, and {len(wrong) - 1} more" if len(wrong) > 1 else wrong[0]
    return {"ok": not wrong, "told": line, "figures": figures | {"cases": len(compared), "wrong": wrong}}


def speed(device: str, place: Path) -> dict[str, Any]:
    """Forward and backward of a 12B's Mamba layer, whole and sliced. No time is wrong: each is reported."""
    medians = times(installed(slice(-3, None)), device, SPEED)
    return {"ok": True, "told": shares(medians, SPEED), "figures": medians}


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


def shares(medians: dict[str, float], cases: Sequence[Case]) -> str:
    """Times, and of slices their share of the time of what they are cut from."""
    whole = {case.parent: medians[case.title] for case in cases if case.parent[:2] == case.member}
    parts = []
    for case in cases:
        time = medians[case.title]
        share = "" if case.parent[:2] == case.member else f" ({time / whole[case.parent]:.2f})"
        parts.append(f"{case.title} {time:.2f} ms{share}")
    return ", ".join(parts)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


#: tokens of stage 2
LENGTH = 49152
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


def long_context(device: str, place: Path) -> dict[str, Any]:
    """As stage 2 of the 12B attends, forward and backward."""
    return attend(device, LENGTH)


def attend(device: str, length: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, Any]:
    """`nn.functional.causal_attention` over so many tokens, forward and backward.

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
    matrix = bool(squares.operations) or (extra is not None and extra >= length * length)
    line = f"{kernel} at {length} tokens, {seconds:.2f} s"
    line += f", {extra / 1e9:.2f} GB on top of its inputs" if extra is not None else ""
    if matrix:
        line += f"; one head's scores are {2e-9 * length * length:.2f} GB: some are made"
    figures = {"kernel": kernel, "length": length, "seconds": seconds, "extra_bytes": extra,
               "operations": sorted(squares.operations)}  # fmt: skip
    return {"ok": not matrix, "told": line, "figures": figures}


def main(index: int, count: int, device: str, file: Path) -> None:
    """One process's share of the cases: a line of JSON for each."""
    with file.open("w", encoding="utf-8") as out:

        def tell(case: Case, entry: dict[str, Any]) -> None:
            print(json.dumps([str(CASES.index(case)), entry]), file=out, flush=True)

        part(installed(slice(0, 1)), device, CASES[index::count], tell)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
