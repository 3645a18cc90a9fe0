# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Looks at a checkpoint before NeMo and megatron-core open it, whose readers run what its pickles say.

Nothing in this package does, but to train is to load with their classes. So what a run starts from passes here first,
whoever wrote it: `.metadata`, `common.pt` and the objects among the weights may name nothing but values.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.io.bounded import open_regular

from .forms import OBJECTS
from .items import Item
from .metadata import ByteRange, Metadata, read_metadata, regular_size, signature
from .pickled import PickleError
from .stored import check_format, weights_folder

#: what is not sharded: the file, and the object in which today's megatron-core keeps it where there is no such file
_COMMON, _COMMON_OBJECT = "common.pt", "common_state/shard_0_1"
#: where a run of Bridge's stands
STATE = "train_state.pt"
#: in a folder of weights: what NeMo's classes, not ours, would run or follow
_FORBIDDEN = {
    "modelopt_state": "NeMo would run what it holds",
    "adapter_metadata.json": "NeMo would load the model that it names",
}


def check_harmless(checkpoint: str | Path, only_weights: bool = False) -> Metadata:
    """Raise where a checkpoint holds what may run when it is loaded, or where a file of it is missing or cut off.

    Args:
        checkpoint: a NeMo checkpoint, or its folder of weights.
        only_weights: megatron-core alone will load it, not NeMo's classes.

    Returns:
        What its folder of weights holds.

    Raises:
        ElasticError: one line that names the file and what is in it.
    """
    folder = weights_folder(checkpoint)
    check_format(folder)
    for name, why in () if only_weights else _FORBIDDEN.items():
        if (folder / name).exists():
            raise bad("checkpoint", str(folder / name), f"a checkpoint without it: {why}")
    metadata = read_metadata(folder)
    for name in metadata.needed:
        metadata.file(name)
    for name in _files(folder, metadata, only_weights):
        check_file(folder / name)
    for name, place in metadata.objects.items():
        _check_object(folder / place.file, place, f"{name}: ")
    return metadata


def _files(folder: Path, metadata: Metadata, only_weights: bool) -> list[str]:
    """Pickles beside the weights that are loaded, by what is there: a file goes before an object of `.metadata`."""
    there = [name for name in (_COMMON, STATE) if os.path.lexists(folder / name)]
    return there if only_weights and _COMMON_OBJECT in metadata.objects else sorted({_COMMON, *there})


def check_file(path: Path) -> None:
    """Raise where a file of torch's holds what may run when it is loaded.

    Raises:
        ElasticError: one line that names the file and what is in it.
    """
    _check_object(path, ByteRange(path.name, 0, regular_size(path)), "")


def _check_object(path: Path, place: ByteRange, name: str) -> None:
    try:
        _check_values(path, place, signature(path))
    except PickleError as exc:
        raise ElasticError(f"{name}not what NeMo writes ({exc})", path) from None
    except OSError as exc:
        raise ElasticError(f"cannot be read ({exc.strerror})", path) from None


@lru_cache(maxsize=2**14)
def _check_values(path: Path, place: ByteRange, _: tuple[int, ...]) -> None:
    with open_regular(path) as file:
        item = Item(file, place)
        item.read(OBJECTS)
        if not item.is_the_same_to_torch():
            raise PickleError("torch.load would find something else in it")
