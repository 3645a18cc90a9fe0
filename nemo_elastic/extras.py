# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which extra of ours brings a package that is not installed, in one line."""

from __future__ import annotations

import importlib.util

__all__ = ["EXTRAS", "missing", "require"]

#: top-level package -> the extra of ours that installs it
EXTRAS = {
    "torch": "runtime",
    "jinja2": "runtime",
    "tokenizers": "runtime",
    "transformers": "nemo",
    "datasets": "nemo",
    "fiddle": "nemo",
    "lightning": "nemo",
    "matplotlib": "nemo",
    "megatron": "nemo",
    "modelopt": "nemo",
    "nemo": "nemo",
    "nemo_run": "nemo",
    "reasoning_gym": "nemo",
    "vllm": "vllm",
    "causal_conv1d": "gpu",
    "mamba_ssm": "gpu",
}


def missing(error: ModuleNotFoundError) -> str | None:
    """What to install where an import failed; None for a package that no extra brings."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    return f"{package} is not installed; pip install 'nemo-elastic[{EXTRAS[package]}]' brings it"


def require(package: str) -> None:
    """Raise before anything is done where a package is not installed, without importing it.

    Raises:
        ModuleNotFoundError: as its import would.
    """
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
