# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Engines in processes of their own: transformers and vLLM, the device that each gets, and its name in a table."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nemo_elastic.cli import cmd_profile
from nemo_elastic.core.latency import LatencyTable
from nemo_elastic.errors import ElasticError
from nemo_elastic.profile.engine_worker import hardware
from nemo_elastic.profile.engines import SEEN, alone
from nemo_elastic.profile.measure import Stop
from tests.formats.hf.hf_client import hf_python
from tests.shapes import PARENT
from tests.slicing.helpers import write
from tests.vllm.families import PARENT as SERVED
from tests.vllm.server import vllm_python

from .test_profile import QUICK, SMALL, run


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("engines") / "family", PARENT, {"small": SMALL})


@pytest.fixture
def in_environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let `profile` run engines by another interpreter, as if this package were installed in its environment."""

    def use(python: Path) -> None:
        monkeypatch.setattr(sys, "executable", str(python))
        monkeypatch.setattr(cmd_profile, "require", lambda module: None)

    return use


def none_left(engine: str) -> bool:
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return f"profile/engine_worker.py {engine}" not in running


@pytest.mark.parametrize(
    ("device", "left", "expected"),
    [
        ("cuda", "3,5", ("cuda", {})),  # the first of them, as everywhere
        ("cuda:1", None, ("cuda", {SEEN: "1"})),
        ("cuda:0", "GPU-8a3f,GPU-77c1", ("cuda", {SEEN: "GPU-8a3f"})),
    ],
)
def test_a_process_sees_the_gpu_that_was_asked_for_alone(
    device: str, left: str | None, expected: tuple[str, dict[str, str]]
) -> None:
    assert alone(device, {} if left is None else {SEEN: left}) == expected


@pytest.mark.parametrize(("device", "left"), [("cuda:2", "3,5"), ("cuda:0", ""), ("cuda:-1", None)])
def test_a_gpu_that_is_not_left_is_refused(device: str, left: str | None) -> None:
    with pytest.raises(ElasticError, match=f"^--device: '{device}' "):
        alone(device, {} if left is None else {SEEN: left})


def test_the_index_of_a_device_reaches_the_process_and_the_line_of_one_that_fails_the_user(
    family: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    in_environment: Callable[[Path], None],
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "GPU $CUDA_VISIBLE_DEVICES for $2 $3" >&2\nexit 1\n')
    python.chmod(0o755)
    in_environment(python)
    monkeypatch.setenv(SEEN, "3,5")
    asked = ["profile", family, "--out", tmp_path / "t.json", *QUICK, "--engine", "vllm"]
    assert run(*asked, "--device", "cuda:1") == 2
    said = capsys.readouterr().err
    assert "error: vllm does not run this model: GPU 5 for vllm " in said
    assert json.loads(said[said.index("{") :])["device"] == "cuda"
    assert not (tmp_path / "t.json").exists()


def test_a_table_names_the_processor_and_its_threads_also_where_there_is_a_gpu() -> None:
    assert re.fullmatch(rf".+, {torch.get_num_threads()} threads?", hardware("cpu"))


@pytest.mark.gpu
def test_a_table_names_the_gpu_that_was_asked_for(family: Path, tmp_path: Path) -> None:
    last = torch.cuda.device_count() - 1
    assert run("profile", family, "--out", tmp_path / "t.json", *QUICK, "--device", f"cuda:{last}") == 0
    table = LatencyTable.read("table", str(tmp_path / "t.json"))
    assert table["hardware"] == torch.cuda.get_device_name(last)


@pytest.mark.hf
@pytest.mark.slow(minutes=1)
def test_a_table_of_transformers(
    tmp_path: Path, in_environment: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # by one round, layers take no time on a busy machine
    monkeypatch.setattr(cmd_profile, "STOP", Stop(rounds=(3, 3)))
    family = write(tmp_path / "family", PARENT, {"few": PARENT.uniform([0, 1, 2, 3])})  # one width of every axis
    out = tmp_path / "hf.json"
    in_environment(hf_python())
    assert run("profile", family, "--engine", "transformers", "--out", out, *QUICK) == 0
    table = LatencyTable.read("table", str(out))
    assert table["versions"]["transformers"].startswith("5.")
    assert table.milliseconds(PARENT, PARENT.full) > 0
    assert none_left("transformers")


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.long
def test_a_table_of_vllm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], in_environment: Callable[[Path], None]
) -> None:
    few = {"few": SERVED.uniform([0, 1, 2, 4, 5])}  # one width of every axis: seven models
    family, out = write(tmp_path / "family", SERVED, few), tmp_path / "vllm.json"
    in_environment(vllm_python())
    asked = ["profile", family, "--engine", "vllm", "--out", out, *QUICK]
    assert run(*asked, "--device", "cuda:0") == 2
    line = "error: vllm does not run this model: this installation of vLLM computes on cpu, not on cuda"
    assert capsys.readouterr().err.strip() == line
    assert run(*asked) == 0
    table = LatencyTable.read("table", str(out))
    assert set(table["versions"]) == {"vllm", "torch", "nemo-elastic"} and none_left("vllm")
    assert 0 < table.milliseconds(SERVED, few["few"]) <= table.milliseconds(SERVED, SERVED.full)
