# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Cutting a member out of a folder: bytes that stay are copied, tensor by tensor, and nothing is computed
(but another dtype, where one is asked for).

A cut out of a cut is the same cut out of the parent, byte for byte, and the full cut is the source.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nemo_elastic.core import layout
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.member import check_name, why_not_nested
from nemo_elastic.core.prefix import Selection
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.folders import open_source, writer
from nemo_elastic.formats.hf.reading import MEMBER_FILE, member_to_json
from nemo_elastic.formats.hf.shards import SHARD_BYTES, NewTensor, Progress
from nemo_elastic.formats.hf.writing import FILES, Model, write_models, write_text
from nemo_elastic.formats.kept import Converted, Pieces, check_convertible, in_dtype, parse_dtype, stored_as
from nemo_elastic.formats.quantized import Quantized, QuantizedPieces, Requantized, Torn, pieces_of, share_changed
from nemo_elastic.formats.raw import Raw
from nemo_elastic.formats.source import Origin, Source
from nemo_elastic.formats.tokenizer_files import find_tokenizer
from nemo_elastic.io.atomic import atomic_dir
from nemo_elastic.io.outputs import Output, check_apart

from .card import member_card
from .lineage import CARD, Lineage, lineage_of

__all__ = [
    "MEMBER", "MEMBERS", "Cut", "cut_pieces", "cut_tensors", "kept_parts", "left_out", "slice_checkpoint",
    "slice_members",
]  # fmt: skip

HF = "hf"
MEMBER = Output("a member", FILES, MEMBER_FILE, frozenset({"version", "parent", "subnet"}))
MEMBERS = Output("a folder of members")


@dataclass(frozen=True)
class Cut:
    """What was cut.

    Attributes:
        out: the folder that was written.
        member: name in the family; None for a shape of its own.
        subnet: the shape.
        parameters: exact count.
        left_out: what the source has and it has not, in words; None where that is nothing.
        underflowed: numbers that are 0 in the dtype that was asked for, and were not.
        requantized: what computing codes anew has changed, as a share of those weights (root mean square); None where
            all of them were copied.
    """

    out: Path
    member: str | None
    subnet: Subnet
    parameters: int
    left_out: str | None = None
    underflowed: int = 0
    requantized: float | None = None


def left_out(source: Source, target: Subnet) -> str | None:
    """What of a source no member has but the whole model, in words; None for the whole model, or where it has none."""
    if target == source.parent.full or not source.prediction:
        return None
    return f"multi-token prediction layers ({len(source.prediction)} tensors): only the full member keeps them"


