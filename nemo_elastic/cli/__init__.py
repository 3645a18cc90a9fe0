# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The `nemo-elastic` command line. Nothing here imports torch or NeMo before a command runs."""

from .app import main

__all__ = ["main"]
