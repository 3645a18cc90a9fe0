# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What holds for every test."""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

# how long an example takes is up to what else the machine does
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


def pytest_configure(config: pytest.Config) -> None:
    """Name the socket of the process whose forks need not import NeMo; who is the first to need it starts it."""
    if hasattr(os, "pidfd_open") and find_spec("nemo") is not None and "NEMO_ELASTIC_WARM" not in os.environ:
        folder = tempfile.mkdtemp(prefix="nemo-elastic-")
        os.environ["NEMO_ELASTIC_WARM"] = f"{folder}/socket:{os.getpid()}"
        config.add_cleanup(lambda: shutil.rmtree(Path(folder), ignore_errors=True))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none, and forget the attention backend of the last test's model.

    megatron-core writes it into NVTE_* variables and refuses to build a model with another backend where it finds
    them, in the same process or in one that inherits them.
    """
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
    for name in [n for n in os.environ if n.startswith("NVTE_")]:
        del os.environ[name]
