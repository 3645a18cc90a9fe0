# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Words in another dtype are the words that torch makes, and what does not fit is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.dtypes import Converted, check_convertible, convert, in_dtype, parse_dtype
from nemo_elastic.formats.pieces import SPAN, Pieces
from nemo_elastic.formats.raw import ITEMSIZE, Raw, word
from nemo_elastic.formats.torch_io import from_torch, to_torch

FLOATS = ("F32", "F16", "BF16")


def every_word(dtype: str) -> np.ndarray:
    """All words of two bytes; of four those of all upper halves, with lower halves at and around a tie."""
    short = np.arange(2**16, dtype=np.uint32)
    if ITEMSIZE[dtype] == 2:
        return short.astype(word(dtype))
    return np.concatenate([short << 16 | low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]).astype(word(dtype))


@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("target", FLOATS)
def test_words_are_those_that_torch_makes(source: str, target: str) -> None:
    words = every_word(source)
    there = to_torch(Raw(source, words))
    wanted = there.to({"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[target])
    fits = (torch.isinf(wanted) == torch.isinf(there)).numpy()
    found = convert(words[fits], source, target)
    assert found.dtype == word(target)
    number = ~torch.isnan(wanted).numpy()[fits]
    assert np.array_equal(found[number], from_torch(wanted).words[fits][number])
    assert np.isnan(Raw(target, found).numpy()[~number]).all() and (~number).any()
    assert fits.all() == ((source, target) not in (("F32", "F16"), ("BF16", "F16"), ("F32", "BF16")))
    if not fits.all():
        for large in (words[~fits][:1], words[~fits][-1:]):
            with pytest.raises(OverflowError):
                convert(large, source, target)


def test_pieces_are_as_small_as_they_were() -> None:
    raw = Raw.of(np.linspace(-3, 3, 3 * SPAN, dtype=np.float32).reshape(-1, 64))
    part = in_dtype(Pieces(raw), "BF16", "some")
    assert isinstance(part, Converted) and part.shape == raw.shape and part.dtype == "BF16" and part.raw is raw
    pieces = list(part())
    assert len(pieces) == 12 and max(piece.nbytes for piece in pieces) <= SPAN / 2
    assert np.array_equal(np.concatenate(pieces), part.whole())
    same = Pieces(raw)
    assert in_dtype(same, "F32", "some") is same and in_dtype(same, None, "some") is same


@pytest.mark.parametrize(("name", "dtype", "large"), [("fp16", "F16", 70000.0), ("bf16", "BF16", 3.4e38)])
def test_what_does_not_fit_has_a_name(name: str, dtype: str, large: float) -> None:
    part = Converted(Pieces(Raw.of(np.array([1, large, np.inf], np.float32))), dtype, "some.weight")
    with pytest.raises(ElasticError, match=rf"^tensor 'some.weight' has a number that {name} cannot hold \(at most "):
        list(part())


def test_what_is_no_dtype_or_cannot_be_converted() -> None:
    assert parse_dtype(None) is None and parse_dtype("fp32") == "F32"
    with pytest.raises(ElasticError, match="dtype: 'int8' is not allowed; one of bf16, fp16, fp32"):
        parse_dtype("int8")
    check_convertible("fp16", "a", "F64")
    with pytest.raises(ElasticError, match="'fp16' is not allowed; tensor 'a' is stored in F8_E4M3; only F64, F32, "):
        check_convertible("fp16", "a", "F8_E4M3")
