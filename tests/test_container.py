# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The Dockerfile: what it builds on, in which order, and the check that fails a build."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    """(word, arguments) of every instruction, comments and continuations resolved."""
    lines = [x for x in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines() if not x.startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (x.partition(" ") for x in text.splitlines() if x)]


@pytest.fixture(scope="module")
def keep() -> ModuleType:
    spec = importlib.util.spec_from_file_location("keep", ROOT / "docker" / "keep.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_releases_are_written_before_the_installation_and_checked_after_it() -> None:
    runs = [rest for word, rest in instructions() if word == "RUN"]
    write = next(i for i, r in enumerate(runs) if "keep.py write" in r)
    install = [i for i, r in enumerate(runs) if re.search(r"\bpip install\b", r)]
    check = next(i for i, r in enumerate(runs) if "keep.py check" in r)
    assert install and write < min(install) <= max(install) < check
    (file,) = {w for r in runs for w in shlex.split(r) if w.endswith("kept.txt")}
    for i in install:
        for call in re.findall(r"pip install[^;]*", runs[i]):  # pip's and uv's
            assert f"-c {file}" in call and "[" not in call, "constrained, and no extra"
    assert runs[check].startswith(f"python docker/keep.py check {file} &&")


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


def test_either_host_makes_a_container_of_nemo(keep: ModuleType) -> None:
    without = [x for x in INSTALLED if x[0] != "nemo_toolkit"]
    assert keep.kept([*without, ("megatron-bridge", "0.6.0")])["megatron-bridge"] == "0.6.0"
    core = [x for x in without if x[0] != "megatron_core"]
    assert keep.kept([*core, ("megatron-lm", "0.20.0")])["megatron-lm"] == "0.20.0"
    with pytest.raises(SystemExit, match="not a NeMo container: nemo-toolkit or megatron-bridge"):
        keep.kept(without)


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
