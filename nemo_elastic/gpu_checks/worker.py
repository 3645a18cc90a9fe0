# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One check in this process: python -m nemo_elastic.gpu_checks.worker MODULE:FUNCTION DEVICE FILE."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path


def main(function: str, device: str, file: Path) -> None:
    """Run a check and write its result."""
    module, _, name = function.partition(":")
    place = file.parent / "place"
    place.mkdir()
    found = getattr(importlib.import_module(module), name)(device, place)
    file.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
