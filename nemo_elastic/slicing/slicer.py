# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Cutting a member out of a folder: bytes that stay are copied, tensor by tensor, and nothing is computed
(but another dtype, where one is asked for).

A cut out of a cut is the same cut out of the parent, byte for byte, and the full cut is the source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_elastic.core.budget import NAME
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.kinds.registry import KINDS
from nemo_elastic.core.member import why_not_nested
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.checkpoint import Checkpoint, Origin
from nemo_elastic.formats.folders import open_source, writer
from nemo_elastic.formats.gguf.metadata import check
from nemo_elastic.formats.gguf.writing import SUFFIX, prepare
from nemo_elastic.formats.hf.reading import MEMBER_FILE, member_to_json
from nemo_elastic.formats.hf.writing import FILES, SHARD_BYTES, Progress, write_checkpoints, write_text
from nemo_elastic.formats.places import write_places
from nemo_elastic.io.outputs import Output, atomic_dir, atomic_file, check_apart

from .by_size import family_of, largest_within, read_limits
from .card import member_card, serving_spec
from .cutting import Rounding, cast, cut, without_mtp
from .lineage import CARD, Lineage, lineage_of

__all__ = ["MEMBER", "MEMBERS", "Cut", "describe_member", "left_out", "slice_checkpoint", "slice_members"]

HF, GGUF = "hf", "gguf"
#: option -> formats that have it
OPTIONS = {"dtype": (HF, GGUF), "pre": (GGUF,), "license": (HF, GGUF), "base_model": (HF,)}
MEMBER = Output("a member", FILES, MEMBER_FILE, frozenset({"version", "parent", "subnet"}))
MEMBERS = Output("a folder of members")


@dataclass(frozen=True)
class Cut:
    """What was cut.

    Attributes:
        out: the folder or file that was written; None after a dry run.
        member: name in the family; None for another shape.
        subnet: the shape.
        parameters: exact count.
        left_out: parts of the source that the member lacks, in words; None without any.
        underflowed: nonzero numbers that became 0 in the requested dtype.
        requantized: what computing codes anew has changed, as a share of those weights (root mean square); None where
            all of them were copied.
    """

    out: Path | None
    member: str | None
    subnet: Subnet
    parameters: int
    left_out: str | None = None
    underflowed: int = 0
    requantized: float | None = None


def left_out(source: Checkpoint, target: Subnet, prediction: bool = True, format: str = HF) -> str | None:
    """What of a source a cut is without, in words; None where that is nothing.

    Args:
        source: the checkpoint to cut.
        target: The member.
        prediction: See `slice_checkpoint`.
        format: Of the cut.
    """
    if not source.mtp:
        return None
    what = f"multi-token prediction layers ({len(source.mtp)} tensors)"
    if not prediction:
        return f"{what}, as asked"
    if format not in (HF, "megatron"):
        return f"{what}: the format {format} has no place for them"
    if source.prediction is None:
        return None if target == source.subnet else f"{what}: only the full member keeps them"
    types = {kind.name for kind in KINDS.values() if kind.symbol in source.prediction.pattern}
    lacking = types - {layer.type for layer in target.layers}
    return f"{what}: the member has no {min(lacking)} layer, which would give their widths" if lacking else None


