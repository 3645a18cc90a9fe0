# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Files made to hang a reader or to fill the memory are refused, within limits that the kernel holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_elastic.errors import ElasticError, bad

from . import bomb_worker

ROOT = Path(__file__).parents[1]


def test_bombs_are_refused(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.bomb_worker", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines.pop() == "whole", (lines[-3:], done.stderr[-2000:])
    assert [line for line in lines if not line.endswith(": refused")] == []
    kinds = [line.partition(":")[0] for line in lines]
    assert kinds.count("metadata") == 4 and kinds.count("context") > 10
    assert kinds.count("counts") == 10
    assert kinds.count("block") == len(bomb_worker.BLOCKS) and kinds.count("json") == len(bomb_worker.JSON) + 1


@pytest.mark.parametrize(
    "value", [10**5000, [10**5000], "x" * 100_000, {"a": ["y" * 5000]}], ids=["integer", "list", "text", "mapping"]
)
def test_no_value_is_too_large_for_a_line(value: object) -> None:
    assert (
        str(bad("field", value, "small")).endswith(" is not allowed; small") and len(str(bad("f", value, "s"))) < 600
    )
    assert len(str(ElasticError("z" * 10**6))) < 4100


@pytest.mark.nemo
def test_a_graph_of_nemo_configs_is_read_once_however_often_it_is_held(tmp_path: Path) -> None:
    from nemo_elastic.formats.megatron.context_files import read_io_json

    def held(key: str) -> dict:
        return {"type": "ref", "key": key}

    def graph(last: list) -> dict:
        objects = {
            f"o{i}": {
                "type": {"module": "builtins", "name": "dict"},
                "items": [["Key(key='a')", held(f"o{i + 1}")], ["Key(key='b')", held(f"o{i + 1}")]],
                "paths": ["<root>.model"] if i == 0 else [],
            }
            for i in range(60)
        }
        objects["o60"] = {"type": {"module": "builtins", "name": "dict"}, "items": last, "paths": []}
        return {"objects": objects}

    (tmp_path / "io.json").write_text(json.dumps(graph([["Key(key='c')", {"type": "leaf", "value": 5}]])))
    value = read_io_json(tmp_path / "io.json", "model")
    for _ in range(60):
        value = value["b"]
    assert value == {"c": 5}
    (tmp_path / "io.json").write_text(json.dumps(graph([["Key(key='c')", held("o3")]])))
    with pytest.raises(ElasticError, match="holds itself"):
        read_io_json(tmp_path / "io.json", "model")
