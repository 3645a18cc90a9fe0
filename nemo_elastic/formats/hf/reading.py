# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Opening a Hugging Face folder: its parent, its subnet, and its memory-mapped tensors.

Mapping a file copies nothing. The safetensors library checks every header before any of it is believed.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from nemo_elastic.core.budget import NAME
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.manifest import FILE as FAMILY_FILE
from nemo_elastic.core.manifest import VERSION, Family
from nemo_elastic.core.member import DIGEST
from nemo_elastic.core.prediction import PREFIX, Prediction, all_tensors, is_mtp
from nemo_elastic.errors import ElasticError, bad, inside, shown
from nemo_elastic.formats.checkpoint import Checkpoint, Origin, Shapes, check_tensors
from nemo_elastic.formats.dtypes import ITEMSIZE, word
from nemo_elastic.formats.low_precision import check_cache_scales, check_no_others, find_quantized
from nemo_elastic.formats.tensor import Extent, Handle, Tensor
from nemo_elastic.io.fields import check_version, known_fields, read
from nemo_elastic.io.read import open_regular, read_json

from .config import PUZZLE, from_hf_config, prediction_of, predicts, to_hf_config
from .quant_config import check_described, quantization_of
from .writing import INDEX, SINGLE

__all__ = ["MEMBER_FILE", "member_to_json", "open_folder", "open_shard", "open_tensors", "read_shapes"]

#: In a member's folder: its parent and subnet, so that smaller members can be cut from it. No loader needs
#: it.
MEMBER_FILE = "elastic_member.json"
_MOST_DIMENSIONS = 32  # what numpy 1 allows; no tensor of a model has five
_MOST_ELEMENTS = 2**59  # numpy counts bytes in 63 bits, even if another dimension is 0


def open_folder(folder: Path) -> Checkpoint:
    """Open a family, a member or any plain Nemotron-H folder; check that shapes and tensors agree."""
    shapes = read_shapes(folder)
    tensors = open_tensors(shapes.folder)
    prediction = _prediction(shapes, tensors)
    wanted = {t.hf: t.shape for t in all_tensors(shapes.parent, shapes.subnet, prediction)}
    said = quantization_of(shapes.config, shapes.folder)
    layout = None if said is None else said.scheme.layout
    with inside(folder):
        check_cache_scales({n: t for n, t in tensors.items() if not is_mtp(n)}, shapes.subnet, layout is not None)
        storage = {} if layout is None else find_quantized(tensors, wanted, layout)
        opened = Checkpoint(**vars(shapes), tensors=tensors, storage=storage, prediction=prediction)
        mtp = predicts(shapes.config)
        check_no_others({n for n in opened.names if not (mtp and is_mtp(n))} - wanted.keys(), layout)
    if layout is not None:
        check_described(shapes.config, folder, storage)
    check_tensors(opened, mtp)
    return opened


def _prediction(shapes: Shapes, tensors: Mapping[str, Tensor]) -> Prediction | None:
    """Which layers predict further tokens; None where that is not known.

    A folder may have lost them (transformers writes the number in its config, and no tensors), or have those of one
    step, which are run for every one. Of others' models whose layers differ, nothing says their widths.
    """
    ours = shapes.family is not None or (shapes.folder / MEMBER_FILE).exists()
    others = shapes.config.get("model_type") == PUZZLE and not ours
    if others or not any(map(is_mtp, tensors)):
        return None
    prediction = prediction_of(shapes.config, str(shapes.folder / "config.json"))
    if prediction is not None and not any(
        name.startswith(f"{PREFIX}layers.{len(prediction.pattern)}.") for name in tensors
    ):
        prediction = replace(prediction, steps=1)
    return prediction


def read_shapes(folder: Path) -> Shapes:
    """Read a folder's metadata without its weights."""
    path = folder / "config.json"
    config = _read_config(path)
    quantization_of(config, folder)
    parent, subnet = from_hf_config(config, str(path))
    family = None
    if (folder / FAMILY_FILE).exists():
        family = Family.load(folder)
        wanted, wanted_subnet, source = family.parent, family.parent.full, FAMILY_FILE
        origin = Origin.of(family)
    elif (folder / MEMBER_FILE).exists():
        wanted, wanted_subnet, origin = _read_member_file(folder / MEMBER_FILE)
        source = MEMBER_FILE
    else:
        return Shapes(folder, parent, subnet, config, None, Origin(), companions=folder)
    # Both files describe the model differently: convert one to the other's form to compare them.
    if from_hf_config(to_hf_config(wanted, wanted_subnet)) != (parent, subnet):
        raise ElasticError(f"{folder}: config.json and {source} describe different models")
    return Shapes(folder, wanted, wanted_subnet, config, family, origin, companions=folder)


def _read_config(path: Path) -> dict[str, Any]:
    if not os.path.lexists(path):
        raise ElasticError(f"{path.parent}: not a model folder (it has no config.json)")
    config = read_json(path, strict=False)
    if not isinstance(config, dict):
        raise ElasticError(f"{path}: not a model's config (no JSON object)")
    return config


