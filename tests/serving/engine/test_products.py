# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A product on a view is that of the member's own matrix, in bfloat16 on a CPU as well, whatever goes in."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nemo_elastic.nn.weights import Places
from nemo_elastic.serving.engine.products import FEW, FEW_MOVED, FEW_TURNED, product

STORED = torch.randn(48, 40, generator=torch.Generator().manual_seed(1))
NUMBERS = (1, 2, FEW_TURNED + 1, FEW, FEW + 1, FEW_MOVED + 1, 0)
ROWS, COLUMNS = torch.tensor([40, 0, 3, 47]), torch.tensor([36, 1, 0, 30, 7])
PLACES = [None, Places(rows=ROWS), Places(columns=COLUMNS), Places(ROWS, COLUMNS)]


def of_its_own(at: Places | None) -> torch.Tensor:
    """The member's matrix."""
    matrix = STORED[:, :5] if at is None or at.columns is None else STORED[:, at.columns]
    return matrix if at is None or at.rows is None else matrix[at.rows]


def case(shape: tuple[int, ...], at: Places | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations, and the view that is read."""
    return torch.randn(*shape, 5, generator=torch.Generator().manual_seed(0)), (
        STORED[:, :5] if at is None or at.columns is None else STORED
    )


@pytest.mark.parametrize("at", PLACES)
@pytest.mark.parametrize("shape", [*((number,) for number in NUMBERS), (2, 3), (1, 1)])
def test_products_are_those_of_the_matrix(shape: tuple[int, ...], at: Places | None) -> None:
    x, view = case(shape, at)
    torch.testing.assert_close(product(x, view, at), F.linear(x, of_its_own(at)))
    half = product(x.bfloat16(), view.bfloat16(), at)
    assert half.is_contiguous() and half.dtype == torch.bfloat16
    torch.testing.assert_close(half, F.linear(x.bfloat16(), of_its_own(at).bfloat16()))
    assert torch.equal(product(x.bfloat16(), view.bfloat16(), at, turned=False), half)


@pytest.mark.parametrize("at", PLACES)
def test_float32_is_to_the_last_bit_what_the_runtime_computes(at: Places | None) -> None:
    x, view = case((3,), at)
    if at is None:
        expected = F.linear(x, view)
    else:
        inside = x if at.columns is None else x.new_zeros(3, 40).index_copy_(1, at.columns, x)
        expected = F.linear(inside, view)[:, slice(None) if at.rows is None else at.rows]
    assert torch.equal(product(x, view, at), expected)


def test_what_is_compiled_is_right_for_every_number_of_rows() -> None:
    at, view = Places(rows=ROWS), STORED[:, :5].bfloat16()
    compiled = torch.compile(lambda x: product(x, view, at), backend="aot_eager", fullgraph=True, dynamic=True)
    for number in (2, 3, FEW + 1, FEW_MOVED + 1, 5):
        x = case((number,), at)[0].bfloat16()
        if number == 2:
            torch._dynamo.mark_dynamic(x, 0)  # as vLLM does: what takes the first number for the only one is an error
        torch.testing.assert_close(compiled(x), F.linear(x, of_its_own(at).bfloat16()))
