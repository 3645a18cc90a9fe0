# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The dtype that numerics run in: never half precision, never less than what is there."""

from __future__ import annotations

import pytest
import torch

from nemo_elastic.nn.dtype import work_dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64])
def test_everything_up_to_single_precision_is_computed_in_it(dtype: torch.dtype) -> None:
    assert work_dtype(torch.zeros(1, dtype=dtype), None) == torch.float32


def test_one_double_among_the_operands_is_enough() -> None:
    half, double = torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.float64)
    assert work_dtype(half, None, double) == work_dtype(double, half) == torch.float64


def test_without_operands_it_is_single_precision() -> None:
    assert work_dtype() == work_dtype(None) == torch.float32