@dataclass
class _Rest:
    """Fields of `elastic.json` that `elastic_member.json` does not have."""

    axes: Any
    members: Any
    drop_order: Any
    extras: Any = None  # as in `elastic.json`: only where there are some


@dataclass
class _MemberFile:
    version: int
    name: Annotated[str, NAME] | None
    parameters: int
    parent: Any
    subnet: Any
    ranking: Annotated[str, DIGEST] | None
    provenance: Mapping[str, Any]
    family: Any = None  # a cut of a plain model has none


def member_to_json(parent: Parent, member: Subnet, origin: Origin) -> dict[str, Any]:
    """Give the content of `elastic_member.json`.

    It has the whole family, not only the part below the member: a size between two members depends on both, and the
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
    with inside(path):
        data = read_json(path)
        check_version(data, VERSION)
        file = read(_MemberFile, data, "")
        parent = Parent.from_json(file.parent)
        member = Subnet.from_json(file.subnet, parent)
        family = None
        if file.family is not None:  # what both files have stands once
            rest = known_fields(_Rest, file.family, "family")
            with inside("family"):
                family = Family.from_json(
                    {key: data[key] for key in ("version", "parent", "ranking", "provenance")} | rest
                )
        if family is not None and file.name is not None and family.member(file.name).subnet != member:
            raise bad("name", file.name, "the family has another shape under this name")
        return parent, member, Origin(file.name, file.ranking, file.provenance, family)


def open_tensors(folder: str | Path) -> dict[str, Tensor]:
    """Map the tensors of a folder, whether in one file or in several with an index.

    Args:
        folder: A folder with `model.safetensors` or `model.safetensors.index.json`.

    Returns:
        Tensors by name with the prefix `backbone.` (transformers may have written `model.`), unread.
    """
    folder = Path(folder)
    if (folder / SINGLE).is_file():
        tensors = open_shard(folder / SINGLE)
    elif (folder / INDEX).is_file():
        tensors = dict(_open_index(folder / INDEX))
    else:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth"))
        hint = f"; {pickles[0]} is a pickle, which is never read" if pickles else ""
        raise ElasticError(f"{folder}: has no weights ({SINGLE} or {INDEX}){hint}")
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        ours = "backbone." + name.removeprefix("model.") if name.startswith("model.") else name
        if ours in out:
            raise ElasticError(f"{folder}: tensor {ours!r} appears twice, with and without the prefix backbone")
        out[ours] = tensor
    return out


def _open_index(path: Path) -> Iterator[tuple[str, Tensor]]:
    index = read_json(path)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ElasticError(f"{path}: has no weight_map")
    for file in weight_map.values():
        # An index from somewhere else must not make us read outside of its folder.
        if (
            not isinstance(file, str)
            or not (file.isprintable() and file.endswith(".safetensors"))
            or set(file) & {*"/\\"}
        ):
            raise bad(f"{path}: weight_map", file, "names of .safetensors files in the same folder")
    for file in sorted(set(weight_map.values())):
        wanted = {name for name, f in weight_map.items() if f == file}
        shard = open_shard(path.parent / file)
        if wanted != set(shard):
            name = min(wanted ^ set(shard))
            where = "is not in that file" if name in wanted else "is in that file but not in the index"
            raise ElasticError(f"{path}: does not fit {file}: tensor {name!r} {where}")
        yield from shard.items()


# ------------------------------------------------------------------ one safetensors file


def open_shard(path: Path) -> dict[str, Tensor]:
    """Map one file.

    Returns:
        Its tensors by name, in the order of the file. They are views of the mapped file and read-only.
    """
    try:
        with open_regular(path) as file, safe_open(path, "np"):  # the library checks what the header says
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            handle = Handle(file.fileno())
    except FileNotFoundError:
        raise ElasticError(f"{path}: no such file") from None
    except OSError as exc:
        raise ElasticError(f"{path}: cannot be read ({exc.strerror})") from None
    except (SafetensorError, RecursionError) as exc:
        raise ElasticError(f"{path}: not a whole safetensors file ({exc})") from None
    header.pop("__metadata__", None)
    out = {}
    for name, info in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (start, stop) = info["dtype"], tuple(info["shape"]), info["data_offsets"]
        if dtype not in ITEMSIZE:
            raise ElasticError(f"{path}: tensor {name!r} has dtype {dtype!r}; allowed are {', '.join(ITEMSIZE)}")
        if len(shape) > _MOST_DIMENSIONS or math.prod(filter(None, shape)) > _MOST_ELEMENTS:
            raise ElasticError(f"{path}: tensor {name!r} has shape {shown(list(shape))}, which numpy cannot hold")
        if start == stop:
            out[name] = Tensor.of_words(dtype, np.empty(shape, word(dtype)))
            continue
        flat = np.frombuffer(data, word(dtype), math.prod(shape), 8 + length + start)
        extent = Extent(path, 8 + length + start, 8 + length + stop, data, handle)
        out[name] = Tensor.of_words(dtype, flat.reshape(shape), extent)
    return out