def slice_checkpoint(
    source: str | Path | Source,
    out: str | Path,
    *,
    member: str | None = None,
    subnet: Subnet | None = None,
    format: str = "hf",
    dtype: str | None = None,
    requantize: bool = False,
    license: str | None = None,
    base_model: str | None = None,
    force: bool = False,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> Cut:
    """Cut one member out of a family, a larger member, or any plain Nemotron-H folder.

    Args:
        source: A Hugging Face folder, or one that `open_source` opened.
        out: The folder to write, whole or not at all.
        member: Name of the member, where the source is a family or a larger member of one.
        subnet: Its shape instead, nested in what the source holds. Exactly one of the two.
        format: `hf` writes a folder for transformers and vLLM, `nemo` a NeMo checkpoint (needs the extra `nemo`).
        dtype: Store tensors in `bf16`, `fp16` or `fp32`, those that no cast may round in `fp32`; as the source has
            them when None. For the format `hf`.
        requantize: Compute weights of low precision anew where a block that has one scale would be torn; else such a
            shape is an error.
        license: Id of the licence for the card, instead of the source's.
        base_model: Id of a model on the hub for the card, instead of what the source says.
        force: Replace an existing `out`.
        shard_bytes: Largest file of weights.
        progress: Called with (bytes written, bytes in all).

    Returns:
        What was cut.

    Raises:
        ElasticError: A source that is none, an unknown member, a shape that is not inside, `out` in the way, a dtype
            that it cannot be stored in.
    """
    if (member is None) == (subnet is None):
        raise ElasticError("slice: give either the name of a member or a subnet")
    opened = source if isinstance(source, Source) else open_source(source)
    target, origin = _target(opened, member, subnet)
    write, stored, lineage = _options(opened, format, dtype, license, base_model)
    check_apart(out, opened.folder)
    lost = _Lost()
    if write is not None:
        write(opened, target, out, force)
    else:
        with atomic_dir(out, force, kind=MEMBER) as folder:
            (lost,) = _write_hf(opened, {folder: (target, origin)}, stored, requantize, lineage, shard_bytes, progress)
    return _cut(opened, Path(out), target, origin, lost)


def slice_members(
    source: str | Path | Source,
    out: str | Path,
    members: Mapping[str, Subnet],
    *,
    format: str = "hf",
    dtype: str | None = None,
    requantize: bool = False,
    license: str | None = None,
    base_model: str | None = None,
    force: bool = False,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> list[Cut]:
    """Cut several members in one pass over the source; a source larger than memory is read from the disk once.

    Args:
        source: See `slice_checkpoint`.
        out: The folder that gets a folder for each member, all of them or none.
        members: Name of a folder in `out` -> shape. Names are those that members may have.
        format, dtype, requantize, license, base_model, force, shard_bytes, progress: See `slice_checkpoint`.

    Returns:
        What was cut, in the order of `members`.

    Raises:
        ElasticError: See `slice_checkpoint`; a name that no member may have.
    """
    opened = source if isinstance(source, Source) else open_source(source)
    targets = {check_name("members", name): _target(opened, None, subnet) for name, subnet in members.items()}
    if not targets:
        raise ElasticError("members: none to cut")
    write, stored, lineage = _options(opened, format, dtype, license, base_model)
    check_apart(out, opened.folder)
    lost = [_Lost()] * len(targets)
    with atomic_dir(out, force, kind=MEMBERS) as folder:
        if write is not None:
            for name, (target, _) in targets.items():
                write(opened, target, folder / name)
        else:
            for name in targets:
                (folder / name).mkdir()
            into = {folder / name: t for name, t in targets.items()}
            lost = _write_hf(opened, into, stored, requantize, lineage, shard_bytes, progress)
    return [
        _cut(opened, Path(out, name), target, origin, count)
        for (name, (target, origin)), count in zip(targets.items(), lost, strict=True)
    ]


@dataclass(frozen=True)
class _Lost:
    """What of a member's numbers is not what the source has; see `Cut`."""

    underflowed: int = 0
    requantized: float | None = None


def _cut(source: Source, out: Path, target: Subnet, origin: Origin, lost: _Lost) -> Cut:
    return Cut(out, origin.name, target, parameters(source.parent, target), left_out(source, target), **vars(lost))


def _options(
    source: Source, format: str, dtype: str | None, license: str | None, base_model: str | None
) -> tuple[Callable[..., object] | None, str | None, Lineage]:
    """What writes, the dtype that tensors get, and what cards say; see `_writer` and `_stored`."""
    write = _writer(format, {"dtype": dtype, "license": license, "base_model": base_model})
    lineage = lineage_of(source.companions, source.config).over(license, base_model)
    return write, _stored(source, dtype), lineage


def _writer(format: str, own: Mapping[str, str | None]) -> Callable[..., object] | None:
    """What writes a format; None for Hugging Face folders, which are written here, and alone take what is `own`."""
    given = next((name for name, value in own.items() if value is not None), None)
    if format != HF and given is not None:
        raise bad(given, own[given], f"only the format {HF} takes one, not {format}")
    return None if format == HF else writer(format, HF)


def _stored(source: Source, name: str | None) -> str | None:
    """The dtype that tensors get, as a safetensors header has it, or None where each keeps its own."""
    dtype = parse_dtype(name)
    if name is not None:
        for tensor, raw in source.tensors.items():
            check_convertible(name, tensor, raw.dtype)
    return dtype


def _write_hf(
    source: Source,
    targets: Mapping[Path, tuple[Subnet, Origin]],
    dtype: str | None,
    requantize: bool,
    lineage: Lineage,
    shard_bytes: int,
    progress: Progress | None,
) -> list[_Lost]:
    """Write members into their folders; gives what of each is not what the source has."""
    tokenizer = find_tokenizer(source.companions) is not None
    for folder, (target, origin) in targets.items():
        write_text(folder / MEMBER_FILE, json.dumps(member_to_json(source.parent, target, origin), indent=2))
        lacks = left_out(source, target)
        card = member_card(source.parent, target, origin, dtype or source.dtype, tokenizer, lineage, lacks, source.low)
        write_text(folder / CARD, card)
    right: dict[str, set[int]] = defaultdict(set)  # what one member has read and found right serves the others
    cuts = {folder: cut_pieces(source, target, right, requantize) for folder, (target, _) in targets.items()}
    models = [
        Model(
            folder,
            source.parent,
            target,
            _in_dtype({name: pieces for name, (_, pieces) in cuts[folder].items()}, dtype),
            source.config,
            source.companions,
            _prediction(source, dtype) if target == source.parent.full else (),
            {name: raw.stored_as for name, (raw, _) in cuts[folder].items() if isinstance(raw, Quantized)},
        )
        for folder, (target, _) in targets.items()
    ]
    write_models(models, shard_bytes=shard_bytes, progress=progress)
    return [
        _Lost(
            sum(e.chunks.underflowed for e in (*m.entries, *m.prediction) if isinstance(e.chunks, Converted)),
            share_changed([p for _, p in cuts[m.folder].values() if isinstance(p, Requantized)]),
        )
        for m in models
    ]


def cut_tensors(source: Source, target: Subnet, requantize: bool = False) -> Mapping[str, Raw | Quantized]:
    """Give the tensors of a member, each cut when it is asked for.

    Args:
        source: What holds it.
        target: A member nested in `source.held`.
        requantize: See `cut_pieces`.
    """
    return _Cuts(cut_pieces(source, target, requantize=requantize))


class _Cuts(Mapping[str, Raw | Quantized]):
    def __init__(self, pieces: Mapping[str, tuple[Raw | Quantized, Pieces | QuantizedPieces]]) -> None:
        self._pieces = pieces

    def __getitem__(self, name: str) -> Raw | Quantized:
        raw, pieces = self._pieces[name]
        return pieces.whole() if isinstance(pieces, QuantizedPieces) else Raw(raw.dtype, pieces.whole())

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)


def kept_parts(source: Source, target: Subnet) -> dict[str, tuple[str, tuple[Selection, ...]]]:
    """Give, for each tensor of a member in storage order, the source's name of it and what stays of each dimension.

    Args:
        source: What holds it.
        target: A member nested in `source.held`.
    """
    names = {(t.row.name, t.index, t.number): t.hf for t in layout.tensors(source.parent, source.held)}
    out: dict[str, tuple[str, tuple[Selection, ...]]] = {}
    selections: dict[tuple[str, int | None], tuple[Selection, ...]] = {}  # all experts of a layer have the same
    for t in layout.tensors(source.parent, target):
        index = t.index
        own = layout.original(source.parent, t.row, t.number, source.held, target, index)
        kept = selections.get((t.row.name, index))
        if kept is None:
            kept = selections[t.row.name, index] = tuple(
                layout.selection(source.parent, t.row, dim, source.held, target, index) for dim in range(len(t.shape))
            )
        out[t.hf] = names[t.row.name, index, own], kept
    return out


def cut_pieces(
    source: Source, target: Subnet, right: Mapping[str, set[int]] | None = None, requantize: bool = False
) -> dict[str, tuple[Raw | Quantized, Pieces | QuantizedPieces]]:
    """Give, for each tensor of a member in storage order, the source's tensor and the part of it that stays.

    Args:
        source: What holds it.
        target: A member nested in `source.held`.
        right: By name of the source's tensor, what needs no second look in this pass (`Watch`).
        requantize: Compute the codes and scales anew of weights of which a block with one scale stays in part; it
            takes torch.

    Raises:
        ElasticError: There is such a block, and `requantize` is not asked for.
    """
    out: dict[str, tuple[Raw | Quantized, Pieces | QuantizedPieces]] = {}
    for own, (name, kept) in kept_parts(source, target).items():
        raw = source.tensors[name]
        try:
            out[own] = raw, pieces_of(name, raw, kept, right, requantize)
        except Torn as torn:
            raise ElasticError(f"{source.folder}: {name} in {raw.dtype} cannot be cut as bytes: {torn}") from None
    return out


def _prediction(source: Source, dtype: str | None) -> list[NewTensor]:
    return _in_dtype({name: Pieces(raw) for name, raw in source.prediction.items()}, dtype)


def _in_dtype(parts: Mapping[str, Pieces | QuantizedPieces], dtype: str | None) -> list[NewTensor]:
    stored = {name: part for weight, pieces in parts.items() for name, part in pieces.stored(weight).items()}
    return [NewTensor.of(name, in_dtype(part, stored_as(name, dtype), name)) for name, part in stored.items()]


def _target(source: Source, name: str | None, subnet: Subnet | None) -> tuple[Subnet, Origin]:
    family = source.origin.family
    if name is not None:
        if family is not None:
            subnet = family.member(name).subnet
        elif source.origin.name == name:
            subnet = source.held
        else:
            raise ElasticError(f"{source.folder}: is one model, not a family with named members; give a subnet")
    assert subnet is not None
    subnet.validate(source.parent)
    why = why_not_nested(subnet, source.held)
    if why is not None:
        raise ElasticError(f"subnet: not inside {source.folder}: {why}")
    if name is None and family is not None:
        name = family.name_of(subnet)
    elif name is None and subnet == source.held:
        name = source.origin.name
    return subnet, replace(source.origin, name=name)
