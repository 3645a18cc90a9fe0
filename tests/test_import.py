# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What may be imported where: the figures of the design that a linter of imports cannot see (it counts lazy ones)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import nemo_elastic

PACKAGE = Path(nemo_elastic.__file__).parent
#: only below these may a module import NeMo or Megatron when it is itself imported
TRAINING = (
    "nemo_elastic.megatron",
    "nemo_elastic.hosts",
    "nemo_elastic.hosts.nemo.folder_data",
    "nemo_elastic.rehearsal",
)
NEMO = ("nemo", "megatron", "lightning", "pytorch_lightning", "nemo_run", "modelopt", "transformer_engine")
#: only vLLM imports these, in an environment of its own
INSIDE_VLLM = "nemo_elastic.serving.engine"
#: public names whose modules import NeMo
OF_NEMO = ("ElasticPlugin", "FamilyRecipe", "apply_elastic", "run_family")
#: what needs no more than the standard library and numpy: all of core, and these
CORE = ("nemo_elastic.core", "nemo_elastic.errors", "nemo_elastic.history", "nemo_elastic.verdicts")


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not name.startswith((*TRAINING, INSIDE_VLLM)) and parts[-1] != "__main__":
            yield name


def loaded_by(names):
    """Import the modules in a fresh interpreter, and give the top-level packages that came along with each."""
    code = (
        "import sys, importlib\n"
        "for name in sys.argv[1:]:\n"
        "    before = set(sys.modules)\n"
        "    importlib.import_module(name)\n"
        "    print(name, *sorted({n.partition('.')[0] for n in set(sys.modules) - before}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    return {line.split()[0]: set(line.split()[1:]) for line in done.stdout.splitlines()}


def test_the_core_is_the_standard_library_and_numpy():
    names = [name for name in modules() if name.startswith(CORE)]
    assert len(names) > 20
    allowed = {*sys.stdlib_module_names, "nemo_elastic", "numpy", "cython_runtime"}  # the last is numpy's
    for name, brought in loaded_by(names).items():
        assert not {b for b in brought if not b.startswith("_")} - allowed, name


def test_nothing_but_training_brings_nemo():
    for name, brought in loaded_by(list(modules())).items():
        assert not brought & set(NEMO), name


def test_public_names_exist():
    assert isinstance(nemo_elastic.PAPER, nemo_elastic.Curriculum)
    for name in set(nemo_elastic.__all__) - {*OF_NEMO, "PAPER", "__version__"}:
        assert getattr(nemo_elastic, name).__name__ == name and name in dir(nemo_elastic)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        nemo_elastic.nothing  # noqa: B018
