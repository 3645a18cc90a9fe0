# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Opening a Hugging Face folder: its shape, which part of which parent it is, and its tensors, mapped and unread."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nemo_elastic import layout
from nemo_elastic.cost import parameters
from nemo_elastic.errors import ElasticError, bad, placed
from nemo_elastic.extras import require
from nemo_elastic.family import Parent, Subnet, known_fields
from nemo_elastic.files import read_json, read_text, whole_number
from nemo_elastic.inside import check_inside
from nemo_elastic.manifest import FILE as FAMILY_FILE
from nemo_elastic.manifest import VERSION, Family, check_digest, check_name

from .checksums import Expected, Sums, read_checksums
from .hf_config import from_hf_config, to_hf_config
from .pieces import Pieces
from .safetensors_io import Raw, open_shard
from .shards import INDEX, SINGLE

__all__ = [
    "MEMBER_FILE",
    "Origin",
    "Shapes",
    "Source",
    "check_tensors",
    "member_to_json",
    "open_source",
    "open_tensors",
    "read_parent",
    "read_shapes",
    "same_words",
]

#: In a member's folder: which member of which parent it is, so that smaller ones can be cut from it. No loader needs
#: it.
MEMBER_FILE = "elastic_member.json"
_HEAD, _EMBEDDING = "lm_head.weight", "backbone.embeddings.weight"


@dataclass(frozen=True)
class Origin:
    """Where a member comes from; it stays with every member cut from it.

    Attributes:
        name: the member's name in its family; None for a shape of its own.
        ranking: digest of the ranking that sorted the parent.
        provenance: of the family, JSON values.
    """

    name: str | None = None
    ranking: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


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


@dataclass(frozen=True)
class Source(Shapes):
    """An opened folder.

    Attributes:
        tensors: name in a Hugging Face folder (`backbone.`, layers counted in `held`) -> mapped tensor.
    """

    tensors: Mapping[str, Raw]

    @property
    def dtype(self) -> str:
        """Dtype of its weights: that of the embedding."""
        return self.tensors[_EMBEDDING].dtype


def open_source(folder: str | Path) -> Source:
    """Open a family, a member, any plain Nemotron-H folder or a NeMo checkpoint; check that shapes and tensors agree.

    Raises:
        ElasticError: Not such a folder, or one that contradicts itself; the message names the file.
    """
    folder = _readable(folder)
    if _is_nemo(folder):
        return _nemo().open_nemo(folder)
    shapes = read_shapes(folder)
    tensors = open_tensors(shapes.folder)
    check_tensors(shapes.parent, shapes.held, tensors, str(folder))
    return Source(**vars(shapes), tensors=tensors)


def read_parent(folder: str | Path) -> tuple[Parent, Subnet, dict[str, Any]]:
    """Read the shapes of a folder, without its weights.

    Args:
        folder: A family, a member or any plain Nemotron-H folder.

    Returns:
        The parent in which layers are counted, the member of it that the folder holds, and `config.json`.

    Raises:
        ElasticError: Not such a folder, or `elastic.json` or `elastic_member.json` is about another model.
    """
    shapes = read_shapes(folder)
    return shapes.parent, shapes.held, dict(shapes.config)


def read_shapes(folder: str | Path) -> Shapes:
    """Read everything that a folder says of itself, without its weights; see `read_parent`."""
    folder = _readable(folder)
    if _is_nemo(folder):
        return _nemo().read_nemo_shapes(folder)
    path = folder / "config.json"
    config = _read_config(path)
    parent, held = from_hf_config(config, str(path))
    family = None
    if (folder / FAMILY_FILE).exists():
        family = Family.load(folder)
        wanted, wanted_held, told = family.parent, family.parent.full, FAMILY_FILE
        origin = Origin(family.members[0].name, family.ranking_digest, family.provenance)
    elif (folder / MEMBER_FILE).exists():
        wanted, wanted_held, origin = _read_member_file(folder / MEMBER_FILE)
        told = MEMBER_FILE
    else:
        return Shapes(folder, parent, held, config, None, Origin())
    # Both files describe the same model in their own words; to compare, say the one in the words of the other.
    if from_hf_config(to_hf_config(wanted, wanted_held)) != (parent, held):
        raise ElasticError(f"{folder}: config.json and {told} describe different models")
    return Shapes(folder, wanted, wanted_held, config, family, origin)


