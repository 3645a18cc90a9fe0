# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every width that a block in conf/ lists is cut as bytes, or the block says that it is not."""

from __future__ import annotations

import pytest
import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.kinds.registry import DEPTH
from nemo_elastic.core.layout import selection
from nemo_elastic.core.precision import default_rows, torn_widths
from nemo_elastic.core.prefix import Grid, Selection
from nemo_elastic.formats.low_precision import SplitBlockError, select
from nemo_elastic.formats.schemes import MODELOPT, Quantization, scheme_of
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.nn.low_precision import fp8_codes, global_scale, nvfp4_codes
from nemo_elastic.plan import preset
from tests.workers import ROOT

BLOCKS = {
    "elastic_12b": "nemotron-nano-12b-v2",
    "elastic_9b": "nemotron-nano-9b-v2",
    "elastic_8b": "nemotron-h-8b",
    "elastic_4b": "nemotron-3-nano-4b",
    "elastic_30b_a3b": "nemotron-3-nano-30b-a3b",
}
ROWS = 4  # of random weights with the real numbers of columns


def codes(w_rc: torch.Tensor, scale: torch.Tensor, precision: str) -> tuple[Quantization, dict[str, Tensor]]:
    """A weight of low precision in memory."""
    if precision == "nvfp4":
        packed, scales = nvfp4_codes(w_rc, scale)
        parts = {"weight": packed, "weight_scale": scales, "weight_scale_2": scale}
    else:
        parts = {"weight": fp8_codes(w_rc, scale), "weight_scale": scale}
    stored = Quantization(scheme_of(precision, MODELOPT), False)
    return stored, {name: Tensor.of(t) for name, t in parts.items()}


def is_torn(columns: Selection, precision: str) -> bool:
    """Whether a cut tears blocks; where it does not, its codes are those of the cut under the whole weight's scale."""
    random = torch.Generator().manual_seed(0)
    w_rc = torch.randn(ROWS, columns.size, generator=random) * torch.linspace(1, 0.3, columns.size)
    scale, rows = global_scale(w_rc, precision), Selection((Grid((ROWS,), (ROWS,)),))
    try:
        parts = select(*codes(w_rc, scale, precision), (rows, columns))
    except SplitBlockError:
        return True
    for name, wanted in codes(columns.take(w_rc, 1).contiguous(), scale, precision)[1].items():
        assert parts[name].words.tobytes() == wanted.words.tobytes(), name
    return False


@pytest.mark.parametrize("block", BLOCKS)
def test_every_width_is_cut_as_bytes_or_the_block_says_that_it_is_not(block: str) -> None:
    file = ROOT / "conf" / f"{block}.yaml"
    config = ElasticConfig.load(file)
    parent = config.parent_shape(preset(BLOCKS[block]))
    first = dict(sorted(default_rows(parent), key=lambda at: -at[1]))  # of each row its first layer
    torn: dict[tuple[str, str], list[int]] = {}
    for name, index in first.items():
        row = next(row for row in parent.kind(parent.types[index]).rows if row.name == name)
        for axis, choices in config.resolve_axes(parent).items():
            for width in choices.choices if axis != DEPTH else ():
                columns = selection(parent, row, 1, parent.full, parent.uniform(None, **{axis: width}), index)
                assert not is_torn(columns, "fp8")
                if is_torn(columns, "nvfp4"):
                    torn.setdefault((axis, name), []).append(width)
    assert torn == torn_widths(parent, config.choices(parent))
    assert bool(torn) == ("slice --requantize" in file.read_text())
