# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which files belong to a folder that came from elsewhere: only those that really lie in it are read.

A link in such a folder can name any file of whoever reads it, and what is read is copied along or quoted. So a link
may lead to another file of the same folder, and from a snapshot of Hugging Face's cache to the files that the cache
keeps beside its snapshots. To nothing else.
"""

from __future__ import annotations

import os
from pathlib import Path

from nemo_elastic.errors import ElasticError

__all__ = ["check_inside"]


def check_inside(path: Path) -> Path:
    """Give the path of a file, if it lies in the folder that it is named in.

    Args:
        path: The file, in a folder from anywhere. The way to that folder is the user's own and may have links.

    Raises:
        ElasticError: It is a link out of its folder.
    """
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(place) for place in _own(Path(os.path.realpath(path.parent)))):
        raise ElasticError("is a link out of its folder, which is not followed; put the file itself there", path)
    return path


def _own(folder: Path) -> list[Path]:
    """The folder; in the hub's cache, at or below models--OWNER--NAME/snapshots/REVISION, its blobs, too."""
    found = [folder]
    for snapshots in folder.parents:
        if snapshots.name == "snapshots" and snapshots.parent.name.startswith("models--"):
            found.append(snapshots.parent / "blobs")
    return found
