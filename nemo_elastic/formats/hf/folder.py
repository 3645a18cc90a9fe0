# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Opening a Hugging Face folder: its shape, which part of which parent it is, and its tensors, mapped and unread."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent, Subnet, known_fields
from nemo_elastic.core.manifest import FILE as FAMILY_FILE
from nemo_elastic.core.manifest import VERSION, Family
from nemo_elastic.core.member import check_digest, check_name
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.checksums import ExpectedTensor, Sums, read_checksums
from nemo_elastic.formats.raw import Raw
from nemo_elastic.formats.source import Origin, Shapes, Source, check_tensors
from nemo_elastic.io.bounded import read_text
from nemo_elastic.io.read import read_json, whole_number

from .config import from_hf_config, predicts, to_hf_config
from .safetensors_io import open_shard
from .shards import INDEX, SINGLE

__all__ = ["MEMBER_FILE", "member_to_json", "open_folder", "open_tensors", "read_shapes"]

#: In a member's folder: which member of which parent it is, so that smaller ones can be cut from it. No loader needs
#: it.
MEMBER_FILE = "elastic_member.json"
#: with which the names of tensors start whose layers predict more than one token
PREDICTION = "mtp."


def open_folder(folder: Path) -> Source:
    """Open a family, a member or any plain Nemotron-H folder; check that shapes and tensors agree.

    Raises:
        ElasticError: Not such a folder, or one that contradicts itself; the message names the file.
    """
    shapes = read_shapes(folder)
    tensors = dict(open_tensors(shapes.folder))
    prediction = {}
    if predicts(shapes.config):
        prediction = {name: tensors.pop(name) for name in list(tensors) if name.startswith(PREDICTION)}
    check_tensors(shapes.parent, shapes.held, tensors, str(folder))
    return Source(**vars(shapes), tensors=tensors, prediction=prediction)


def read_shapes(folder: Path) -> Shapes:
    """Read everything that a folder says of itself, without its weights.

    Raises:
        ElasticError: Not such a folder, or `elastic.json` or `elastic_member.json` is about another model.
    """
    path = folder / "config.json"
    config = _read_config(path)
    parent, held = from_hf_config(config, str(path))
    family = None
    if (folder / FAMILY_FILE).exists():
        family = Family.load(folder)
        wanted, wanted_held, told = family.parent, family.parent.full, FAMILY_FILE
        origin = Origin.of(family)
    elif (folder / MEMBER_FILE).exists():
        wanted, wanted_held, origin = _read_member_file(folder / MEMBER_FILE)
        told = MEMBER_FILE
    else:
        return Shapes(folder, parent, held, config, None, Origin())
    # Both files describe the same model in their own words; to compare, say the one in the words of the other.
    if from_hf_config(to_hf_config(wanted, wanted_held)) != (parent, held):
        raise ElasticError(f"{folder}: config.json and {told} describe different models")
    return Shapes(folder, wanted, wanted_held, config, family, origin)


def _read_config(path: Path) -> dict[str, Any]:
    # Not `read.read_json`: configs on the hub have an infinity in `time_step_limit`, for which JSON has no word.
    try:
        config = json.loads(read_text(path), parse_int=whole_number)
    except FileNotFoundError:
        raise ElasticError(f"{path.parent}: not a model folder (it has no config.json)") from None
    except OSError as exc:
        raise ElasticError(f"{path}: cannot be read ({exc.strerror})") from None
    except ElasticError:
        raise
    except (ValueError, RecursionError) as exc:
        raise ElasticError(f"{path}: not valid JSON ({exc})") from None
    if not isinstance(config, dict):
        raise ElasticError(f"{path}: not a model's config (no JSON object)")
    return config


@dataclass
class _Rest:
    """What `elastic.json` has of a family beside what `elastic_member.json` says anyway."""

    axes: dict
    members: dict
    drop_order: list | None
    extras: dict | None = None  # as in `elastic.json`: only where there are some


@dataclass
class _MemberFile:
    version: int
    name: str | None
    parameters: int
    parent: dict
    subnet: dict
    ranking: str | None
    provenance: dict
    family: dict | None = None  # members of version 0.1 have none


