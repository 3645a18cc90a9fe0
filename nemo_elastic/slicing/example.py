# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family to try commands on: random weights, and a tokenizer of bytes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core import layout
from nemo_elastic.core.family import Parent
from nemo_elastic.core.manifest import Family
from nemo_elastic.formats.checkpoint import in_memory
from nemo_elastic.formats.hf.writing import Progress, write_checkpoints, write_text

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


def byte_tokenizer() -> dict[str, Any]:
    """Files of a tokenizer with a token for each byte, by their names: padding is 0, the end of a text 1.

    Bytes have the characters that GPT-2's byte-level BPE gave them: their own where that is printed, else those from
    256 on.
    """
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    characters = {byte: chr(byte) for byte in printed} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    special = ("<pad>", "<eos>")
    space = characters[ord(" ")]
    vocabulary = [*special, *(characters[byte] for byte in range(256)), 2 * space]
    merges = [[space, space]]  # llama.cpp reads no tokenizer without any
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "tokenizer.json": {
            "version": "1.0",
            "added_tokens": [{"id": i, "content": token} | flags for i, token in enumerate(special)],
            "pre_tokenizer": level,
            "decoder": level,
            "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(vocabulary)}, "merges": merges},
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": special[1], "pad_token": special[0],
        },
    }  # fmt: skip


def write_example(out: str | Path, seed: int = 0, *, force: bool = False, progress: Progress | None = None) -> Family:
    """Write a family of three members with random weights.

    Returns:
        The family.
    """
    rng = np.random.default_rng(seed)
    arrays = {t.hf: RANDOM[t.random](rng, t.shape).astype(np.float32) for t in layout.tensors(PARENT, PARENT.full)}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch, "example")  # files of the family name it
        place.mkdir()
        for name, content in byte_tokenizer().items():
            write_text(place / name, json.dumps(content, indent=2))
        write_checkpoints({place: in_memory(PARENT, PARENT.full, arrays, companions=place)})
        return init_family(place, ElasticConfig.from_dict(BLOCK), out, force=force, progress=progress)
