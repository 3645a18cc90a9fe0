# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that somebody has made to harm: metadata that lies, and metadata that would run something."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo as StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from nemo_elastic.errors import ElasticError


def made(cls: type, **fields: Any) -> Any:
    """A record with these fields, whatever they are: nothing of it is checked."""
    record = object.__new__(cls)
    record.__dict__.update(fields)
    return record


def with_call(pickled: bytes, named: str, *texts: str) -> bytes:
    """A pickle that calls MODULE NAME with texts, throws the result away, and goes on as it was."""
    module, name = named.split()
    pushed = b"".join(b"X" + len(t.encode()).to_bytes(4, "little") + t.encode() for t in texts)
    call = b"c" + f"{module}\n{name}\n".encode() + b"(" + pushed + b"tR0"
    return pickled[:2] + call + pickled[2:]


def with_template(pickled: bytes, place: Path) -> bytes:
    """A folder is made where torch's reader for fsspec is called: its URL holds templates, which jinja2 runs."""
    render = f"{{{{ cycler.__init__.__globals__.os.mkdir('{place}') }}}}"
    report = {"version": 1, "gen": [{"key": render, "url": "x", "dimensions": {"i": [1]}}], "refs": {}}
    url = "reference::data:application/json;base64," + base64.b64encode(json.dumps(report).encode()).decode()
    return with_call(pickled, "torch.distributed.checkpoint._fsspec_filesystem FsspecReader", url)


def change(checkpoint: Path, edit: Callable[[Metadata], Any]) -> Path:
    """Let a checkpoint's metadata say something else."""
    path = checkpoint / "weights" / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    edit(metadata)
    path.write_bytes(pickle.dumps(metadata, protocol=4))
    return checkpoint


#: what `.metadata` says of one tensor in two pieces, as JSON
DESCRIBED = {
    "dtype": "float32", "size": [4, 3], "chunks": [[[0, 0], [2, 3]], [[2, 0], [2, 3]]],
    "places": [["module.a", [0, 0], "__0_0.distcp", 0, 900], ["module.a", [2, 0], "__0_0.distcp", 900, 900]],
}  # fmt: skip


def metadata_of(described: Any) -> bytes:
    """The pickle that says so, in torch's own classes; a value of the wrong kind lies where the right one belongs."""

    def size(value: Any) -> Any:
        try:
            return torch.Size(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            return value

    def rows(name: str) -> list[list[Any]]:
        table = described.get(name) if isinstance(described, dict) else None
        return [[*(r if isinstance(r, list) else [r]), *[None] * 5] for r in table] if isinstance(table, list) else []

    described = described if isinstance(described, dict) else {}
    chunks = [made(ChunkStorageMetadata, offsets=size(r[0]), sizes=size(r[1])) for r in rows("chunks")]
    places = {}
    for row in rows("places"):
        index = made(MetadataIndex, fqn=row[0], offset=size(row[1]), index=None)
        try:
            places[index] = made(StorageInfo, relative_path=row[2], offset=row[3], length=row[4])
        except TypeError:  # what has no hash is no key
            continue
    dtype = getattr(torch, str(described.get("dtype")), None)
    properties = TensorProperties(dtype=dtype if isinstance(dtype, torch.dtype) else described.get("dtype"))
    tensor = made(TensorStorageMetadata, properties=properties, size=size(described.get("size")), chunks=chunks)
    return pickle.dumps(made(Metadata, state_dict_metadata={"module.a": tensor}, storage_data=places), protocol=4)


def refused(match: str, read: Callable[[], Any]) -> None:
    """Such a checkpoint is refused, in one line."""
    with pytest.raises(ElasticError, match=match) as caught:
        read()
    assert "\n" not in caught.value.message
