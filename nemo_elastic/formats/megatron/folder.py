# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A NeMo checkpoint opened as what a Hugging Face folder is opened as: everything that cuts and checks takes it.

Its shape comes from its tensors, whatever pruned them (`infer`), and what no size tells from its context. A trained
elastic checkpoint is a family: it carries its members, and its context the block that names them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from nemo_elastic import __version__
from nemo_elastic.core.family import Parent
from nemo_elastic.core.layout import Tensor, by_name, megatron_tensors
from nemo_elastic.core.manifest import Family
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.adapter import apart
from nemo_elastic.formats.hf.config import to_hf_config
from nemo_elastic.formats.raw import ITEMSIZE, Raw
from nemo_elastic.formats.source import Origin, Shapes, Source, check_tensors
from nemo_elastic.formats.torch_io import from_torch

from .context import Context, read_context, token_ids
from .family import elastic_family
from .infer import infer
from .read import ELASTIC, dtype_of, read_elastic, read_tensor
from .stored import Stored

__all__ = ["open_folder", "read_shapes"]


def read_shapes(folder: str | Path) -> Shapes:
    """Read everything that a NeMo checkpoint says of itself, without its weights.

    Raises:
        ElasticError: not a whole checkpoint of a Nemotron-H; the message names the file or the tensor.
    """
    return _read(Path(folder))[0]


def open_folder(folder: str | Path) -> Source:
    """Open a NeMo checkpoint: a stock one of any shape, one that was pruned, or an elastic one, which is a family.

    Weights are read one tensor at a time, when their words are asked for, and are not kept.

    Raises:
        ElasticError: see `read_shapes`.
    """
    shapes, stored, names = _read(Path(folder))
    found: dict[str, Raw] = {}
    for ours, together in megatron_tensors(shapes.parent, shapes.held).items():
        name = names[ours]
        dtype = _name_of(dtype_of(stored, name))
        for i, t in enumerate(together):
            found[t.hf] = Unread(dtype, t.shape, _reader(stored, shapes.parent, together, i, name))
    check_tensors(shapes.parent, shapes.held, found, str(folder))
    return Source(**vars(shapes), tensors=found)


def _read(folder: Path) -> tuple[Shapes, Stored, Mapping[str, str]]:
    stored = Stored(folder)
    context = read_context(folder)
    model = {name: size for name, size in stored.sizes.items() if not name.startswith(ELASTIC)}
    parent, held, names = infer(model, context.settings, str(folder))
    family, origin = None, Origin()
    if len(model) < len(stored.sizes):
        family = _family(folder, stored, context, parent)
        parent, held = family.parent, family.parent.full
        origin = Origin.of(family)
    dtype = _name_of(stored.dtypes[names[by_name("embedding").megatron]])
    config = to_hf_config(parent, held, dtype=dtype, base=token_ids(context.tokenizer))
    shapes = Shapes(folder, parent, held, config, family, origin, files_from=context.tokenizer)
    return shapes, stored, names


def _family(folder: Path, stored: Stored, context: Context, parent: Parent) -> Family:
    if context.elastic is None:
        raise ElasticError(f"{folder}: has members of a family, but {context.file} has no elastic block")
    provenance = {"made_by": f"nemo-elastic {__version__}", "checkpoint": folder.resolve().name}
    elastic = read_elastic(stored)
    try:
        return elastic_family(parent, elastic, context.elastic, str(folder), provenance=provenance)
    except ElasticError as exc:
        raise exc.within(context.file) from None


def _name_of(dtype: torch.dtype) -> str:
    return from_torch(torch.empty(0, dtype=dtype)).dtype


def _reader(
    stored: Stored, parent: Parent, together: Sequence[Tensor], which: int, name: str
) -> Callable[[], np.ndarray]:
    return lambda: from_torch(apart(parent, together, read_tensor(stored, name))[which]).words


class Unread(Raw):
    """A tensor of which the words are read when they are asked for; they last as long as somebody holds them.

    Args:
        dtype: name of its dtype.
        shape: its shape.
        read: gives its words.
    """

    def __init__(self, dtype: str, shape: tuple[int, ...], read: Callable[[], np.ndarray]) -> None:
        object.__setattr__(self, "dtype", dtype)
        self._shape, self._read = shape, read
        self._held: weakref.ref[np.ndarray] | None = None

    @property
    def words(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleVariableOverride]
        words = self._held() if self._held is not None else None
        if words is None:
            words = self._read()
            self._held = weakref.ref(words)
        return words

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def nbytes(self) -> int:
        return int(np.prod(self._shape, dtype=np.int64)) * ITEMSIZE[self.dtype]
