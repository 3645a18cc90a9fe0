# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Where the weights of a torch_dist checkpoint are, and its `.metadata`: tensors, their pieces, which bytes hold them.

The file is a pickle of torch's and megatron-core's classes. It is read as data (`pickled`), and what it says has to be
possible before anybody acts on it: every piece has its place, in a file of the same folder and large enough, and the
pieces of a model's tensor make it up exactly.
"""

from __future__ import annotations

import itertools
import math
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from nemo_elastic.errors import ElasticError, bad, shown
from nemo_elastic.io.bounded import check_inside, check_no_holes, read_bytes, read_text
from nemo_elastic.io.read import read_json

from .forms import DTYPES, METADATA
from .pickled import Made, Named, PickleError, read_pickle

#: what NeMo puts before the names of a model's tensors; Megatron-Bridge puts nothing there
PREFIX = "module."
#: what both put before those of the optimizer's; megatron-core has one of its own for experts, and counts them
_OPTIMIZER = re.compile(r"(chained_\d+\.)?optimizer\.")

#: of the file, dimensions of a tensor, and what the smallest file of a tensor takes in front of its values
_BYTES, _DIMENSIONS, _LEAST = 2**28, 6, 100


#: of Megatron-Bridge: a run's last checkpoint, what their names begin with, and what each says of its run
TRACKER, ITERATION, RUN_CONFIG = "latest_checkpointed_iteration.txt", "iter_", "run_config.yaml"
#: the name of one that has weights alone, and no step of a training
RELEASE = "release"


def weights_folder(path: str | Path) -> Path:
    """The folder of sharded weights inside a checkpoint: NeMo's, Megatron-Bridge's, or the last of a run of Bridge's.

    Raises:
        ElasticError: there is no distributed checkpoint at `path`.
    """
    last = last_iteration(path)
    for candidate in (Path(path) / "weights", Path(path), *((last,) if last else ())):
        if (candidate / "metadata.json").is_file():
            return candidate if candidate.name != "weights" else check_inside(candidate)
    raise bad("checkpoint", str(path), "a NeMo checkpoint folder (weights/metadata.json)")


def last_iteration(path: str | Path | None) -> Path | None:
    """The last checkpoint in a folder of Megatron-Bridge's or Megatron-LM's, or the one that it is; None without one.

    Both write its number down after all ranks have written all of it: one that a kill cut short is not found.
    """
    if path is None:
        return None
    folder = Path(path)
    # a link to one may have any name
    one = folder.name.startswith(ITERATION) or folder.name == RELEASE or folder.is_symlink()
    if one and (folder / RUN_CONFIG).is_file():
        return folder
    try:
        text = read_text(folder / TRACKER, most=1024)[:20].strip()
    except (OSError, UnicodeDecodeError):
        return None
    number = text.isdecimal() and text.isascii()
    last = folder / (f"{ITERATION}{int(text):07d}" if number else text) if number or text == RELEASE else None
    return last if last is not None and last.is_dir() else None


def check_format(folder: Path) -> None:
    """Raise where a folder of weights is in another format than the one that is looked at here."""
    content = read_json(folder / "metadata.json")
    content = content if isinstance(content, dict) else {}
    backend, common = content.get("sharded_backend"), content.get("common_backend", "torch")
    if backend != "torch_dist":
        raise bad(f"{folder / 'metadata.json'}: sharded_backend", backend, "only torch_dist is read")
    if common != "torch":
        raise bad(f"{folder / 'metadata.json'}: common_backend", common, "only torch is read")


def model_prefix(names: Iterable[str]) -> str:
    """What stands before the names of a model's tensors in a checkpoint."""
    return PREFIX if any(name.startswith(PREFIX) for name in names) else ""


def of_model(name: str, prefix: str) -> bool:
    """Whether a tensor's name is one of the model's, in a checkpoint with this prefix."""
    return name.startswith(prefix) and not of_optimizer(name) and "_extra_state" not in name


def of_optimizer(name: str) -> bool:
    """Whether a tensor's name is one of the optimizer's."""
    return _OPTIMIZER.match(name) is not None


