# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`Checkpoint`, which every format is opened as: parent, subnet, and tensors that are not read yet.

Whatever cuts, checks, converts or runs takes a `Checkpoint`, and asks no format. Tensors have the names and the layout
of a Hugging Face folder; a format that has others gives them so (`adapter`). Functions from checkpoint to checkpoint
(cut, cast, sort, quantize) read nothing: a writer does, tensor by tensor.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_elastic.core import layout
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.prediction import Prediction, all_tensors, is_mtp
from nemo_elastic.errors import ElasticError, inside

from .low_precision import CACHE, stored_values
from .schemes import Quantization
from .tensor import SPAN, Tensor

if TYPE_CHECKING:
    import torch

__all__ = [
    "Checkpoint", "Origin", "Shapes", "check_exactly", "check_tensors", "in_memory", "same_words", "unreplaced",
]  # fmt: skip

_HEAD, _EMBEDDING = (layout.by_name(name).hf for name in ("head", "embedding"))


@dataclass(frozen=True)
class Origin:
    """Where a member comes from; it stays with every member cut from it.

    Attributes:
        name: the member's name in its family; None for another shape.
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
    """Metadata of a folder, without weights.

    Attributes:
        folder: where it is.
        parent: shape of the parent that its layers are counted in.
        subnet: its member of the parent; the parent itself in a family or a plain model.
        config: its `config.json`.
        family: its `elastic.json`, where it has one.
        origin: where it comes from.
        companions: the folder with its tokenizer, its defaults for generation, its licence; None: it has none.
    """

    folder: Path
    parent: Parent
    subnet: Subnet
    config: Mapping[str, Any]
    family: Family | None
    origin: Origin
    companions: Path | None = field(default=None, kw_only=True)

    @property
    def members(self) -> dict[str, Subnet]:
        """Name -> member that can be cut; only the model itself without a family."""
        if self.family is not None:
            return {m.name: m.subnet for m in self.family}
        return {self.origin.name or "model": self.subnet}

    @property
    def extras(self) -> dict[str, Subnet]:
        """Extra shapes that can be cut by name, too; see `Family.extras`."""
        return {} if self.family is None else {m.name: m.subnet for m in self.family.extras}


@dataclass(frozen=True)
class Checkpoint(Shapes):
    """A model with its tensors, unread.

    Attributes:
        tensors: by their names in a Hugging Face folder (`backbone.`, layers counted in `subnet`); of a weight of low
            precision its codes and its scales; scales of the key-value cache; and `mtp.`, those of layers that predict
            further tokens.
        storage: weights of low precision: how they are stored.
        prediction: which layers predict further tokens, so that members have what they keep of them; None where that
            is not known: then the whole model alone has them.
    """

    tensors: Mapping[str, Tensor]
    storage: Mapping[str, Quantization] = field(default_factory=dict, kw_only=True)
    prediction: Prediction | None = field(default=None, kw_only=True)

    @cached_property
    def names(self) -> list[str]:
        """Names of weights, of full precision and of low precision."""
        parts = {part for name, stored in self.storage.items() for part in stored.parts(name).values()}
        return [n for n in self.tensors if n not in parts and n.rpartition(".")[2] not in CACHE] + list(self.storage)

    @property
    def mtp(self) -> list[str]:
        """Names of the tensors of layers that predict further tokens."""
        return [name for name in self.tensors if is_mtp(name)]

    def parts(self, name: str) -> dict[str, Tensor]:
        """Tensors of a weight of low precision, by their names after the module's."""
        return {part: self.tensors[full] for part, full in self.storage[name].parts(name).items()}

    def dtype_of(self, name: str) -> str:
        """Dtype of a weight, or its low precision."""
        return self.storage[name].scheme.precision if name in self.storage else self.tensors[name].dtype

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a weight."""
        return self.storage[name].shape(self.parts(name)) if name in self.storage else self.tensors[name].shape

    def torch(self, name: str, dtype: torch.dtype | None = None, *, copy: bool = True) -> torch.Tensor:
        """A weight as torch has it; see `Tensor.torch`.

        Args:
            name: of the weight.
            dtype: for tensors of low precision, bfloat16 by default; other tensors keep theirs.
            copy: see `Tensor.torch`.
        """
        with inside(name):
            if name not in self.storage:
                return self.tensors[name].torch(copy=copy)
            import torch

            return stored_values(self.storage[name], self.parts(name), dtype or torch.bfloat16)

    def as_torch(self, dtype: torch.dtype | None = None) -> Mapping[str, torch.Tensor]:
        """The weights by name, each read on access; the memory of a mapped file is shared."""
        return _AsTorch(self, dtype)

    @property
    def dtype(self) -> str:
        """Dtype of its weights: that of the embedding."""
        return self.tensors[_EMBEDDING].dtype

    @property
    def quantization(self) -> Quantization | None:
        """The most frequent storage scheme of the model's low-precision weights, or None."""
        counts = Counter(stored for name, stored in self.storage.items() if not is_mtp(name))
        return counts.most_common(1)[0][0] if counts else None

    @property
    def precision(self) -> str | None:
        """Their precision."""
        return None if self.quantization is None else self.quantization.scheme.precision


