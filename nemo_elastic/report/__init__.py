# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One HTML page and pictures of a run: the members, and what training did for each.

Needs matplotlib and jinja2, no NeMo. `run` reads the folder of a run, `figures` draws, `page` fills `page.html`.
"""

from __future__ import annotations

from .page import PAGE, build_report
from .run import Run, load_run

__all__ = ["PAGE", "Run", "build_report", "load_run"]