@dataclass(frozen=True)
class ByteRange:
    """Bytes of a file.

    Attributes:
        file: name in the folder of weights.
        offset, length: in bytes.
    """

    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class Piece:
    """A box of a tensor, and where it is stored."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    place: ByteRange


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint."""

    dtype: torch.dtype
    size: tuple[int, ...]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Metadata:
    """What a checkpoint holds, by name: tensors, and other objects, which are pickles.

    Attributes:
        folder: of the weights.
        tensors, objects: see above.
        needed: file -> bytes that it has at least.
    """

    folder: Path
    tensors: Mapping[str, StoredTensor]
    objects: Mapping[str, ByteRange]
    needed: Mapping[str, int]

    def file(self, name: str) -> Path:
        """A file that something is stored in.

        Raises:
            ElasticError: it is missing, or cannot hold what is said to be in it.
        """
        path = self.folder / name
        size = regular_size(path)
        if size < self.needed[name]:
            raise ElasticError(f"has {size} bytes, {self.needed[name]} are said to be in it; it is cut off", path)
        return path


def read_metadata(folder: Path) -> Metadata:
    """Read `.metadata` in a folder of weights.

    Raises:
        ElasticError: it is missing, or describes no checkpoint.
    """
    path = folder / ".metadata"
    try:
        return _read(folder, signature(path))
    except FileNotFoundError:
        raise ElasticError("missing; it says which tensor lies where", path) from None
    except OSError as exc:
        raise ElasticError(f"cannot be read ({exc.strerror})", path) from None
    except (PickleError, KeyError) as exc:
        why = f"it has no {exc}" if isinstance(exc, KeyError) else exc
        raise ElasticError(f"not a checkpoint's metadata ({why})", path) from None