@dataclass(frozen=True)
class _AsTorch(Mapping):
    checkpoint: Checkpoint
    dtype: torch.dtype | None

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.checkpoint.torch(name, self.dtype, copy=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self.checkpoint.names)

    def __len__(self) -> int:
        return len(self.checkpoint.names)


def in_memory(
    parent: Parent,
    subnet: Subnet,
    tensors: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    companions: Path | None = None,
    prediction: Prediction | None = None,
) -> Checkpoint:
    """A checkpoint of tensors in memory; see the class.

    Args:
        parent, subnet, config, companions, prediction: see `Checkpoint`.
        tensors: name in a Hugging Face folder -> `Tensor`, numpy array or torch tensor.
    """
    by_name = {name: Tensor.of(value, name) for name, value in tensors.items()}
    made = Checkpoint(Path("tensors"), parent, subnet, config or {}, None, Origin(), by_name,
                      companions=companions, prediction=prediction)  # fmt: skip
    check_tensors(made)
    names = [t.hf for t in layout.tensors(parent, subnet)] + made.mtp
    return replace(made, tensors={name: by_name[name] for name in names})


@contextmanager
def unreplaced(folder: Path, opened: os.stat_result | None = None) -> Iterator[None]:
    """Raise if another process replaced the folder since it was opened: the tensors would be of two models."""
    opened = opened or os.stat(folder)
    try:
        yield
    finally:  # also where the mixture has led to another error
        if not folder.exists() or not os.path.samestat(opened, os.stat(folder)):
            raise ElasticError("another process replaced this folder while it was read; run the command again", folder)


def check_tensors(checkpoint: Checkpoint, mtp: bool = True) -> None:
    """Check that the weights are exactly those of the shape. A tied head may be there too, equal to the embedding.

    With `mtp` layers that predict further tokens may be there though nothing says their shapes.
    """
    shapes, tensors = {name: checkpoint.shape(name) for name in checkpoint.names}, checkpoint.tensors
    if checkpoint.parent.tied and _HEAD in shapes:
        if _EMBEDDING not in shapes or not same_words(tensors[_HEAD], tensors[_EMBEDDING]):
            says = f"{_HEAD} is not the embedding, but config.json says tie_word_embeddings"
            raise ElasticError(f"{checkpoint.folder}: {says}")
        del shapes[_HEAD]
    rows = all_tensors(checkpoint.parent, checkpoint.subnet, checkpoint.prediction)
    wanted = {t.hf: t.shape for t in rows}
    if mtp and checkpoint.prediction is None:
        shapes = {name: shape for name, shape in shapes.items() if not is_mtp(name)}
    check_exactly(wanted, shapes, str(checkpoint.folder))


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
