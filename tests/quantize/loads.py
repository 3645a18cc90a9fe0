# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members in low precision of each precision and layout, and what transformers and vLLM do with them on a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nemo_elastic.formats.schemes import COMPRESSED, MODELOPT, scheme_of
from nemo_elastic.quantize.activations import largest_inputs
from nemo_elastic.quantize.writing import quantize_folder
from nemo_elastic.runtime import load_family
from nemo_elastic.slicing.slicer import slice_checkpoint

from .conftest import EXPERTS, FEW, PARENT, SMALL, family_of

TOKENS = np.arange(24)[None] * 5 % 96
DENSE, SPARSE = "dense", "experts"
MEMBERS = {DENSE: (PARENT, SMALL), SPARSE: (EXPERTS, FEW)}
#: bfloat16 alone makes a hundredth; inputs that are rounded some more, by bits
NOISE = {"w4a16": 0.03, "fp8": 0.2, "nvfp4": 0.6}
RUNS = "runs"
#: they load it and compute something else, without an error
WRONG = "wrong"
_LAYOUT, _MARLIN = "ignore_mismatched_sizes", "Marlin FP4 not available"
_FP8 = "static_scaled_fp8_quant() expected at most 0 argument(s)"
_GATE = "is_act_and_mul=False is supported only for CUDA"


@dataclass(frozen=True)
class Case:
    """A member in low precision.

    Attributes:
        to: precision of `quantize --to`.
        layout: whose.
        model: dense, or with experts.
        transformers, vllm: RUNS, WRONG, or a part of their error.
        data: whether inputs have scales from data.
    """

    to: str
    layout: str
    model: str
    transformers: str
    vllm: str
    data: bool = True

    def __str__(self) -> str:
        return "-".join((self.model, self.to, self.layout, "data" if self.data else "none"))


CASES = [
    Case("nvfp4", MODELOPT, DENSE, _LAYOUT, RUNS),
    Case("nvfp4", COMPRESSED, DENSE, RUNS, RUNS),
    Case("w4a16", MODELOPT, DENSE, _LAYOUT, _MARLIN, False),
    Case("w4a16", COMPRESSED, DENSE, RUNS, _MARLIN, False),
    Case("fp8", MODELOPT, DENSE, WRONG, RUNS),
    Case("fp8", COMPRESSED, DENSE, RUNS, _FP8),
    Case("fp8", COMPRESSED, DENSE, RUNS, _FP8, False),
    Case("nvfp4", COMPRESSED, SPARSE, WRONG, _GATE),
    Case("w4a16", COMPRESSED, SPARSE, WRONG, _MARLIN, False),
    Case("fp8", MODELOPT, SPARSE, WRONG, _GATE),
    Case("fp8", COMPRESSED, SPARSE, RUNS, _GATE),
    Case("fp8", COMPRESSED, SPARSE, RUNS, _GATE, False),
]


def write_member(place: Path, case: Case) -> Path:
    """The cut member."""
    parent, small = MEMBERS[case.model]
    family = family_of(place / "family", parent, {"small": small})
    tokens = [torch.from_numpy(TOKENS)]
    ranges = largest_inputs(load_family(family, dtype=torch.float32), tokens) if case.data else None
    scheme = scheme_of("nvfp4" if case.to == "w4a16" else case.to, case.layout)
    quantize_folder(family, place / "low", scheme, ranges=ranges)
    return slice_checkpoint(place / "low", place / "member", member="small").out


def logits_of(folder: Path) -> torch.Tensor:
    """Our runtime's, of the weights as they are stored and inputs as they are: fp32 [l, v]."""
    return load_family(folder, dtype=torch.bfloat16).select()(torch.from_numpy(TOKENS))[0].float()
