# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which heavy packages each command may load, on its shortest real run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_elastic.core.family import Parent
from nemo_elastic.core.manifest import Family
from nemo_elastic.data.build import build_data
from nemo_elastic.nn.weights import random_state
from nemo_elastic.slicing.family_folder import write_family
from tests.report.fabricate import make_run
from tests.texts import library_text

ROOT = Path(__file__).parents[2]
#: packages that take long to import, or that a deployer need not have
HEAVY = {
    "numpy", "omegaconf", "safetensors", "tokenizers", "torch", "transformers", "datasets", "pandas", "scipy",
    "matplotlib", "reasoning_gym", "lm_eval", "modelopt", "nemo_run", "lightning", "megatron", "nemo",
}  # fmt: skip
WEIGHTS = {"numpy", "safetensors"}
MODEL = WEIGHTS | {"torch"}
TEXT = WEIGHTS | {"tokenizers"}
#: command -> what it may load; anything else of `HEAVY` is a mistake
MAY_LOAD = {
    "doctor --schema": {"numpy"},
    "inspect family": WEIGHTS,
    "plan --config elastic_12b.yaml --parent nemotron-nano-12b-v2": WEIGHTS | {"omegaconf"},
    "init parent --config elastic.yaml --out new --force": WEIGHTS | {"omegaconf"},
    "slice family --member half --out cut --force": WEIGHTS,
    "verify family --no-forward": WEIGHTS,
    "verify family": MODEL,
    "doctor": MODEL | {"megatron"},  # the namespace alone, in which it looks for packages
    "data text --out other --tokenizer data --force": TEXT,
    "eval family --data data --tokens 512": MODEL | TEXT,
    "init parent --data data --config elastic.yaml --seq-length 16 --out new --force": MODEL | TEXT | {"omegaconf"},
}
#: what `make test` starts: of each kind of package that a command may load, one that does
FEW = ("slice", "plan", "eval")
#: public name that needs no NeMo -> what its import may load
NAMES = {"Family": {"numpy"}, "ElasticConfig": {"numpy"}, "slice_checkpoint": WEIGHTS, "load_family": MODEL}
#: writes the packages that are loaded when the process ends
TELL = """
import atexit, sys
def tell(file=sys.argv.pop()):
    with open(file, "w") as f:
        f.write(" ".join({n.partition(".")[0] for n in sys.modules}))
atexit.register(tell)
"""
RUN = "from nemo_elastic.cli import main; main()"
HELPS = """
from nemo_elastic.cli import main
from nemo_elastic.cli.app import COMMANDS
for name in COMMANDS:
    try: main([name, "--help"])
    except SystemExit as done: assert done.code == 0, name
"""


def loads(line: str, folder: Path, code: int = 0, run: str = RUN) -> set[str]:
    """Those of `HEAVY` that a command loads."""
    told = folder / "loaded.txt"
    command = [sys.executable, "-W", "ignore", "-c", TELL + run, *line.split(), str(told)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return HEAVY & set(told.read_text().split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny parent, its family, a text and its tokens."""
    place = tmp_path_factory.mktemp("start")
    parent = Parent(
        "M-M*-M-M", hidden=64, vocab=512, ffn=128, mamba_heads=8, mamba_head_dim=16, mamba_groups=4, state=16,
        attention_heads=8, kv_heads=2, attention_head_dim=16, ffn_stripes=4,
    )  # fmt: skip
    half = parent.uniform(None, hidden=48, ffn=64)
    state = random_state(parent, parent.full)
    for name, members in (("family", {"full": parent.full, "half": half}), ("parent", {"full": parent.full})):
        write_family(place / name, parent, state, Family.of(parent, members))
    (place / "parent" / "elastic.json").unlink()  # a plain Nemotron-H
    block = "{budgets: [{name: full}, {name: half, ratio: 0.7}], axes: {hidden: [64, 48, 32], ffn: [128, 96, 64]}}"
    (place / "elastic.yaml").write_text(f"elastic: {block}\n")
    (place / "elastic_12b.yaml").write_text((ROOT / "conf" / "elastic_12b.yaml").read_text())
    build_data(place / "data", [library_text(place / "text")], vocab=512, reasoning=0)
    return place


def cases() -> list:
    return [pytest.param(line, marks=[] if line.startswith(FEW) else [pytest.mark.long]) for line in MAY_LOAD]


def test_a_commands_help_loads_what_comes_with_the_package_alone(tmp_path: Path) -> None:
    """The overview's loads nothing: `test_app`."""
    assert not loads("", tmp_path, run=HELPS) - WEIGHTS


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_loads_what_it_needs_and_no_more(name: str, tmp_path: Path) -> None:
    assert not loads("", tmp_path, run=f"from nemo_elastic import {name}") - NAMES[name]


@pytest.mark.parametrize("line", cases())
def test_a_command_loads_what_it_needs_and_no_more(line: str, folder: Path) -> None:
    assert not loads(line, folder) - MAY_LOAD[line]


@pytest.mark.long
def test_a_report_needs_plots_alone(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    assert not loads("report run", tmp_path) - (WEIGHTS | {"matplotlib"})


@pytest.mark.parametrize(
    "line",
    [
        "train --factory nemotron_nano_12b_v2 --yaml nowhere.yaml",
        "train --factory nemotron_nano_12b_v2 --yaml elastic.yaml elastic.router.tua=1",
    ],
)
def test_a_wrong_block_is_refused_before_nemo_is_loaded(line: str, folder: Path) -> None:
    assert not loads(line, folder, code=2) - {"numpy", "omegaconf"}
