# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family to try commands on, before there is a trained one: a tiny parent with random weights. It takes no torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.core.layout import tensors
from nemo_elastic.core.manifest import Family
from nemo_elastic.formats.hf.shards import Progress
from nemo_elastic.formats.hf.writing import Model, tensors_of, write_models

from .untrained import init_family

__all__ = ["write_example"]

#: the parent, 1.6M parameters
PARENT = Parent("M-M*-M-M*-M-", 128, 1024, 512, 16, 16, 4, 16, 4, 8, 2, 16, ffn_stripes=4)
BLOCK = {
    "budgets": [{"name": "large"}, {"name": "medium", "ratio": 0.75}, {"name": "small", "ratio": 0.5}],
    "axes": {
        "hidden": [128, 112, 96, 80],
        "ffn": {"choices": [512, 384, 256], "stripes": 4},
        "mamba_heads": [16, 12, 8],
        "attention_heads": [8, 6, 4],
        "depth": [12, 11, 10],
    },
}


def _matrix(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape) / np.sqrt(shape[-1])


def _step(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    dt = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), shape))
    return dt + np.log(-np.expm1(-dt))  # the inverse of softplus


#: `Tensor.random` -> numbers of a tensor: tamer than `nn.weights`, which tests want without anything degenerate
RANDOM: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "matrix": _matrix,
    "taps": _matrix,
    "norm": lambda rng, shape: np.ones(shape),
    "skip": lambda rng, shape: np.ones(shape),
    "bias": lambda rng, shape: np.zeros(shape),
    "decay": lambda rng, shape: np.log(rng.uniform(1, 16, shape)),
    "step": _step,
}


def write_example(out: str | Path, seed: int = 0, *, force: bool = False, progress: Progress | None = None) -> Family:
    """Write a family of three members with random weights.

    Args:
        out: The folder to write, whole or not at all.
        seed: Fixes the weights.
        force: Replace an existing `out`.
        progress: Called with (bytes written, bytes in all).

    Returns:
        The family.

    Raises:
        ElasticError: `out` is there, and is no untrained family or `force` is not given.
    """
    rng = np.random.default_rng(seed)
    arrays = {t.hf: RANDOM[t.random](rng, t.shape).astype(np.float32) for t in tensors(PARENT, PARENT.full)}
    with tempfile.TemporaryDirectory() as place:
        write_models([Model(Path(place), PARENT, PARENT.full, tensors_of(PARENT, PARENT.full, arrays))])
        return init_family(place, ElasticConfig.from_dict(BLOCK), out, force=force, progress=progress)
