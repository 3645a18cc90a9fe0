# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""From a path or an id on the Hugging Face hub to an opened model.

A format that is read is a module and a line in `FORMATS`. A format that is written may need a host above this package:
it is an entry point of the group `nemo_elastic.writers`.

Files from the hub are data: JSON, safetensors, tokenizers, cards and licences, and the two files of code of a member
whose layers differ, which are stored and never run. huggingface_hub is imported only for a name that is no path.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeGuard

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.extras import EXTRAS, require
from nemo_elastic.io.outputs import Output

from .checkpoint import Checkpoint, Shapes, unreplaced
from .hf import reading as hf
from .tokenizer import TOKENIZER_FILES

__all__ = [
    "CHECKPOINT", "check_repo", "is_repo", "local_folder", "model_in", "open_source", "read_shapes", "repo_of",
    "writer",
]  # fmt: skip

#: what a writer of another format than ours gives to `atomic_dir`, which lists the files in it
CHECKPOINT = Output("a checkpoint")


class Reader(Protocol):
    """A module that reads a format: all of a folder, tensors later; or its description without the weights."""

    def open_folder(self, folder: Path) -> Checkpoint: ...

    def read_shapes(self, folder: Path) -> Shapes: ...


class Format(NamedTuple):
    """Detection of a format's folders, and the module that reads them, imported on use."""

    is_one: Callable[[Path], bool]
    reader: Callable[[], Reader]


def _megatron() -> Reader:
    require("torch")
    from .megatron import stored

    return stored


#: files that mark Megatron-Bridge's folders: that of a run's checkpoints, and each checkpoint
BRIDGE = ("latest_checkpointed_iteration.txt", "run_config.yaml")
#: formats in the order of detection; unknown folders are read as the first
FORMATS = (
    Format(lambda folder: (folder / "config.json").exists(), lambda: hf),
    Format(lambda folder: any((folder / part).is_dir() for part in ("weights", "context")), _megatron),
    Format(lambda folder: any((folder / part).is_file() for part in BRIDGE), _megatron),
)


def open_source(folder: str | Path) -> Checkpoint:
    """Open a family, a member, any plain Nemotron-H folder or a NeMo checkpoint; check that shapes and tensors agree.

    A name that is no path is an id on the hub (`local_folder`). Errors name the file.
    """
    folder = _readable(local_folder(folder))
    with unreplaced(folder):
        return _reader(folder).open_folder(folder)


def read_shapes(folder: str | Path) -> Shapes:
    """Read a folder's metadata without its weights."""
    folder = _readable(local_folder(folder, weights=False))
    with unreplaced(folder):
        return _reader(folder).read_shapes(folder)


def writer(name: str, *known: str) -> Callable[..., Any]:
    """Find what writes a format; `known` are formats that the caller writes itself, for the error."""
    points = {point.name: point for point in entry_points(group="nemo_elastic.writers")}
    if name not in points:
        raise bad("format", name, f"one of {', '.join((*known, *sorted(points)))}")
    if name in EXTRAS:  # a format of a host's: its extra brings torch too, which is imported first
        require(name)
    return points[name].load()


def model_in(folder: Path) -> Path | None:
    """The model in the folder of a run: its family, or its newest checkpoint."""
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


def _readable(folder: Path) -> Path:
    try:
        os.scandir(folder).close()
    except (FileNotFoundError, NotADirectoryError):
        wrong = "is a file, not a folder" if folder.exists() else "no such folder"
        raise ElasticError(f"{folder}: {wrong}") from None
    except OSError as exc:
        raise ElasticError(f"{folder}: cannot be read ({exc.strerror})") from None
    return folder


# ------------------------------------------------------------------ the hub

#: what a folder is read and copied from; nothing below its top
_FILES = ("*.json", *TOKENIZER_FILES, "*.md", "LICENSE*", "NOTICE*", "*_nemotron_h_puzzle.py")
_PART = "[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO = re.compile(f"(?!.*(?:--|[.][.]|[.]git$)){_PART}/{_PART}")
_LONGEST = 96


def is_repo(value: object) -> TypeGuard[str]:
    """Whether something has the form of a model's id on the hub: owner/name."""
    return isinstance(value, str) and len(value) <= _LONGEST and _REPO.fullmatch(value) is not None


def check_repo(field: str, value: str) -> str:
    """Give a model's id on the hub; refuse a value without its form."""
    if not is_repo(value):
        raise bad(field, value, "a model's id on the hub, owner/name of letters, digits, dots, dashes and underscores")
    return value


def repo_of(folder: Path) -> str | None:
    """The id of the model that a folder is the hub's cache of: models--OWNER--NAME/snapshots/REVISION."""
    snapshots = folder.resolve().parent
    kind, _, name = snapshots.parent.name.partition("--")
    repo = name.replace("--", "/", 1)
    return repo if snapshots.name == "snapshots" and kind == "models" and is_repo(repo) else None


def local_folder(given: str | os.PathLike[str], weights: bool = True) -> Path:
    """Give a folder on this machine: the path, or the hub's model of that id, with its weights or without.

    An existing path always wins, and so does a path into an existing folder: a typo in `runs/family` causes no
    download.
    """
    path, repo = Path(given), os.fspath(given)
    if not is_repo(repo) or os.path.lexists(path) or os.path.lexists(path.parent):
        return path
    hub = _library(f"{repo}: no such folder")
    patterns = [*_FILES, "*.safetensors"] if weights else [*_FILES]
    try:
        return Path(hub.snapshot_download(repo, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except (OSError, ValueError) as exc:
        why = f"the hub does not give a model of that id ({_first_line(exc)})"
        raise ElasticError(f"{repo}: no such folder, and {why}") from None


def _library(what: str) -> Any:
    """huggingface_hub, quiet where nobody watches; `what` begins the error if it is not installed."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ElasticError(f"{what}; to ask the hub, pip install huggingface_hub")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # it is read when the library is imported
    import huggingface_hub
    import huggingface_hub.constants

    return huggingface_hub


def _first_line(exc: Exception) -> str:
    """The first line of an error of huggingface_hub, without an id of the request."""
    lines = [line.split(" (Request ID")[0].strip() for line in str(exc).splitlines()]
    return next((line for line in lines if line), type(exc).__name__)
