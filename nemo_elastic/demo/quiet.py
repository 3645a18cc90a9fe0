# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Keep the demo's screen for the demo: NeMo and its neighbours log hundreds of lines per phase."""

from __future__ import annotations

import logging
import os
import warnings


def quiet() -> None:
    """Let through errors only; the full logs are in each phase's folder."""
    warnings.filterwarnings("ignore")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    os.environ.setdefault("NEMO_LOG_MEMORY_USAGE", "0")
    logging.disable(logging.WARNING)
    import torch
    from nemo.utils import logging as nemo_logging

    torch.set_flush_denormal(True)  # a denormal number costs a CPU a hundred ordinary ones

    nemo_logging.setLevel(logging.ERROR)
