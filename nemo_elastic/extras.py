# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which extra of ours brings a package that is not installed, in one line."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import unquote, urlsplit

__all__ = ["EXTRAS", "has", "installing", "missing", "require"]

#: package, a top-level one or by its whole name, -> the extra of ours that installs it
EXTRAS = {
    "torch": "runtime",
    "jinja2": "runtime",
    "tokenizers": "runtime",
    "matplotlib": "report",
    "gguf": "gguf",
    "reasoning_gym": "demo",
    "transformers": "nemo",
    "datasets": "nemo",
    "fiddle": "nemo",
    "lightning": "nemo",
    "megatron": "nemo",
    "modelopt": "nemo",
    "nemo": "nemo",
    "nemo_run": "submit",
    "psutil": "submit",
    "pyarrow": "nemo",
    "vllm": "vllm",
    "megatron.bridge": "bridge",
    "transformer_engine": "bridge",
    "causal_conv1d": "gpu",
    "mamba_ssm": "gpu",
}
#: of these, what both hosts' extras bring: their environments are apart
OF_BOTH = ("pyarrow", "transformers")
#: extras that no environment has together -> a package that only this extra brings
APART = {"nemo": "nemo", "bridge": "megatron.bridge", "vllm": "vllm"}


def missing(error: ModuleNotFoundError) -> str | None:
    """What to install where an import failed; None for a package that no extra brings."""
    name = error.name or ""
    package = name if name in EXTRAS else name.partition(".")[0]
    if package not in EXTRAS:
        return None
    extra = "bridge" if package in OF_BOTH and has("megatron.bridge") else EXTRAS[package]
    others = (one for other, one in APART.items() if extra in APART and other != extra and has(one))
    where = next((f"in an environment without {other}, " for other in others), "")
    return f"{package} is not installed; {where}{installing(extra)} brings it"


@cache
def installing(extra: str, options: str = "") -> str:
    """The command that installs one of our extras from where this package came: a folder, a repository, an index.

    Args:
        extra: its name.
        options: of pip's, with a blank behind.
    """
    try:
        origin = json.loads(distribution("nemo-elastic").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:  # the sources are on the path: the command is for their folder
        origin = {"url": ".", "dir_info": {}}
    url, name = origin.get("url"), f"nemo-elastic[{extra}]"
    if url is None:
        what = name
    elif "dir_info" in origin:
        options += "-e " if origin["dir_info"].get("editable") else ""
        what = f"{unquote(urlsplit(url).path)}[{extra}]"
    else:
        vcs = origin.get("vcs_info", {})
        what = f"{name} @ {vcs['vcs']}+{url}@{vcs['commit_id']}" if vcs else f"{name} @ {url}"
    return f"pip install {options}'{what}'"


def require(package: str) -> None:
    """Raise before anything is done where a package is not installed, without importing it.

    Raises:
        ModuleNotFoundError: as its import would.
    """
    if not has(package):
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)


def has(package: str) -> bool:
    """Whether a package is installed; it is not imported, but what it lies in is."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # it lies in one that is missing
        return False