def signature(path: Path) -> tuple[int, ...]:
    """What a file that was looked at has as long as it is the same: a start looks at its checkpoint several times."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=2)  # parent and own checkpoint; of a large one it has some megabytes
def _read(folder: Path, _: tuple[int, ...]) -> Metadata:
    record = read_pickle(read_bytes(folder / ".metadata", _BYTES), METADATA)
    return _metadata(folder, _state(record, "MCoreMetadata", "Metadata"))


def regular_size(path: Path) -> int:
    """Bytes of a file, which is one: a pipe would be waited for, and a device has no end.

    Raises:
        ElasticError: it is none, is missing, is a link out of the folder, or is mostly holes.
    """
    try:
        status = check_inside(path).stat()
    except OSError as exc:
        raise ElasticError(f"cannot be read ({exc.strerror})", path) from None
    if not stat.S_ISREG(status.st_mode):
        raise ElasticError("is no file", path)
    return check_no_holes(path, status)


# --------------------------------------------------------------------------------------------- from records to values


def _metadata(folder: Path, whole: Mapping[str, Any]) -> Metadata:
    places = _places(whole["storage_data"])
    entries = _typed(dict, whole["state_dict_metadata"], "state_dict_metadata")
    tensors: dict[str, StoredTensor] = {}
    objects: dict[str, ByteRange] = {}
    left = len(places)
    for name, record in entries.items():
        name = _typed(str, name, "name")
        if isinstance(record, Made) and record.kind[1] == "BytesStorageMetadata":
            objects[name] = _place(places, name, None)
            continue
        state = _state(record, "TensorStorageMetadata")
        chunks = _typed(list, state["chunks"], f"pieces of {name}")
        left -= len(chunks)
        if left < 0:  # one list may be held by many tensors
            raise PickleError("it has more pieces than places for them")
        pieces = tuple(_piece(places, name, chunk) for chunk in chunks)
        tensors[name] = _entry(name, _dtype(state["properties"]), _size(state["size"]), pieces)
    needed: Counter[str] = Counter()
    ends: dict[str, int] = defaultdict(int)
    for place in places.values():
        needed[place.file] += place.length  # no two share their bytes
        ends[place.file] = max(ends[place.file], place.offset + place.length)
    return Metadata(folder, tensors, objects, {file: max(size, ends[file]) for file, size in needed.items()})


def _places(stored: Any) -> dict[tuple[str, tuple[int, ...] | None], ByteRange]:
    """(name, offsets of a piece or None) -> where it is stored."""
    places: dict[tuple[str, tuple[int, ...] | None], ByteRange] = {}
    for index, info in _typed(dict, stored, "storage_data").items():
        at, where = _state(index, "MetadataIndex"), _state(info, "_StorageInfo")
        offset = at.get("offset")
        key = _typed(str, at["fqn"], "name"), None if offset is None else _size(offset)
        place = ByteRange(_file(where["relative_path"]), _count(where["offset"]), _count(where["length"]))
        if key in places:
            raise PickleError(f"it has two places for {key[0]}")
        if where.get("transform_descriptors"):
            raise PickleError(f"{key[0]} is stored in another form than torch's own")
        if place.length < _LEAST:
            raise PickleError(f"{key[0]} is said to take {place.length} bytes")
        places[key] = place
    return places


def _place(places: Mapping[Any, ByteRange], name: str, offsets: tuple[int, ...] | None) -> ByteRange:
    place = places.get((name, offsets))
    if place is None:
        raise PickleError(f"it does not say where {name} lies")
    return place


def _piece(places: Mapping[Any, ByteRange], name: str, chunk: Any) -> Piece:
    state = _state(chunk, "ChunkStorageMetadata")
    offsets, sizes = _size(state["offsets"]), _size(state["sizes"])
    return Piece(offsets, sizes, _place(places, name, offsets))


def _entry(name: str, dtype: torch.dtype, size: tuple[int, ...], pieces: tuple[Piece, ...]) -> StoredTensor:
    for piece in pieces:
        inside = len(piece.sizes) == len(piece.offsets) == len(size)
        if not inside or any(o + s > n for o, s, n in zip(piece.offsets, piece.sizes, size, strict=True)):
            raise PickleError(f"{name} of shape {list(size)} has a piece outside of it")
        if math.prod(piece.sizes) * dtype.itemsize > piece.place.length:
            raise PickleError(
                f"a piece of {name} of shape {list(piece.sizes)} does not fit into {piece.place.length} bytes"
            )
    if not of_optimizer(name) and not _covered(size, pieces):
        raise PickleError(f"the pieces of {name} do not make up its shape {list(size)}")
    return StoredTensor(dtype, size, pieces)


def _covered(size: tuple[int, ...], pieces: tuple[Piece, ...]) -> bool:
    """Whether boxes fill a box, each part of it once.

    How often a point is covered follows from the corners of all boxes, each with a sign: the corners tell where that
    number changes. So boxes fill another exactly if their corners cancel to its own.
    """
    corners: Counter[tuple[int, ...]] = Counter()
    for offsets, sizes, sign in ((p.offsets, p.sizes, 1) for p in pieces):
        _corners(corners, offsets, sizes, sign)
    _corners(corners, (0,) * len(size), size, -1)
    return not any(corners.values())


def _corners(corners: Counter[tuple[int, ...]], offsets: tuple[int, ...], sizes: tuple[int, ...], sign: int) -> None:
    for upper in itertools.product((0, 1), repeat=len(sizes)):
        at = tuple(o + s * u for o, s, u in zip(offsets, sizes, upper, strict=True))
        corners[at] += sign * (-1) ** sum(upper)


def _state(record: Any, *kinds: str) -> Mapping[str, Any]:
    """Attributes of a record of one of these classes."""
    if (
        not isinstance(record, Made)
        or record.kind[1] not in kinds
        or record.arguments
        or not isinstance(record.state, dict)
    ):
        raise PickleError(f"it has something else where a {kinds[0]} belongs")
    return record.state


def _typed(kind: type, value: Any, what: str) -> Any:
    if type(value) is not kind:
        raise PickleError(f"its {what} is a {type(value).__name__}")
    return value


def _size(record: Any) -> tuple[int, ...]:
    ok = (
        isinstance(record, Made)
        and record.kind == ("torch", "Size")
        and record.state is None
        and len(record.arguments) == 1
    )
    size = record.arguments[0] if ok else None
    if type(size) is not tuple or len(size) > _DIMENSIONS:
        raise PickleError("it has something else where a torch.Size belongs")
    for n in size:
        _count(n)
    return size


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise PickleError("it has something else where a number of bytes or entries belongs")
    return value


def _file(name: Any) -> str:
    if type(name) is not str or name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise PickleError(f"it names the file {shown(name)}, which is not in the same folder")
    return name


def _dtype(record: Any) -> torch.dtype:
    state = record.state if isinstance(record, Made) and record.kind[1] == "TensorProperties" else None
    if type(state) is not tuple or len(state) != 5:
        raise PickleError("it has something else where a TensorProperties belongs")
    dtype, layout = state[:2]
    plain = isinstance(layout, Made) and layout.arguments == ("torch.strided",)
    if not isinstance(dtype, Named) or dtype.kind not in DTYPES or not plain:
        raise PickleError("it has a tensor of another kind than torch's dense ones")
    return DTYPES[dtype.kind]
