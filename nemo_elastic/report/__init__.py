# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One HTML page and pictures of a run: what was trained, what was cut, and what it is worth.

Needs matplotlib and jinja2, no NeMo. `run_record` reads a run's folder, one module draws each picture, `html_page`
fills the page.
"""

from __future__ import annotations

from .html_page import PAGE, build_report
from .run_record import RunRecord, load_run

__all__ = ["PAGE", "RunRecord", "build_report", "load_run"]
