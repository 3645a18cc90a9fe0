# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What every format is opened as: a shape, which part of which parent it is, and its tensors, unread.

Whatever cuts, checks, converts or runs takes a `Source`, and asks no format. Tensors have the names and the layout of
a Hugging Face folder; a format that has others gives them so (`adapter`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nemo_elastic.core import layout
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.prediction import PREFIX, Prediction
from nemo_elastic.errors import ElasticError

from .low_precision import Weights
from .schemes import Stored
from .tensor import SPAN, Tensor

__all__ = [
    "GGUF",
    "Origin",
    "Shapes",
    "Source",
    "check_exactly",
    "check_tensors",
    "is_gguf",
    "same_words",
    "unreplaced",
]

#: what messages say of llama.cpp's files
GGUF = "GGUF, which is not read: give the Hugging Face folder that it was made of"

_HEAD, _EMBEDDING = (layout.by_name(name).hf for name in ("head", "embedding"))


@dataclass(frozen=True)
class Origin:
    """Where a member comes from; it stays with every member cut from it.

    Attributes:
        name: the member's name in its family; None for a shape of its own.
        ranking: digest of the ranking that sorted the parent.
        provenance: of the family, JSON values.
        family: the whole family, so that the rest of its path can be cut from the member; None where it is not known.
    """

    name: str | None = None
    ranking: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    family: Family | None = None

    @classmethod
    def of(cls, family: Family) -> Origin:
        """The origin of a family's largest member, and so of the family folder."""
        return cls(family.members[0].name, family.ranking_digest, family.provenance, family)


@dataclass(frozen=True)
class Shapes:
    """What a folder says of itself, without its weights.

    Attributes:
        folder: where it is.
        parent: shape of the parent that its layers are counted in.
        held: the member of that parent that it holds; the parent itself in a family or a plain model.
        config: its `config.json`.
        family: its `elastic.json`, where it has one.
        origin: where it comes from.
        files_from: where its tokenizer and other companions are, if not in the folder itself.
    """

    folder: Path
    parent: Parent
    held: Subnet
    config: Mapping[str, Any]
    family: Family | None
    origin: Origin
    files_from: Path | None = field(default=None, kw_only=True)

    @property
    def companions(self) -> Path:
        """The folder with its tokenizer, its defaults for generation, its licence."""
        return self.files_from or self.folder

    @property
    def members(self) -> dict[str, Subnet]:
        """The members that can be cut by name; the model itself where it is no family."""
        if self.family is not None:
            return {m.name: m.subnet for m in self.family}
        return {self.origin.name or "model": self.held}

    @property
    def extras(self) -> dict[str, Subnet]:
        """Extra shapes that can be cut by name, too; see `Family.extras`."""
        return {} if self.family is None else {m.name: m.subnet for m in self.family.extras}


@dataclass(frozen=True)
class Source(Shapes):
    """An opened folder.

    Attributes:
        tensors: by their names in a Hugging Face folder (`backbone.`, layers counted in `held`), unread; of a weight
            of low precision its codes and its scales, and scales of the key-value cache.
        prediction: tensors of layers that predict more than one token, which lie behind the model and read its stream.
        quantized: weights of low precision, in both: how they are stored.
        predicts: which layers predict more than one token, so that members have what they keep of them; None where
            that is not known: then they stay with the whole model.
    """

    tensors: Mapping[str, Tensor]
    prediction: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True)
    quantized: Mapping[str, Stored] = field(default_factory=dict, kw_only=True)
    predicts: Prediction | None = field(default=None, kw_only=True)

    @cached_property
    def weights(self) -> Weights:
        """The model's weights, without those behind it."""
        return Weights(
            self.tensors, {name: own for name, own in self.quantized.items() if not name.startswith(PREFIX)}
        )

    @cached_property
    def behind(self) -> Weights:
        """The weights behind the model."""
        return Weights(self.prediction, {name: own for name, own in self.quantized.items() if name.startswith(PREFIX)})

    @property
    def dtype(self) -> str:
        """Dtype of its weights: that of the embedding."""
        return self.tensors[_EMBEDDING].dtype

    @property
    def low(self) -> Stored | None:
        """How most of its weights of low precision are stored; None where there are none."""
        return self.weights.low

    @property
    def precision(self) -> str | None:
        """Their precision."""
        return None if self.low is None else self.low.scheme.precision

    @property
    def stored(self) -> dict[str, Tensor]:
        """All tensors as they lie in files."""
        return {**self.tensors, **self.prediction}


def is_gguf(path: Path) -> bool:
    """Whether a file has the name of one of llama.cpp's."""
    return path.suffix.lower() == ".gguf"


@contextmanager
def unreplaced(folder: Path, opened: os.stat_result | None = None) -> Iterator[None]:
    """Refuse what is read of a folder that another process replaces, now or since it was opened: it is of two."""
    opened = opened or os.stat(folder)
    try:
        yield
    finally:  # also where the mixture has led to another error
        if not folder.exists() or not os.path.samestat(opened, os.stat(folder)):
            raise ElasticError("another process replaced this folder while it was read; run the command again", folder)


def check_tensors(parent: Parent, held: Subnet, weights: Weights, where: str) -> None:
    """Check that weights are exactly those of a member, in its shapes.

    Args:
        parent: Shape of the parent.
        held: The member that the weights should be.
        weights: Layers counted in the member. A tied head may be there too, equal to the embedding.
        where: What they belong to, for errors.
    """
    wanted = {t.hf: t.shape for t in layout.tensors(parent, held)}
    shapes = {name: weights.shape(name) for name in weights.names}
    if parent.tied and _HEAD in shapes:
        if _EMBEDDING not in shapes or not same_words(weights.tensors[_HEAD], weights.tensors[_EMBEDDING]):
            raise ElasticError(f"{where}: {_HEAD} is not the embedding, but config.json says tie_word_embeddings")
        del shapes[_HEAD]
    check_exactly(wanted, shapes, where)


def check_exactly(wanted: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]], *at: str) -> None:
    """Check that weights are those of these names, in these shapes; `at` is what they belong to, for errors."""
    missing, extra = [n for n in wanted if n not in shapes], [n for n in shapes if n not in wanted]
    for names, word in ((missing, "is missing"), (extra, "is no part of this model")):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ElasticError(f"tensor {names[0]!r} {word}{more}", *at)
    for name, shape in wanted.items():
        if shapes[name] != shape:
            raise ElasticError(f"tensor {name!r} has shape {list(shapes[name])}, not {list(shape)}", *at)


def same_words(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same, word for word; a few megabytes are compared at a time."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    step = max(1, SPAN // max(a.span, b.span))
    parts = [(at, min(a.count, at + step)) for at in range(0, a.count, step)]
    return all(np.array_equal(a.rows(*part), b.rows(*part)) for part in parts)