def slice_checkpoint(
    source: str | Path | Checkpoint,
    out: str | Path | None,
    *,
    member: str | None = None,
    subnet: Subnet | None = None,
    params: float | str | None = None,
    active_params: float | str | None = None,
    ratio: float | None = None,
    memory: int | str | None = None,
    batch: int = 1,
    context: int = 8192,
    format: str = "hf",
    dtype: str | None = None,
    pre: str | None = None,
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
        out: The folder to write, whole or not at all; with None nothing is written, and weights are not read.
        member: Name of the member, where the source is a family or a larger member of one.
        subnet: Its shape instead, nested in what the source holds.
        params, active_params, ratio, memory: Instead of both, upper limits that hold together: of a family, the
            largest size is cut. Parameters, those that one token uses, a share of the parent's, bytes in service;
            also as text, such as `7B` and `14GiB`.
        batch, context: Sequences, and tokens of each, that `memory` counts.
        format: `hf` writes a folder for transformers and vLLM, `gguf` a file for llama.cpp (extra `gguf`), `nemo` a
            NeMo checkpoint (extra `nemo`), `megatron` one for Megatron-Bridge (extra `nemo` or `bridge`).
        dtype: Store tensors in `bf16`, `fp16` or `fp32`, those that no cast may round in `fp32`; as the source has
            them when None. For the formats `hf` and `gguf`; `gguf` has `q8_0`, too.
        pre: llama.cpp's name of the pre-tokenizer, for `gguf`; found from `tokenizer.json` when None.
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
    size = f"{memory}B" if isinstance(memory, int) else memory
    sizes = {"--params": params, "--active-params": active_params, "--ratio": ratio, "--memory": size}
    limits = {option: str(value) for option, value in sizes.items() if value is not None}
    if (member is not None) + (subnet is not None) + bool(limits) != 1:
        raise ElasticError("slice: give the name of a member, a subnet, or one or several limits")
    opened = source if isinstance(source, Checkpoint) else open_source(source)
    if limits:
        spec = serving_spec(dtype or opened.precision or opened.dtype, batch=batch, length=context)
        subnet = largest_within(opened, read_limits(spec, limits)).subnet
    targets = {"": _target(opened, member, subnet)}
    return _slice(
        opened, out, targets, format=format, dtype=dtype, pre=pre, requantize=requantize, prediction=prediction,
        license=license, base_model=base_model, force=force, shard_bytes=shard_bytes, progress=progress,
    )[0]  # fmt: skip


def slice_members(
    source: str | Path | Checkpoint,
    out: str | Path | None,
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
    opened = source if isinstance(source, Checkpoint) else open_source(source)
    targets = {NAME.read(name, "members"): _target(opened, None, subnet) for name, subnet in members.items()}
    if not targets:
        raise ElasticError("members: give at least one")
    return _slice(opened, out, targets, **how)


def _slice(
    source: Checkpoint,
    place: str | Path | None,
    targets: Mapping[str, tuple[Subnet, Origin]],
    *,
    format: str = HF,
    dtype: str | None = None,
    pre: str | None = None,
    requantize: bool = False,
    prediction: bool = True,
    license: str | None = None,
    base_model: str | None = None,
    force: bool = False,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> list[Cut]:
    """Write each target as a folder or file of its name in a place, or the one without a name as the place."""
    _check_options(format, {"dtype": dtype, "pre": pre, "license": license, "base_model": base_model})
    write = None if format in (HF, GGUF) else writer(format, GGUF, HF)
    kept = source if prediction else without_mtp(source)
    lineage = lineage_of(source.companions, source.config).over(license, base_model)
    rounding = {name: Rounding() for name in targets}
    lacks = {name: left_out(source, target, prediction, format) for name, (target, _) in targets.items()}
    members = {
        name: replace(cut(kept, target, requantize, rounding[name]), origin=origin)
        for name, (target, origin) in targets.items()
    }
    if format == GGUF:
        for member in members.values():
            check(member)  # a dry run raises, too
    else:
        members = {name: cast(member, dtype, rounding[name]) for name, member in members.items()}
    out = None if place is None else Path(place)
    if out is not None:
        check_apart(out, source.folder)
        if format == GGUF:
            how = {"license": lineage.license, "dtype": dtype, "pre": pre}
            _write_gguf(out, members, rounding, force, progress, **how)
        elif write is not None and "" in members:
            write(members[""], out, force)
        else:
            with atomic_dir(out, force, kind=MEMBER if "" in members else MEMBERS) as folder:
                for name, member in members.items():
                    if write is not None:
                        write(member, folder / name)
                        continue
                    (folder / name).mkdir(exist_ok=True)
                    describe_member(folder / name, member, lineage, lacks[name])
                if write is None:
                    models = {folder / name: member for name, member in members.items()}
                    write_checkpoints(models, shard_bytes=shard_bytes, progress=progress)
    return [
        Cut(
            out and _place_of(out, name, format), member.origin.name, member.subnet,
            parameters(source.parent, member.subnet), lacks[name], rounding[name].underflowed,
            rounding[name].requantized,
        )
        for name, member in members.items()
    ]  # fmt: skip


def _place_of(out: Path, name: str, format: str) -> Path:
    """Folder or file of a member; the one without a name is the place itself."""
    return out / f"{name}{SUFFIX}" if name and format == GGUF else out / name


def _check_options(format: str, given: Mapping[str, str | None]) -> None:
    """Refuse an option that the format does not have."""
    for name, value in given.items():
        if value is not None and format not in OPTIONS[name]:
            raise bad(name, value, f"leave it out: {' and '.join(OPTIONS[name])} have this option, {format} has not")


def _write_gguf(
    out: Path,
    members: Mapping[str, Checkpoint],
    rounding: Mapping[str, Rounding],
    force: bool,
    progress: Progress | None,
    **how: Any,
) -> None:
    """Write the member without a name as a file, or several in one pass as files in a folder."""
    with atomic_file(out, force) if "" in members else atomic_dir(out, force, kind=MEMBERS) as place:
        places = []
        for name, member in members.items():
            file = _place_of(place, name, GGUF)
            places += prepare(member, file, name=name or out.stem, zeros=rounding[name].zeros, **how)
        write_places(places, progress)


def describe_member(folder: Path, member: Checkpoint, lineage: Lineage, lacks: str | None = None) -> None:
    """Write what a member's folder says of it: which member it is, and its card. See `member_card`."""
    write_text(folder / MEMBER_FILE, json.dumps(member_to_json(member.parent, member.subnet, member.origin), indent=2))
    write_text(folder / CARD, member_card(member, lineage, lacks))


def _target(source: Checkpoint, name: str | None, subnet: Subnet | None) -> tuple[Subnet, Origin]:
    family = source.origin.family
    if name is not None:
        own = family is None and source.origin.name == name
        subnet = source.subnet if own else family_of(source).member(name).subnet
    assert subnet is not None
    subnet.validate(source.parent)
    why = why_not_nested(subnet, source.subnet)
    if why is not None:
        raise ElasticError(f"subnet: not inside {source.folder}: {why}")
    if name is None and family is not None:
        name = family.name_of(subnet)
    elif name is None and subnet == source.subnet:
        name = source.origin.name
    return subnet, replace(source.origin, name=name)
