# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Commands know what an installed package registers: kinds of layers and formats."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from nemo_elastic.core.family import Parent
from nemo_elastic.formats.checkpoint import in_memory
from nemo_elastic.formats.hf.writing import write_checkpoints
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.plugins import GROUP
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.core.kinds.gated import GATED, UNIT_SIZE, UNITS, registered
from tests.workers import ROOT

HEAD = "from nemo_elastic.core.kinds.registry import register\nfrom tests.core.kinds.gated import KIND\n"
WRITER = """
import numpy as np
from nemo_elastic.formats.folders import CHECKPOINT
from nemo_elastic.io.outputs import atomic_dir

def write(checkpoint, out, force=False):
    with atomic_dir(out, force, kind=CHECKPOINT) as folder:
        np.savez(folder / "weights.npz", **{name: checkpoint.torch(name).numpy() for name in checkpoint.names})
"""


def install(place: Path, target: str, code: str, group: str = GROUP) -> dict[str, str]:
    """A package with an entry point; returns the environment in which it is installed."""
    (place / "gated_layers.py").write_text(code)
    info = place / "gated_layers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gated-layers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\ngated = {target}\n")
    return {**os.environ, "PYTHONPATH": f"{place}{os.pathsep}{ROOT}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = {UNITS: 12, UNIT_SIZE: 8, "gated_groups": 4}
    out = tmp_path_factory.mktemp("parent")
    with registered():
        parent = Parent("MG*G-G", 32, 96, ffn=32, mamba_heads=4, mamba_head_dim=8, mamba_groups=2, state=8,
                        attention_heads=4, kv_heads=2, attention_head_dim=8, sizes=own)  # fmt: skip
        arrays = {name: value.numpy() for name, value in NemotronH.random(parent, seed=5).state_dict().items()}
        write_checkpoints({out: in_memory(parent, parent.full, arrays)})
    return out


def inspect(folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nemo_elastic", "inspect", str(folder), "--json"]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_a_kind_of_an_installed_package_is_known(folder: Path, tmp_path: Path) -> None:
    ran = inspect(folder, install(tmp_path, "gated_layers:add", HEAD + "def add():\n    register(KIND)\n"))
    assert ran.returncode == 0, ran.stderr
    (member,) = json.loads(ran.stdout)["members"].values()
    assert [layer["type"] for layer in member["subnet"]["layers"]].count(GATED) == 3


def test_a_package_that_fails_is_named(folder: Path, tmp_path: Path) -> None:
    ran = inspect(folder, install(tmp_path, "gated_layers", "raise ValueError('no such axis')\n"))
    assert ran.returncode == 2 and len(ran.stderr.splitlines()) == 1
    assert f"{GROUP}: gated of gated-layers fails: ValueError('no such axis')" in ran.stderr


def test_slice_writes_the_format_of_an_installed_package(tmp_path: Path) -> None:
    env = install(tmp_path, "gated_layers:write", WRITER, "nemo_elastic.writers")
    family, out = tmp_path / "family", tmp_path / "small"
    call(env, "init", "--example", "--out", family)
    call(env, "slice", family, "--member", "small", "--format", "gated", "--out", out)
    slice_checkpoint(family, tmp_path / "hf", member="small")
    wanted = load_file(tmp_path / "hf" / "model.safetensors")
    with np.load(out / "weights.npz") as found:
        assert set(found.files) == set(wanted)
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def call(env: dict[str, str], *args: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "nemo_elastic", *map(str, args)], env=env, check=True)
