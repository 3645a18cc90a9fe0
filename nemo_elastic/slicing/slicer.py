# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Cutting a member out of a folder: bytes that stay are copied, tensor by tensor, and nothing is computed
(but another dtype, where one is asked for).

A cut out of a cut is the same cut out of the parent, byte for byte, and the full cut is the source.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_elastic.core.budget import NAME
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.member import why_not_nested
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.dtypes import check_convertible, parse_dtype, stored_as
from nemo_elastic.formats.folders import open_source, writer
from nemo_elastic.formats.hf.reading import MEMBER_FILE, member_to_json
from nemo_elastic.formats.hf.writing import FILES, SHARD_BYTES, Model, Progress, write_models, write_text
from nemo_elastic.formats.low_precision import Weights, share_changed
from nemo_elastic.formats.schemes import Stored
from nemo_elastic.formats.source import Origin, Source
from nemo_elastic.formats.tokenizer import find_tokenizer
from nemo_elastic.io.outputs import Output, atomic_dir, check_apart

from .card import member_card
from .lineage import CARD, Lineage, lineage_of
from .pieces import cut_behind, cut_weights

__all__ = ["MEMBER", "MEMBERS", "Cut", "describe_member", "left_out", "slice_checkpoint", "slice_members"]

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


def left_out(source: Source, target: Subnet, prediction: bool = True, format: str = HF) -> str | None:
    """What of a source a cut is without, in words; None where that is nothing.

    Args:
        source: What is cut.
        target: The member.
        prediction: See `slice_checkpoint`.
        format: Of the cut.
    """
    if not source.prediction:
        return None
    what = f"multi-token prediction layers ({len(source.prediction)} tensors)"
    if not prediction:
        return f"{what}, as asked"
    if format not in (HF, "megatron"):
        return f"{what}: the format {format} has no place for them"
    if source.predicts is None:
        return None if target == source.held else f"{what}: only the full member keeps them"
    if source.predicts.member(source.parent, target) is None:
        lacking = set(source.predicts.behind(source.parent).types) - {layer.type for layer in target.layers}
        return f"{what}: the member has no {min(lacking)} layer, which would give their widths"
    return None


