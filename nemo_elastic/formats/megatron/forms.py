# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the pickles of a checkpoint may name, and the exact values that they may make with it.

Written down is what NeMo, megatron-core and Megatron-Bridge write, field by field: records of torch's and
megatron-core's, tensors whose values lie beside the pickle, numpy's arrays of numbers. What is not written down here
is not loaded. A name alone is no promise: a `numpy.dtype` of its own making ends a process.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from .pickled import ENCODE, STORED, Check, Form, Made, Name, Named

#: dimensions of a tensor; length of a path; devices
_DIMENSIONS, _PATH, _FEW = 6, 4096, 1024
_TORCH = "torch.distributed.checkpoint."
_CORE = "megatron.core.dist_checkpointing.strategies.torch"
_SHARDED = "torch.distributed._shard.sharded_tensor.metadata"  # before torch 2.3
DTYPES = {("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
#: class of a storage -> dtype of its values
_STORED_AS = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
STORAGES = {("torch", storage): dtype for storage, dtype in _STORED_AS.items()}
TENSOR: Name = ("torch._utils", "_rebuild_tensor_v2")
#: what numpy begins an array with, now and before 2.0; its codes of numbers and truth values
_RECONSTRUCT = [("numpy._core.multiarray", "_reconstruct"), ("numpy.core.multiarray", "_reconstruct")]
_ARRAY, _DTYPE = ("numpy", "ndarray"), ("numpy", "dtype")
_NUMBERS = re.compile("b1|[iu][1248]|f[248]")


# ------------------------------------------------------------------ checks of values


def _of(*types: type | None) -> Check:
    kinds = tuple(type(None) if t is None else t for t in types)
    return lambda value: type(value) in kinds


def _made(*names: str, none: bool = False) -> Check:
    def check(value: Any) -> bool:
        return (none and value is None) or (type(value) is Made and value.kind[1] in names)

    return check


def _exactly(*wanted: Any) -> Check:
    """A tuple of these values; one that is True is not 1."""
    return lambda value: type(value) is tuple and list(map(type, value)) == list(map(type, wanted)) and value == wanted


def _numbers(value: Any, most: int = _DIMENSIONS) -> bool:
    return type(value) is tuple and len(value) <= most and all(type(n) is int and 0 <= n < 2**62 for n in value)


def _record(**fields: Check) -> Form:
    """A record: an empty one is made, which gets some of these fields."""

    def fits(state: Any) -> bool:
        return type(state) is dict and all(
            type(key) is str and key in fields and fields[key](value) for key, value in state.items()
        )

    return Form(_exactly(), fits if fields else None, anew=True)


def _properties(state: Any) -> bool:
    if type(state) is not tuple or len(state) != 5:
        return False
    dtype, layout, grad, order, pinned = state
    named = type(dtype) is Named and dtype.kind in DTYPES and _made("_get_layout")(layout)
    return named and _made("_MEM_FORMAT_ENCODING", "MEM_FORMAT_ENCODING")(order) and type(grad) is type(pinned) is bool


def _path(arguments: tuple[Any, ...]) -> bool:
    return all(type(part) is str for part in arguments) and sum(map(len, arguments)) <= _PATH


def _device(arguments: tuple[Any, ...]) -> bool:
    kind, number = (*arguments, 0)[:2] if 0 < len(arguments) <= 2 else (None, None)
    return type(kind) is str and kind in ("cpu", "cuda") and type(number) is int and 0 <= number < _FEW


def _slice(arguments: tuple[Any, ...]) -> bool:
    return len(arguments) == 3 and all(n is None or _numbers((n,)) for n in arguments)


def _tensor(arguments: tuple[Any, ...]) -> bool:
    """Values that were stored beside the pickle, enough of them, and nothing else that torch would do."""
    if len(arguments) != 6 or not _made(STORED[1])(arguments[0]):
        return False
    stored, first, size, stride, grad, hooks = arguments
    if type(first) is not int or first < 0 or not _numbers(size) or not _numbers(stride) or len(size) != len(stride):
        return False
    last = first + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    fits = math.prod(size) == 0 or max(last, math.prod(size)) <= stored.arguments[0][4]
    return fits and type(grad) is bool and _made("OrderedDict")(hooks) and not hooks.state


def _array(arguments: tuple[Any, ...]) -> bool:
    return arguments[:1] == (Named(_ARRAY),) and _exactly((0,), b"b")(arguments[1:])


def _array_state(state: Any) -> bool:
    if type(state) is not tuple or len(state) != 5:
        return False
    version, shape, dtype, by_columns, content = state
    if type(version) is not int or version != 1 or not _numbers(shape) or not _made("dtype")(dtype):
        return False
    size = math.prod(shape) * int(dtype.arguments[0][1:])
    return type(by_columns) is bool and type(content) is bytes and len(content) == size


def _dtype(arguments: tuple[Any, ...]) -> bool:
    code = arguments[0] if arguments else None
    return type(code) is str and _NUMBERS.fullmatch(code) is not None and _exactly(False, True)(arguments[1:])


def _file(state: Any) -> bool:
    ok = type(state) is tuple and len(state) == 3 and type(state[0]) is bytes and type(state[1]) is int
    return ok and 0 <= state[1] <= len(state[0]) and (state[2] is None or (type(state[2]) is dict and not state[2]))


def _encoded(arguments: tuple[Any, ...]) -> bool:
    return len(arguments) == 2 and type(arguments[0]) is str and _exactly("latin1")(arguments[1:])


def _enum(*members: int) -> Form:
    return Form(lambda arguments: any(_exactly(number)(arguments) for number in members))


def fits_storage(about: Any, size: Any) -> bool:
    """Whether values beside a pickle are those of a storage of torch's.

    Args:
        about: what the pickle says of them.
        size: name of a record -> its bytes, None where it is missing.
    """
    if type(about) is not tuple or len(about) != 5 or type(about[0]) is not str or about[0] != "storage":
        return False
    _, named, key, place, count = about
    dtype = STORAGES.get(named.kind) if type(named) is Named else None
    at = type(place) is str and re.fullmatch("cpu|cuda(:[0-9]{1,3})?", place) is not None
    if dtype is None or not at or type(key) is not str or type(count) is not int or not 0 <= count < 2**62:
        return False
    return size(f"data/{key}") == count * dtype.itemsize


# ------------------------------------------------------------------ names

_SIZE, _CHUNK, _PROPERTIES = _made("Size"), _made("ChunkStorageMetadata"), _made("TensorProperties")
_TEXT, _MAPPING = _of(str, None), _of(dict, None)
_PATHS = ("PosixPath", "PurePosixPath")
_PLACES = [*itertools.product(("pathlib", "pathlib._local"), _PATHS)]
_METADATA = {
    "state_dict_metadata": _of(dict), "storage_data": _of(dict), "planner_data": _MAPPING, "version": _TEXT,
    "storage_meta": _made("StorageMeta", none=True), "all_local_plans": _of(list, None), "mcore_data": _MAPPING,
}  # fmt: skip
_PLAN = {
    "items": _of(list), "storage_data": _made("_StoragePrefix", none=True), "planner_data": _MAPPING,
    "usable": _of(bool), "mcore_data": _MAPPING,
}  # fmt: skip

#: of a checkpoint's metadata: records, and a few values
METADATA: Mapping[Name, Form] = {
    **dict.fromkeys(DTYPES, Form(value=True)),
    (_TORCH + "metadata", "Metadata"): _record(**_METADATA),
    (_CORE, "MCoreMetadata"): _record(**_METADATA),
    (_TORCH + "metadata", "TensorStorageMetadata"): _record(properties=_PROPERTIES, size=_SIZE, chunks=_of(list)),
    (_TORCH + "metadata", "BytesStorageMetadata"): _record(),
    (_TORCH + "metadata", "ChunkStorageMetadata"): _record(offsets=_SIZE, sizes=_SIZE),
    (_TORCH + "metadata", "MetadataIndex"): _record(
        fqn=_of(str), offset=_made("Size", none=True), index=_of(int, None)
    ),
    (_TORCH + "metadata", "StorageMeta"): _record(
        checkpoint_id=lambda v: _TEXT(v) or _made(*_PATHS)(v), save_id=_TEXT, load_id=_TEXT, modules=_of(list)
    ),
    **{(module, "TensorProperties"): Form(_exactly(), _properties, anew=True)
       for module in (_TORCH + "metadata", _SHARDED)},
    (_TORCH + "metadata", "_MEM_FORMAT_ENCODING"): _enum(0, 1, 2),
    (_SHARDED, "MEM_FORMAT_ENCODING"): _enum(0, 1, 2),
    (_TORCH + "filesystem", "_StorageInfo"): _record(
        relative_path=_of(str), offset=_of(int), length=_of(int), transform_descriptors=_of(list, None)
    ),
    (_TORCH + "filesystem", "_StoragePrefix"): _record(prefix=_of(str)),
    # megatron-core adds the plans of all ranks, which nobody reads again
    (_CORE, "MCoreSavePlan"): _record(**_PLAN),
    (_TORCH + "planner", "SavePlan"): _record(**_PLAN),
    (_TORCH + "planner", "WriteItem"): _record(
        index=_made("MetadataIndex"), type=_made("WriteItemType"),
        bytes_io_data=_made("BytesIOWriteData", none=True), tensor_data=_made("TensorWriteData", none=True),
    ),
    (_TORCH + "planner", "WriteItemType"): _enum(1, 2, 3),
    (_TORCH + "planner", "TensorWriteData"): _record(chunk=_CHUNK, properties=_PROPERTIES, size=_SIZE),
    (_TORCH + "planner", "BytesIOWriteData"): _record(nbytes=_of(int)),
    ("torch", "Size"): Form(lambda arguments: len(arguments) == 1 and _numbers(arguments[0])),
    ("torch.serialization", "_get_layout"): Form(_exactly("torch.strided")),
    ("collections", "OrderedDict"): Form(_exactly()),
    ("builtins", "slice"): Form(_slice),
    **dict.fromkeys(_PLACES, Form(_path)),
}  # fmt: skip

#: of a tensor among the weights
TENSORS: Mapping[Name, Form] = {
    **dict.fromkeys(STORAGES, Form()),
    TENSOR: Form(_tensor), ("collections", "OrderedDict"): Form(_exactly()),
}  # fmt: skip

#: of what else is saved: of common.pt, and of the objects among the weights
OBJECTS: Mapping[Name, Form] = {
    **dict.fromkeys(DTYPES, Form(value=True)), **TENSORS,
    ("torch", "Size"): METADATA["torch", "Size"], **{path: METADATA[path] for path in _PLACES},
    ("torch", "device"): Form(_device), ("_io", "BytesIO"): Form(_exactly(), _file, anew=True), ENCODE: Form(_encoded),
    # as numpy's random state has one
    **dict.fromkeys(_RECONSTRUCT, Form(_array, _array_state)), _ARRAY: Form(),
    _DTYPE: Form(_dtype, lambda state: any(_exactly(3, mark, None, None, None, -1, -1, 0)(state) for mark in "<|")),
}  # fmt: skip
