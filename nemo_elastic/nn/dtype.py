# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The dtype that numerics run in."""

import torch


def work_dtype(*tensors: torch.Tensor | None) -> torch.dtype:
    """Returns the dtype to compute in: float32, or float64 as soon as one of ``tensors`` is float64.

    Half precision is never accumulated in, and double precision is never lost, so that gradients can be checked.

    Args:
        *tensors: The operands; None is skipped.
    """
    dtype = torch.float32
    for tensor in tensors:
        if tensor is not None:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