def _readable(folder: str | Path) -> Path:
    try:
        os.scandir(folder).close()
    except (FileNotFoundError, NotADirectoryError):
        if Path(folder).exists():
            raise ElasticError(f"{folder}: is a file, not a folder") from None
        raise ElasticError(f"{folder}: no such folder") from None
    except OSError as exc:
        raise ElasticError(f"{folder}: cannot be read ({exc.strerror})") from None
    return Path(folder)


def _is_nemo(folder: Path) -> bool:
    return any((folder / part).is_dir() for part in ("weights", "context")) and not (folder / "config.json").exists()


def _nemo() -> Any:
    # By name: what cuts and exports is below NeMo and must stay importable without it.
    require("nemo")
    return importlib.import_module("nemo_elastic.nemo.source")


def _read_config(path: Path) -> dict[str, Any]:
    # Not `files.read_json`: configs on the hub have an infinity in `time_step_limit`, for which JSON has no word.
    try:
        config = json.loads(read_text(check_inside(path)), parse_int=whole_number)
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
class _MemberFile:
    version: int
    name: str | None
    parameters: int
    parent: dict
    subnet: dict
    ranking: str | None
    provenance: dict


def member_to_json(parent: Parent, member: Subnet, origin: Origin) -> dict[str, Any]:
    """Give the content of `elastic_member.json`."""
    return {
        "version": VERSION,
        "name": origin.name,
        "parameters": parameters(parent, member),
        "parent": parent.to_json(),
        "subnet": member.to_json(),
        "ranking": origin.ranking,
        "provenance": dict(origin.provenance),
    }


def _read_member_file(path: Path) -> tuple[Parent, Subnet, Origin]:
    try:
        known = known_fields(_MemberFile, read_json(check_inside(path)), MEMBER_FILE)
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
        return parent, member, Origin(known["name"], known["ranking"], known["provenance"])
    except ElasticError as exc:
        raise placed(exc, path) from None


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
        found = open_shard(check_inside(folder / SINGLE))
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


def _expected(folder: Path, name: str, raw: Raw, written: Mapping[str, Sums]) -> Expected:
    file = raw.extent.path if raw.extent is not None else folder
    return Expected(f"{file}: tensor {name!r}", written.get(name))


def _open_index(path: Path) -> Iterator[tuple[str, Raw]]:
    index = read_json(check_inside(path))
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ElasticError(f"{path}: has no weight_map")
    for file in weight_map.values():
        # An index from somewhere else must not make us read outside of its folder.
        if not isinstance(file, str) or not file.endswith(".safetensors") or set(file) & set("/\\\0"):
            raise bad(f"{path}: weight_map", file, "names of .safetensors files in the same folder")
    for file in sorted(set(weight_map.values())):
        wanted = {name for name, f in weight_map.items() if f == file}
        shard = open_shard(check_inside(path.parent / file))
        if wanted != set(shard):
            name = min(wanted ^ set(shard))
            where = "is not in that file" if name in wanted else "is in that file but not in the index"
            raise ElasticError(f"{path}: does not fit {file}: tensor {name!r} {where}")
        yield from shard.items()


def check_tensors(parent: Parent, held: Subnet, tensors: Mapping[str, Raw], where: str) -> None:
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
    missing, extra = [n for n in wanted if n not in tensors], [n for n in tensors if n not in wanted]
    if parent.tied and _HEAD in extra:
        extra.remove(_HEAD)
        head, embedding = tensors[_HEAD], tensors.get(_EMBEDDING)
        if embedding is None or not same_words(head, embedding):
            raise ElasticError(f"{where}: {_HEAD} is not the embedding, but config.json says tie_word_embeddings")
    for names, word in ((missing, "is missing"), (extra, "is no part of this model")):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ElasticError(f"{where}: tensor {names[0]!r} {word}{more}")
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            raise ElasticError(f"{where}: tensor {name!r} has shape {list(tensors[name].shape)}, not {list(shape)}")


def same_words(a: Raw, b: Raw, part: Pieces | None = None) -> bool:
    """Whether `a` is `b`, or a part of it, word for word; a few megabytes are compared at a time."""
    part = part if part is not None else Pieces(b.plain)
    if a.shape != part.shape or a.dtype != b.dtype:
        return False
    flat, at = a.words.reshape(-1), 0
    for piece in part():
        if not np.array_equal(flat[at : at + piece.size], piece.reshape(-1)):
            return False
        at += piece.size
    return True
