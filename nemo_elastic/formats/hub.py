# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Models on the Hugging Face hub: their ids, their files as a folder in its cache, and results on the way there.

What is fetched is data: JSON, safetensors, the tokenizer, cards and licences, and the two files of code of a member
whose layers differ, which are stored and never run. huggingface_hub is imported only for a name that is no path.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any, TypeGuard

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.tokenizer_files import TOKENIZER_FILES

__all__ = ["check_push", "check_repo", "is_repo", "local_folder", "push", "repo_of"]

#: what a folder is read and copied from; nothing below its top
_FILES = ("*.json", *TOKENIZER_FILES, "*.md", "LICENSE*", "NOTICE*", "*_nemotron_h_puzzle.py")
_WEIGHTS = "*.safetensors"

_PART = "[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO = re.compile(f"{_PART}/{_PART}")
_LONGEST = 96


def is_repo(value: object) -> TypeGuard[str]:
    """Whether something has the form of a model's id on the hub: owner/name."""
    return (
        isinstance(value, str)
        and len(value) <= _LONGEST
        and _REPO.fullmatch(value) is not None
        and not any(part in value for part in ("--", ".."))
        and not value.endswith(".git")
    )


def check_repo(field: str, value: str) -> str:
    """Give a model's id on the hub.

    Raises:
        ElasticError: It has not that form.
    """
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
    """Give a folder on this machine: the path, or what the hub has under that id.

    A path that exists always wins, and so does one into a folder that exists: a slip in `runs/family` asks nobody.

    Args:
        given: What the user wrote.
        weights: Fetch them, too.

    Raises:
        ElasticError: An id, but huggingface_hub is not installed, or the hub does not give it.
    """
    path, repo = Path(given), os.fspath(given)
    if not is_repo(repo) or os.path.lexists(path) or os.path.lexists(path.parent):
        return path
    hub = _library(f"{repo}: no such folder")
    patterns = [*_FILES, _WEIGHTS] if weights else [*_FILES]
    try:
        return Path(hub.snapshot_download(repo, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except (OSError, ValueError) as exc:
        raise ElasticError(
            f"{repo}: no such folder, and the hub does not give a model of that id ({_why(exc)})"
        ) from None


def check_push(repo: str) -> None:
    """Check before anything is done that a result can be sent under an id: its form, the library, who we are.

    Raises:
        ElasticError: It cannot.
    """
    check_repo("push", repo)
    hub = _library(f"push: {repo}")
    try:
        hub.HfApi().whoami()
    except (OSError, ValueError) as exc:
        raise ElasticError(f"push: {repo}: the hub does not know you ({_why(exc)}); nothing was written") from None


def push(folder: str | os.PathLike[str], repo: str, private: bool = True) -> str:
    """Send a folder that we wrote to the hub.

    Args:
        folder: The folder; all of it is sent.
        repo: The model's id; it is made where it is not there yet.
        private: Whether only its owner sees it, where it is made.

    Returns:
        Its address.

    Raises:
        ElasticError: The hub refused it; the folder stays.
    """
    hub = _library(f"push: {repo}")
    try:
        hub.HfApi().create_repo(repo, private=private, exist_ok=True)
        hub.HfApi().upload_folder(repo_id=repo, folder_path=folder, commit_message="Cut by nemo-elastic")
    except (OSError, ValueError) as exc:
        raise ElasticError(f"push: {repo}: {folder} was written, but not sent ({_why(exc)})") from None
    return f"{hub.constants.ENDPOINT}/{repo}"


def _library(what: str) -> Any:
    """huggingface_hub, quiet where nobody watches."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ElasticError(f"{what}; to ask the hub, pip install huggingface_hub")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # it is read when the library is imported
    import huggingface_hub
    import huggingface_hub.constants

    return huggingface_hub


def _why(exc: Exception) -> str:
    """The first line of what a library of many layers says, without an id of the request."""
    lines = [line.split(" (Request ID")[0].strip() for line in str(exc).splitlines()]
    return next((line for line in lines if line), type(exc).__name__)
