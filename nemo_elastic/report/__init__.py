# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One HTML page and five pictures of a run: what was trained, what was cut, and what it is worth.

Needs matplotlib, no NeMo. `load` reads a run's folder, one module draws each picture, `page` writes the HTML.
"""

from __future__ import annotations

from .build import PAGE, build_report
from .load import RunRecord, load_run

__all__ = ["PAGE", "RunRecord", "build_report", "load_run"]
