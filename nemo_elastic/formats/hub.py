# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Names of models on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from nemo_elastic.errors import bad

__all__ = ["check_repo", "is_repo", "repo_of"]

_PART = "[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO = re.compile(f"{_PART}/{_PART}")
_LONGEST = 96


def is_repo(value: object) -> bool:
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