def slice_checkpoint(
    source: str | Path | Source,
    out: str | Path,
    *,
    member: str | None = None,
    subnet: Subnet | None = None,
    format: str = "hf",
    dtype: str | None = None,
    requantize: bool = False,
    prediction: bool = True,
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
        prediction: Keep layers that predict more than one token, at the widths of the member.
        license: Id of the licence for the card, instead of the source's.
        base_model: Id of a model on the hub for the card, instead of what the source says.
        force: Replace an existing `out`.
        shard_bytes: Largest file of weights.
        progress: Called with (bytes written, bytes in all).

    Returns:
        What was cut.

    Raises:
        ElasticError: The source is no model folder, or was replaced meanwhile; the member is unknown, the shape is not
            inside, `out` is in the way, or a number does not fit the dtype.
    """
    if (member is None) == (subnet is None):
        raise ElasticError("slice: give either the name of a member or a subnet")
    opened = source if isinstance(source, Source) else open_source(source)
    targets = {"": _target(opened, member, subnet)}
    how = _How(format, dtype, requantize, prediction, license, base_model, force, shard_bytes, progress)
    return _slice(opened, Path(out), targets, how)[0]


def slice_members(
    source: str | Path | Source,
    out: str | Path,
    members: Mapping[str, Subnet],
    **how: Any,
) -> list[Cut]:
    """Cut several members; for the format `hf` each tensor of the source is read from the disk once.

    Args:
        source: See `slice_checkpoint`.
        out: The folder that gets a folder for each member, all of them or none.
        members: Name of a folder in `out` -> shape. Names are those that members may have.
        how: Arguments of `slice_checkpoint` from `format` on.

    Returns:
        What was cut, in the order of `members`.
    """
    opened = source if isinstance(source, Source) else open_source(source)
    targets = {NAME.read(name, "members"): _target(opened, None, subnet) for name, subnet in members.items()}
    if not targets:
        raise ElasticError("members: give at least one")
    return _slice(opened, Path(out), targets, _How(**how))


@dataclass(frozen=True)
class _How:
    """See `slice_checkpoint`."""

    format: str = HF
    dtype: str | None = None
    requantize: bool = False
    prediction: bool = True
    license: str | None = None
    base_model: str | None = None
    force: bool = False
    shard_bytes: int = SHARD_BYTES
    progress: Progress | None = None


def _slice(source: Source, out: Path, targets: Mapping[str, tuple[Subnet, Origin]], how: _How) -> list[Cut]:
    """Write each target into a folder of its name in `out`, or the one without a name as `out` itself."""
    write = _writer(how.format, {"dtype": how.dtype, "license": how.license, "base_model": how.base_model})
    kept = source
    if not how.prediction:
        kept = replace(source, prediction={}, predicts=None, quantized=source.weights.quantized)
    dtype = _stored(kept, how.dtype)
    lineage = lineage_of(source.companions, source.config).over(how.license, how.base_model)
    check_apart(out, source.folder)
    lacks = [left_out(source, target, how.prediction, how.format) for target, _ in targets.values()]
    lost: list[tuple[int, float | None]] = [(0, None)] * len(targets)
    if write is not None and "" in targets:
        write(kept, targets[""][0], out, how.force)
    else:
        with atomic_dir(out, how.force, kind=MEMBER if "" in targets else MEMBERS) as folder:
            for name, (target, _) in targets.items():
                if write is not None:
                    write(kept, target, folder / name)
                else:
                    (folder / name).mkdir(exist_ok=True)
            if write is None:
                into = {folder / name: (*targets[name], why) for name, why in zip(targets, lacks, strict=True)}
                lost = _write_hf(kept, into, dtype, lineage, how)
    return [
        Cut(out / name, origin.name, target, parameters(source.parent, target), why, *count)
        for (name, (target, origin)), why, count in zip(targets.items(), lacks, lost, strict=True)
    ]


def _writer(format: str, own: Mapping[str, str | None]) -> Callable[..., object] | None:
    """What writes a format; None for Hugging Face folders, which are written here, and alone take what is `own`."""
    given = next((name for name, value in own.items() if value is not None), None)
    if format != HF and given is not None:
        raise bad(given, own[given], f"the format {HF} alone has this option, not {format}")
    return None if format == HF else writer(format, HF)


def _stored(source: Source, name: str | None) -> str | None:
    """The dtype that tensors get, as a safetensors header has it, or None where each keeps its own."""
    dtype = parse_dtype(name)
    if name is not None:
        for weights in (source.weights, source.behind):
            for weight in weights.names:
                check_convertible(name, weight, weights.dtype(weight))
    return dtype


def _write_hf(
    source: Source,
    targets: Mapping[Path, tuple[Subnet, Origin, str | None]],
    dtype: str | None,
    lineage: Lineage,
    how: _How,
) -> list[tuple[int, float | None]]:
    """Write members into their folders; gives numbers that became 0, and what requantising changed, of each."""
    models: list[Model] = []
    zeros: list[dict[tuple[str, int], int]] = []
    for folder, (target, origin, lacks) in targets.items():
        zeros.append({})
        own, behind = (
            _in_dtype(cut(source, target, how.requantize), dtype, zeros[-1]) for cut in (cut_weights, cut_behind)
        )
        models.append(Model(folder, source.parent, target, own, source.config, source.companions, behind))
        more = source.predicts.parameters(source.parent, target) if source.predicts else 0
        describe_member(models[-1], origin, lineage, lacks, source.low if own.quantized else None, more)
    write_models(models, shard_bytes=how.shard_bytes, progress=how.progress)
    return [
        (sum(counts.values()), share_changed({**model.weights.changed, **model.behind.changed}))
        for counts, model in zip(zeros, models, strict=True)
    ]


def describe_member(
    model: Model,
    origin: Origin,
    lineage: Lineage,
    lacks: str | None = None,
    low: Stored | None = None,
    predicting: int = 0,
) -> None:
    """Write what a member's folder says of it: which member it is, and its card. See `member_card`."""
    written = json.dumps(member_to_json(model.parent, model.member, origin), indent=2)
    write_text(model.folder / MEMBER_FILE, written)
    tokenizer = find_tokenizer(model.files_from) is not None
    card = member_card(model.parent, model.member, origin, model.dtype, tokenizer, lineage, lacks, low, predicting)
    write_text(model.folder / CARD, card)


def _in_dtype(weights: Weights, dtype: str | None, zeros: dict[tuple[str, int], int]) -> Weights:
    cast = {name: t.cast(stored_as(name, dtype), name, zeros) for name, t in weights.tensors.items()}
    return replace(weights, tensors=cast)


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
