# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The dtype that numerics run in, the one that a cast gives a weight, and whether values are numbers."""

import torch

from nemo_elastic.core.layout import is_exact


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


def cast_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype of a weight in a model that is cast to `dtype`: of what no cast may round at least float32.

    Args:
        name: Its Hugging Face name.
        dtype: The dtype of the others.
    """
    return torch.promote_types(dtype, torch.float32) if is_exact(name) else dtype


def count_not_finite(t: torch.Tensor) -> int:
    """How many values are infinite or not a number.

    One pass where none is, a tenth of the time of a look at each: what is no number stays so in a sum. A sum that
    overflows by itself is looked at.
    """
    if bool(t.sum(dtype=torch.promote_types(t.dtype, torch.float32)).isfinite()):
        return 0
    return int((~t.isfinite()).sum())
