# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What every format is opened as: a shape, which part of which parent it is, and its tensors, unread.

Whatever cuts, checks, converts or runs takes a `Source`, and asks no format. Tensors have the names and the layout of
a Hugging Face folder; a format that has others gives them so (`adapter`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nemo_elastic.core import layout
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.prediction import Prediction
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.kept import Converted, Pieces

from .quantized import Quantized, QuantizedPieces, Stored, pieces_of
from .raw import Raw

__all__ = ["GGUF", "Origin", "Shapes", "Source", "check_exactly", "check_tensors", "is_gguf", "same_words"]

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
        tensors: name in a Hugging Face folder (`backbone.`, layers counted in `held`) -> mapped tensor, or a weight of
            low precision with its scales.
        prediction: tensors of layers that predict more than one token, which lie behind the model and read its stream.
        predicts: which layers these are, so that members have what they keep of them; None where that is not known:
            then they stay with the whole model.
        cache_scales: see `formats.cache_scales`.
    """

    tensors: Mapping[str, Raw | Quantized]
    prediction: Mapping[str, Raw | Quantized] = field(default_factory=dict, kw_only=True)
    predicts: Prediction | None = field(default=None, kw_only=True)
    cache_scales: Mapping[str, Raw] = field(default_factory=dict, kw_only=True)

    @property
    def dtype(self) -> str:
        """Dtype of its weights: that of the embedding."""
        return self.tensors[_EMBEDDING].dtype

    @property
    def low(self) -> Stored | None:
        """How most of its weights of low precision are stored; None where there are none."""
        held = Counter(t.stored_as for t in self.tensors.values() if isinstance(t, Quantized))
        return held.most_common(1)[0][0] if held else None

    @property
    def precision(self) -> str | None:
        """Their precision."""
        low = self.low
        return None if low is None else low.scheme.precision

    @property
    def stored(self) -> dict[str, Raw]:
        """All tensors as they lie in files: of a quantised weight its codes and its scales."""
        every = {**self.tensors, **self.prediction}
        own = {full: raw for name, tensor in every.items() for full, raw in tensor.stored(name).items()}
        return own | dict(self.cache_scales)


def is_gguf(path: Path) -> bool:
    """Whether a file has the name of one of llama.cpp's."""
    return path.suffix.lower() == ".gguf"


def check_tensors(parent: Parent, held: Subnet, tensors: Mapping[str, Raw | Quantized], where: str) -> None:
    """Check that tensors are exactly those of a member, in its shapes.

    Args:
        parent: Shape of the parent.
        held: The member that the tensors should be.
        tensors: By name, layers counted in the member. A tied head may be there too, equal to the embedding.
        where: What they belong to, for errors.

    Raises:
        ElasticError: A tensor is missing, unknown, or has another shape; or a tied head is not the embedding.
    """
    wanted = {t.hf: t.shape for t in layout.tensors(parent, held)}
    if parent.tied and _HEAD in tensors:
        head, embedding = tensors[_HEAD], tensors.get(_EMBEDDING)
        if embedding is None or not same_words(head, embedding):
            raise ElasticError(f"{where}: {_HEAD} is not the embedding, but config.json says tie_word_embeddings")
        tensors = {name: tensor for name, tensor in tensors.items() if name != _HEAD}
    check_exactly(wanted, tensors, where)


def check_exactly(wanted: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Raw | Quantized], where: str) -> None:
    """Check that tensors are those of these names, in these shapes.

    Raises:
        ElasticError: see `check_tensors`.
    """
    missing, extra = [n for n in wanted if n not in tensors], [n for n in tensors if n not in wanted]
    for names, word in ((missing, "is missing"), (extra, "is no part of this model")):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ElasticError(f"{where}: tensor {names[0]!r} {word}{more}")
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            raise ElasticError(f"{where}: tensor {name!r} has shape {list(tensors[name].shape)}, not {list(shape)}")


def same_words(
    a: Raw | Quantized, b: Raw | Quantized, part: Pieces | QuantizedPieces | Converted | None = None
) -> bool:
    """Whether `a` is `b`, or a part of it, word for word; a few megabytes are compared at a time."""
    kept = (part if part is not None else pieces_of("", b.plain)).stored("")
    own = a.stored("")
    return own.keys() == kept.keys() and all(_same(raw, kept[name]) for name, raw in own.items())


def _same(raw: Raw, part: Pieces | Converted) -> bool:
    if raw.shape != part.shape or raw.dtype != part.dtype:
        return False
    flat, at = raw.words.reshape(-1), 0
    for piece in part():
        if not np.array_equal(flat[at : at + piece.size], piece.reshape(-1)):
            return False
        at += piece.size
    return True
