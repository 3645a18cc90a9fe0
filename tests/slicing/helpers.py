# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Folders to test with: random words of any dtype, whatever they mean as numbers."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nemo_elastic.cli import main
from nemo_elastic.core import layout
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.formats.dtypes import ITEMSIZE
from nemo_elastic.formats.hf.reading import MEMBER_FILE
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.slicing.family_folder import write_family
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.shapes import PARENT

#: a member of it, cut on every axis
SMALL = PARENT.uniform([0, 1, 3, 4], hidden=8, ffn=8, mamba_heads=4)


def random_words(parent: Parent, dtype: str = "BF16", seed: int = 0) -> dict[str, Tensor]:
    """Every tensor of a parent, each bit drawn at random: not-a-numbers are copied like anything else."""
    rng = np.random.default_rng(seed)
    word = np.dtype(f"<u{ITEMSIZE[dtype]}")
    return {
        t.hf: Tensor.of_words(dtype, rng.integers(0, 2 ** (8 * word.itemsize), t.shape, dtype=np.uint64).astype(word))
        for t in layout.tensors(parent, parent.full)
    }


def random_values(parent: Parent, seed: int = 0) -> dict[str, np.ndarray]:
    """Every tensor of a parent in float32, small numbers."""
    rng = np.random.default_rng(seed)
    shapes = {t.hf: t.shape for t in layout.tensors(parent, parent.full)}
    return {name: rng.uniform(0.05, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def write(out: Path, parent: Parent, members: dict[str, Subnet] | None = None, **options) -> Path:
    """Write a family folder of random bfloat16 words."""
    family = Family.of(parent, {"full": parent.full, **(members or {})}, provenance={"made_by": "a test"})
    tensors = options.pop("tensors", None) or random_words(parent)
    return write_family(out, parent, tensors, family, **options)


def contents(folder: Path, most: int | None = None) -> dict[str, bytes]:
    """Every file of a folder by its path; of a file larger than `most`, its size."""

    def content(path: Path) -> bytes:
        size = path.stat().st_size
        return path.read_bytes() if most is None or size <= most else str(size).encode()

    return {str(p.relative_to(folder)): content(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def edit_json(path: Path, **values: Any) -> None:
    """Put values into an object in a JSON file; `...` takes one away."""
    data = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not ...}))


def plain_of(family: Path, out: Path) -> Path:
    """The parent of a family as others have it: no file of ours."""
    slice_checkpoint(family, out, member="full")
    (out / MEMBER_FILE).unlink()
    return out


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one example of hypothesis."""
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


def run(*arguments: object) -> tuple[int, str, str]:
    """Run a command of ours in this process: its exit code, and what it says on stdout and stderr."""
    out, errors, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            main([str(a) for a in arguments])
        except SystemExit as done:
            code = int(done.code or 0)
    return code, out.getvalue(), errors.getvalue()


def printed(*arguments: object) -> str:
    """What a command of ours that ends well says on stdout."""
    code, out, errors = run(*arguments)
    assert code == 0, errors
    return out


def call(*arguments: object) -> tuple[int, str]:
    """The exit code of a command of ours, and what it says on stderr."""
    code, _, errors = run(*arguments)
    return code, errors


def large_biases(state: dict, seed: int = 0) -> dict:
    """The weights of a parent with biases of experts of which bfloat16 makes 34.5, all of them."""
    rng = np.random.default_rng(seed)
    return state | {
        name: rng.uniform(34.4, 34.6, tuple(value.shape)).astype(np.float32)
        for name, value in state.items() if layout.is_exact(name)
    }  # fmt: skip
