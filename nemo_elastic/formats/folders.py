# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The formats that are read, each a module of its own: a new one is that module and a line in `FORMATS`.

What writes a format may need a host that is above this package. It stands in the entry points of the group
`nemo_elastic.writers`, where an installed package says what it has: NeMo's is ours.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.extras import EXTRAS, require
from nemo_elastic.io.outputs import Output

from .hf import reading as hf
from .hub import local_folder
from .source import GGUF, Shapes, Source, is_gguf

__all__ = ["CHECKPOINT", "model_in", "open_source", "read_parent", "read_shapes", "writer"]

WRITERS = "nemo_elastic.writers"
#: what a writer of another format than ours gives to `atomic_dir`, which lists the files in it
CHECKPOINT = Output("a checkpoint")


class Reader(Protocol):
    """A module that reads a format."""

    def open_folder(self, folder: Path) -> Source:
        """Open a folder of this format; tensors are not read yet."""
        ...

    def read_shapes(self, folder: Path) -> Shapes:
        """Read what a folder of this format says of itself, without its weights."""
        ...


@dataclass(frozen=True)
class Format:
    """A format that is read.

    Attributes:
        is_one: whether a folder is of it.
        reader: gives the module that reads it, which may need packages that others do not.
    """

    is_one: Callable[[Path], bool]
    reader: Callable[[], Reader]


def _megatron() -> Reader:
    require("torch")
    from .megatron import stored

    return stored


#: files of which Megatron-Bridge leaves one: in the folder of a run's checkpoints, and in each of them
BRIDGE = ("latest_checkpointed_iteration.txt", "run_config.yaml")
#: in the order in which a folder is asked; what is none of them is read as the first
FORMATS = (
    Format(lambda folder: (folder / "config.json").exists(), lambda: hf),
    Format(lambda folder: any((folder / part).is_dir() for part in ("weights", "context")), _megatron),
    Format(lambda folder: any((folder / part).is_file() for part in BRIDGE), _megatron),
)


def open_source(folder: str | Path) -> Source:
    """Open a family, a member, any plain Nemotron-H folder or a NeMo checkpoint; check that shapes and tensors agree.

    Where there is no such path, it is an id on the hub (`hub.local_folder`).

    Raises:
        ElasticError: Not such a folder, or one that contradicts itself; the message names the file.
    """
    folder = _readable(folder)
    return _reader(folder).open_folder(folder)


def read_shapes(folder: str | Path) -> Shapes:
    """Read everything that a folder says of itself, without its weights; see `read_parent`."""
    folder = _readable(folder, weights=False)
    return _reader(folder).read_shapes(folder)


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


#: formats that another program makes of a folder of ours
_ELSEWHERE = {"gguf": "llama.cpp's convert_hf_to_gguf.py makes it of the folder that hf writes"}


def writer(name: str, *known: str) -> Callable[..., Any]:
    """Find what writes a format.

    Args:
        name: of the format.
        known: other formats that the caller writes itself, for the error.

    Raises:
        ElasticError: no installed package writes it.
    """
    points = {point.name: point for point in entry_points(group=WRITERS)}
    if name not in points:
        elsewhere = f"; {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
        raise bad("format", name, f"one of {', '.join((*known, *sorted(points)))}{elsewhere}")
    if name in EXTRAS:  # a format of a host's: its extra brings torch too, which is imported first
        require(name)
    return points[name].load()


def model_in(folder: Path) -> Path | None:
    """The model in the folder of a run or a training, which is none itself: its family, or its newest checkpoint."""
    for named in (folder / "family", folder / "checkpoints"):
        if any(known.is_one(named) for known in FORMATS):
            return named
    weights = [file for part in ("", "checkpoints") for file in (folder / part).glob("*/weights/.metadata")]
    return max(weights, key=os.path.getmtime).parents[1] if weights else None


def _reader(folder: Path) -> Reader:
    known = next((known for known in FORMATS if known.is_one(folder)), None)
    if known is None and (model := model_in(folder)) is not None:
        raise ElasticError(f"{folder}: is the folder of a run, not a model; give {model}")
    return (known or FORMATS[0]).reader()


def _readable(folder: str | Path, weights: bool = True) -> Path:
    folder = local_folder(folder, weights)
    try:
        os.scandir(folder).close()
    except (FileNotFoundError, NotADirectoryError):
        if Path(folder).exists():
            if is_gguf(Path(folder)):
                raise ElasticError(f"{folder}: is {GGUF}") from None
            raise ElasticError(f"{folder}: is a file, not a folder") from None
        raise ElasticError(f"{folder}: no such folder") from None
    except OSError as exc:
        raise ElasticError(f"{folder}: cannot be read ({exc.strerror})") from None
    return Path(folder)
