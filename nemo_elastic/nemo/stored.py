# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The tensors of a torch_dist checkpoint, by name and shape, each read when it is asked for.

Neither Megatron nor a process group is needed, whatever layout of ranks wrote it. One pickle has to be opened,
`.metadata`, and it may name only what such a file is made of: a checkpoint from elsewhere runs no code here.
"""

from __future__ import annotations

import collections
import importlib
import pickle
import warnings
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch.distributed.checkpoint import CheckpointException, FileSystemReader, load
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.files import read_json

#: what NeMo puts before the names of a model's tensors; the optimizer's have other prefixes
PREFIX = "module."


def weights_folder(path: str | Path) -> Path:
    """The folder of sharded weights inside a NeMo checkpoint.

    Raises:
        ElasticError: there is no distributed checkpoint at `path`.
    """
    for candidate in (Path(path) / "weights", Path(path)):
        if (candidate / "metadata.json").is_file():
            return candidate
    raise bad("checkpoint", str(path), "a NeMo checkpoint folder (weights/metadata.json)")


class Stored:
    """The model's tensors of a checkpoint; the optimizer's and TransformerEngine's extra states are left out.

    Args:
        path: a NeMo checkpoint, or its folder of weights.

    Attributes:
        folder: the folder of weights.
        sizes: name (without the prefix `module.`) -> shape.
        dtypes: name -> dtype.

    Raises:
        ElasticError: no such checkpoint, another format, or metadata that cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = weights_folder(path)
        told = read_json(self.folder / "metadata.json")
        backend = told.get("sharded_backend") if isinstance(told, dict) else None
        if backend != "torch_dist":
            raise bad(f"{self.folder / 'metadata.json'}: sharded_backend", backend, "only torch_dist is read")
        self._reader = _Reader(self.folder)
        entries = self._reader.read_metadata().state_dict_metadata
        found = {
            name.removeprefix(PREFIX): meta
            for name, meta in entries.items()
            if isinstance(meta, TensorStorageMetadata) and name.startswith(PREFIX) and "_extra_state" not in name
        }
        self.sizes = {name: tuple(meta.size) for name, meta in found.items()}
        self.dtypes = {name: meta.properties.dtype for name, meta in found.items()}

    def read(self, *names: str) -> list[torch.Tensor]:
        """Read tensors, whole, into the memory of the CPU.

        Raises:
            ElasticError: a file is missing or broken.
        """
        wanted = {PREFIX + name: torch.empty(self.sizes[name], dtype=self.dtypes[name]) for name in names}
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # meant
                load(dict(wanted), storage_reader=self._reader, no_dist=True)
        except (
            Exception,
            CheckpointException,
        ) as exc:  # the latter is none of the former: it tells what a rank raised
            raise ElasticError(f"{self.folder}: {names[0]} cannot be read ({first_line(exc)})") from None
        return list(wanted.values())


def first_line(exc: BaseException) -> str:
    """What went wrong, at the bottom of what torch and others wrap around it."""
    inner: BaseException | None = exc
    while inner is not None:
        exc, inner = inner, inner.__cause__
        if isinstance(exc, CheckpointException):
            inner = next(iter(exc.failures.values()))[0]
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]


class _Reader(FileSystemReader):
    """A reader that opens `.metadata` once, and only as data."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._metadata: Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self._metadata is None:
            self._metadata = _load_metadata(Path(self.path) / ".metadata")
        return self._metadata


def _load_metadata(path: Path) -> Metadata:
    try:
        with path.open("rb") as file:
            metadata = _Unpickler(file).load()
    except FileNotFoundError:
        raise ElasticError(f"{path}: missing; it says which tensor lies where") from None
    except Exception as exc:  # a pickle of anything else fails in any way
        raise ElasticError(f"{path}: not a checkpoint's metadata ({first_line(exc)})") from None
    if not isinstance(metadata, Metadata) or metadata.storage_data is None:
        raise ElasticError(f"{path}: not a checkpoint's metadata")
    return metadata


#: besides the classes of torch's checkpoints, all that a checkpoint's metadata is made of
_ALLOWED = {
    ("torch", "Size"): torch.Size,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "set"): set,
    ("builtins", "slice"): slice,
}
_CLASSES = ("torch.distributed.checkpoint.", "torch.distributed._shard.")


class _Kept:
    """Stands for a class of megatron-core in a checkpoint's metadata, none of which says where a tensor lies."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module.partition(".")[0] == "pathlib" and name.endswith("Path"):
            return PurePosixPath  # where it was written: only kept
        if (module, name) == ("torch.serialization", "_get_layout"):
            return _layout
        if module == "torch" and isinstance(getattr(torch, name, None), (torch.dtype, torch.layout)):
            return getattr(torch, name)
        if module.startswith("megatron.core.dist_checkpointing."):
            return Metadata if name == "MCoreMetadata" else _Kept
        if module.startswith(_CLASSES):
            found: Any = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
            # A class of that module, not what the module happens to import
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _layout(name: str) -> torch.layout:
    found = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(found, torch.layout):
        raise pickle.UnpicklingError(f"it names the layout {name}")
    return found
