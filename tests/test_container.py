# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The Dockerfile: what it builds on, in which order, and the check that fails a build."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def keep() -> ModuleType:
    spec = importlib.util.spec_from_file_location("keep", ROOT / "docker" / "keep.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


INSTALLED = [
    ("torch", "2.9.0a0+145a3a7.nv25.10"), ("megatron_core", "0.15.0"), ("transformer_engine", "2.9.0+70f53666"),
    ("transformer-engine-torch", "2.9.0"), ("nemo_toolkit", "2.6.0"), ("causal-conv1d", "1.5.3"), ("rich", "14.0"),
    ("nemo-elastic", "0.1.0"),
]  # fmt: skip


def test_what_is_kept(keep: ModuleType) -> None:
    actual = keep.kept(INSTALLED)
    assert list(actual) == [
        "causal-conv1d", "megatron-core", "nemo-toolkit", "torch", "transformer-engine", "transformer-engine-torch",
    ]  # fmt: skip
    assert keep.read(keep.constraints(actual)) == actual
    assert "torch==2.9.0a0+145a3a7.nv25.10\n" in keep.constraints(actual)
    with pytest.raises(SystemExit, match="not a NeMo container: megatron-core or megatron-lm not installed"):
        keep.kept([x for x in INSTALLED if x[0] != "megatron_core"])


def test_the_script_as_the_build_calls_it(
    keep: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(keep, "NEEDED", ("torch", "megatron-core", "nemo-toolkit"))  # a CPU has no TransformerEngine
    file = tmp_path / "kept.txt"
    assert keep.main(["write", str(file)]) == 0 and "\ntorch==" in file.read_text()
    assert keep.main(["check", str(file)]) == 0
    file.write_text(re.sub(r"(?m)^torch==.*", "torch==1.0", file.read_text()))
    assert keep.main(["check", str(file)]) == 1
    assert "error: the installation changed torch: 1.0 -> " in capsys.readouterr().err
    assert keep.main(["compare"]) == 2
