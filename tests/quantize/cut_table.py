# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the blocks in conf/ cut out of weights of low precision: the bytes of a cut against the cut's own, as a table.

    python -m tests.quantize.cut_table > docs/tables/quantized_cuts.md

Random weights with the real numbers of columns and a few rows; every width of every axis that cuts these columns. A
cut of the codes (as `slice` makes it) is held against coding the cut under the whole weight's scale, by us and by
ModelOpt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.kinds.record import Row
from nemo_elastic.core.kinds.registry import DEPTH
from nemo_elastic.core.layout import selection
from nemo_elastic.core.precision import default_rows
from nemo_elastic.core.prefix import Grid, Selection
from nemo_elastic.formats.low_precision import Torn, Weights, select
from nemo_elastic.formats.schemes import MODELOPT, Stored, scheme_of
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.nn.low_precision import fp8_codes, global_scale, nvfp4_codes
from nemo_elastic.plan import preset
from tests.nn.test_low_precision import bits, modelopt_fp8, modelopt_nvfp4
from tests.workers import ROOT

TABLE = ROOT / "docs" / "tables" / "quantized_cuts.md"
BLOCKS = {
    "elastic_12b": "nemotron-nano-12b-v2",
    "elastic_9b": "nemotron-nano-9b-v2",
    "elastic_8b": "nemotron-h-8b",
    "elastic_4b": "nemotron-3-nano-4b",
    "elastic_30b_a3b": "nemotron-3-nano-30b-a3b",
}
ROWS, SEED = 4, 0


@dataclass(frozen=True)
class Case:
    """The columns of one weight under one axis of a block.

    Attributes:
        block, row, axis: as said.
        columns: of the whole weight.
        kept: by width of the axis, what stays of them.
    """

    block: str
    row: Row
    axis: str
    columns: int
    kept: dict[int, Selection]


def cases(block: str) -> Iterator[Case]:
    """Every weight of low precision of a block's parent, and every axis that cuts its columns."""
    config = ElasticConfig.load(ROOT / "conf" / f"{block}.yaml")
    parent = config.parent_shape(preset(BLOCKS[block]))
    first: dict[str, int] = {}
    for name, index in sorted(default_rows(parent), key=lambda at: at[1]):
        first.setdefault(name, index)
    for name, index in sorted(first.items()):
        row = next(row for row in parent.kind(parent.types[index]).rows if row.name == name)
        for axis, choices in config.resolve_axes(parent).items():
            if axis == DEPTH:
                continue
            kept = {
                width: selection(parent, row, 1, parent.full, parent.uniform(None, **{axis: width}), index)
                for width in choices.choices
            }
            if any(not part.is_full for part in kept.values()):
                yield Case(block, row, axis, next(iter(kept.values())).size, kept)


def codes(w_rc: torch.Tensor, scale: torch.Tensor, precision: str) -> Weights:
    """A weight of low precision in memory."""
    scheme = scheme_of(precision, MODELOPT)
    if precision == "nvfp4":
        packed, scales = nvfp4_codes(w_rc, scale)
        parts = {"weight": packed, "weight_scale": scales, "weight_scale_2": scale}
    else:
        parts = {"weight": fp8_codes(w_rc, scale), "weight_scale": scale}
    return Weights({name: Tensor.of(t) for name, t in parts.items()}, {"weight": Stored(scheme, False)})


def equal(case: Case, width: int, precision: str) -> bool | None:
    """Whether the cut of the codes is the cut's codes, ours and ModelOpt's; None where it tears blocks."""
    random = torch.Generator().manual_seed(SEED)
    w_rc = torch.randn(ROWS, case.columns, generator=random) * torch.linspace(1, 0.3, case.columns)
    scale, columns = global_scale(w_rc, precision), case.kept[width]
    every = Selection((Grid((ROWS,), (ROWS,)),))
    try:
        parts = select(codes(w_rc, scale, precision), "weight", (every, columns))
    except Torn:
        return None
    own_rc = columns.take(w_rc, 1).contiguous()
    wanted = codes(own_rc, scale, precision)
    by_modelopt = modelopt_nvfp4(own_rc, scale)[:2] if precision == "nvfp4" else modelopt_fp8(own_rc, scale)[:1]
    names = ("weight", "weight_scale") if precision == "nvfp4" else ("weight",)
    cut = {name: tensor.take(kept) for name, (tensor, kept) in parts.items()}
    held = [cut[name].torch() for name in names]
    same = all(cut[name].words.tobytes() == tensor.words.tobytes() for name, tensor in wanted.tensors.items())
    return same and all(torch.equal(bits(a), bits(b)) for a, b in zip(held, by_modelopt, strict=True))


def table() -> str:
    """As Markdown."""
    lines = ["| block | weight | columns | axis | widths | NVFP4 | FP8 |", "|---|---|---:|---|---|---|---|"]
    for block in BLOCKS:
        for case in cases(block):
            cells = [f"`{block}`", f"`{case.row.name}`", f"{case.columns:,}", f"`{case.axis}`"]
            cells.append(", ".join(map(str, case.kept)))
            for precision in ("nvfp4", "fp8"):
                by_width = {width: equal(case, width, precision) for width in case.kept}
                torn = [str(width) for width, same in by_width.items() if same is None]
                assert all(same is not False for same in by_width.values()), case
                whole = f"{len(by_width) - len(torn)} of {len(by_width)} equal"
                cells.append(whole + (f"; torn: {', '.join(torn)}" if torn else ""))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