def member_to_json(parent: Parent, member: Subnet, origin: Origin) -> dict[str, Any]:
    """Give the content of `elastic_member.json`.

    It has the whole family, not what is left below the member: a size between two members depends on both, and the
    same shape has the same file, whichever larger member it was cut from.
    """
    out = {
        "version": VERSION,
        "name": origin.name,
        "parameters": parameters(parent, member),
        "parent": parent.to_json(),
        "subnet": member.to_json(),
        "ranking": origin.ranking,
        "provenance": dict(origin.provenance),
    }
    if origin.family is not None:
        whole = origin.family.to_json()
        out["family"] = {f.name: whole[f.name] for f in fields(_Rest) if f.name in whole}
    return out


def _read_member_file(path: Path) -> tuple[Parent, Subnet, Origin]:
    try:
        known = known_fields(_MemberFile, read_json(path), MEMBER_FILE)
        if isinstance(known["version"], bool) or known["version"] != VERSION:
            raise bad("version", known["version"], f"this nemo-elastic reads version {VERSION}")
        parent = Parent.from_json(known["parent"])
        member = Subnet.from_json(known["subnet"], parent)
        if known["parameters"] != parameters(parent, member):
            raise bad("parameters", known["parameters"], f"its shape has {parameters(parent, member)}")
        if known["name"] is not None:
            check_name("name", known["name"])
        check_digest("ranking", known["ranking"])
        if not isinstance(known["provenance"], dict):
            raise bad("provenance", known["provenance"], "a mapping")
        family = _read_family(known)
        if family is not None and known["name"] is not None and family.member(known["name"]).subnet != member:
            raise bad("name", known["name"], "its family has another shape of that name")
        return parent, member, Origin(known["name"], known["ranking"], known["provenance"], family)
    except ElasticError as exc:
        raise exc.within(path) from None


def _read_family(known: Mapping[str, Any]) -> Family | None:
    """The family in a member's file, where what both have stands once."""
    if known.get("family") is None:
        return None
    told = known_fields(_Rest, known["family"], "family")
    try:
        return Family.from_json({key: known[key] for key in ("version", "parent", "ranking", "provenance")} | told)
    except ElasticError as exc:
        raise exc.within("family") from None


def open_tensors(folder: str | Path) -> Mapping[str, Raw]:
    """Map the tensors of a folder, whether in one file or in several with an index.

    Args:
        folder: A folder with `model.safetensors` or `model.safetensors.index.json`.

    Returns:
        Tensors by name with the prefix `backbone.` (transformers may have written `model.`). Nothing is read yet; what
        is copied is held against the folder's checksums on its way (`Pieces`).

    Raises:
        ElasticError: No weights, a missing or broken file, an index that does not fit its files.
    """
    folder = Path(folder)
    if (folder / SINGLE).is_file():
        found = open_shard(folder / SINGLE)
    elif (folder / INDEX).is_file():
        found = dict(_open_index(folder / INDEX))
    else:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth"))
        hint = f"; {pickles[0]} is a pickle, which is never read" if pickles else ""
        raise ElasticError(f"{folder}: has no weights ({SINGLE} or {INDEX}){hint}")
    out: dict[str, Raw] = {}
    for name, tensor in found.items():
        own = "backbone." + name.removeprefix("model.") if name.startswith("model.") else name
        if own in out:
            raise ElasticError(f"{folder}: tensor {own!r} appears twice, with and without the prefix backbone")
        out[own] = tensor
    written = read_checksums(folder)
    if written is None:
        return out
    return {name: replace(raw, expected=_expected(folder, name, raw, written)) for name, raw in out.items()}


def _expected(folder: Path, name: str, raw: Raw, written: Mapping[str, Sums]) -> ExpectedTensor:
    file = raw.extent.path if raw.extent is not None else folder
    return ExpectedTensor(f"{file}: tensor {name!r}", written.get(name))


def _open_index(path: Path) -> Iterator[tuple[str, Raw]]:
    index = read_json(path)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ElasticError(f"{path}: has no weight_map")
    for file in weight_map.values():
        # An index from somewhere else must not make us read outside of its folder.
        if not isinstance(file, str) or not file.endswith(".safetensors") or set(file) & set("/\\\0"):
            raise bad(f"{path}: weight_map", file, "names of .safetensors files in the same folder")
    for file in sorted(set(weight_map.values())):
        wanted = {name for name, f in weight_map.items() if f == file}
        shard = open_shard(path.parent / file)
        if wanted != set(shard):
            name = min(wanted ^ set(shard))
            where = "is not in that file" if name in wanted else "is in that file but not in the index"
            raise ElasticError(f"{path}: does not fit {file}: tensor {name!r} {where}")
        yield from shard.items()
