# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""mamba_ssm's Triton kernels on a CPU, from its Python sources alone: Triton's interpreter, and what it lacks.

`load` must run before anything else imports triton: it reads TRITON_INTERPRET on import.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import sys
import types
from pathlib import Path
from typing import Any

from nemo_elastic.nn.mixer import Kernels

from . import conv_cuda


def load(sources: Path, chunk_size: int) -> Kernels:
    """The three calls of the packages in a folder, each interpreted.

    Args:
        sources: folder with `mamba_ssm` and `causal_conv1d`.
        chunk_size: of the scan.
    """
    os.environ["TRITON_INTERPRET"] = "1"
    import torch
    import triton

    _multiply_bf16()
    tune = triton.autotune
    # Of several configurations the fastest would be looked for, on a device.
    triton.autotune = lambda configs, *args, **kwargs: tune(configs[:1], *args, **kwargs)
    torch.cuda.device = lambda *_: contextlib.nullcontext()  # the kernels' launches name their device
    torch.cuda.get_device_properties = lambda *_: types.SimpleNamespace(multi_processor_count=1)
    sys.modules["causal_conv1d_cuda"] = conv_cuda
    # Without its __init__, which imports the CUDA extension of Mamba-1 and the models.
    package = types.ModuleType("mamba_ssm")
    package.__path__ = [str(sources / "mamba_ssm")]
    package.__spec__ = importlib.machinery.ModuleSpec("mamba_ssm", None, is_package=True)
    sys.modules["mamba_ssm"] = package
    sys.path.insert(0, str(sources))
    from causal_conv1d import causal_conv1d_fn
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined

    return Kernels(mamba_split_conv1d_scan_combined, mamba_chunk_scan_combined, causal_conv1d_fn, chunk_size)


def _multiply_bf16() -> None:
    """Make the interpreter compute bfloat16 in float32 and round: it keeps it as integers, and reckons with those."""
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, _convert_float

    def wide(t: Any) -> Any:
        if t.dtype.scalar != tl.bfloat16:
            return t
        return TensorHandle(_convert_float(t.data, tl.bfloat16, tl.float32, None).view(np.float32), tl.float32)

    def rounded(t: Any) -> Any:
        return TensorHandle(_convert_float(t.data, tl.float32, tl.bfloat16, None).view(np.uint16), tl.bfloat16)

    dot = InterpreterBuilder.create_dot
    InterpreterBuilder.create_dot = lambda self, a, b, *rest: dot(self, wide(a), wide(b), *rest)
    for name, operation in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div", np.divide)):

        def create(self: Any, a: Any, b: Any, operation: Any = operation) -> Any:
            out = self.binary_op(wide(a), wide(b), operation)
            return rounded(out) if a.dtype.scalar == tl.bfloat16 else out

        setattr(InterpreterBuilder, f"create_f{name}", create)
