# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Print constraints-cpu.txt, or constraints-bridge.txt, from the environment that runs this.

    .venv/bin/python tools/constraints.py > constraints-cpu.txt
    .venv-bridge/bin/python tools/constraints.py > constraints-bridge.txt

torch and what comes with its builds stay free, since the CPU and the CUDA build are the same release with other
neighbours; so does nvidia-resiliency-ext, whose newer wheels need a newer glibc. A release that does not exist for one
of our Pythons gets a marker, so that pip chooses there by itself.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import re
from importlib.metadata import Distribution, distributions

from packaging.specifiers import SpecifierSet

#: the one that has Megatron-Bridge is made with 3.12 alone
BRIDGE = importlib.util.find_spec("megatron.bridge") is not None
PYTHONS = ("3.12",) if BRIDGE else ("3.10", "3.11", "3.12")
FREE = re.compile(r"torch|torchvision|torchaudio|triton|cuda-.*|nvidia-(?!ml-py|modelopt).*|pip|setuptools|wheel")

HEAD_BRIDGE = f"""\
# One set of releases with which the Megatron-Bridge host works on a CPU (Linux x86_64). `make .venv-bridge/.stamp`
# installs it; made by `.venv-bridge/bin/python tools/constraints.py > constraints-bridge.txt` on Python
# {platform.python_version()}, in an environment that passes `make test-bridge`. megatron-core and megatron-bridge are
# installed without what they ask for, which a CPU cannot have (TransformerEngine, mamba-ssm, energon).
"""
HEAD = f"""\
# One set of releases that `pip install -e '.[nemo,dev,docs]' -c constraints-cpu.txt` is known to work with on a CPU
# (Linux x86_64). Made by `.venv/bin/python tools/constraints.py > constraints-cpu.txt` on Python
# {platform.python_version()}, in an environment that passes `make lint test`. torch is left to the range in
# pyproject.toml, so that its CPU and its CUDA build both fit. A marker says that this release does not exist for an
# older Python; pip chooses there.
"""


def marker(requires_python: str | None) -> str:
    """Word the Pythons of ours that a release takes, as an environment marker; empty when it takes all."""
    spec = SpecifierSet(requires_python or "")
    taken = [v for v in PYTHONS if spec.contains(f"{v}.99")]
    if taken == list(PYTHONS):
        return ""
    if taken != list(PYTHONS[-len(taken) :]):
        raise SystemExit(f"requires-python {requires_python} leaves a gap; write its marker by hand")
    # A floor such as >=3.11.5 must not pin a user of 3.11.2.
    floor = next(
        v for v in (taken[0], f"{taken[0]}.5", f"{taken[0]}.10") if spec.contains(v if v.count(".") > 1 else f"{v}.0")
    )
    name = "python_full_version" if floor.count(".") > 1 else "python_version"
    return f' ; {name} >= "{floor}"'


def from_registry(dist: Distribution) -> bool:
    """Whether a release number says all: not so for editable installs, folders and files given by path."""
    url = json.loads(dist.read_text("direct_url.json") or "{}").get("url", "")
    return not url.startswith("file:") or url.endswith(".whl")


def main() -> None:
    """Print the file."""
    lines = {}
    for dist in distributions():
        name = re.sub(r"[-_.]+", "-", dist.metadata["Name"]).lower()
        if name == "nemo-elastic" or FREE.fullmatch(name) or not from_registry(dist):
            continue
        version = dist.version.partition("+")[0]
        lines[name] = f"{name}=={version}{marker(dist.metadata.get('Requires-Python'))}"
    print((HEAD_BRIDGE if BRIDGE else HEAD) + "\n".join(lines[name] for name in sorted(lines)))


if __name__ == "__main__":
    main()
