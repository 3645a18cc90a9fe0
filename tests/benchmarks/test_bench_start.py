# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which heavy packages each command may load: what `benchmarks/bench_start.py` times, pinned without a clock."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from benchmarks.bench_start import Command, helps, imports, make, runs, slow
from tests.report.fabricate import make_run

WEIGHTS = {"numpy", "safetensors"}
MODEL = WEIGHTS | {"torch"}
TEXT = {"numpy", "tokenizers"}
#: reasoning-gym brings the others where it finds them
PROBLEMS = {"reasoning_gym", "matplotlib", "scipy", "pandas"}
#: command -> what it may load; anything else of `HEAVY` is a mistake
MAY_LOAD = {
    "import nemo_elastic": set(),
    "from nemo_elastic import Family": {"numpy"},
    "from nemo_elastic import ElasticConfig": {"numpy"},
    "from nemo_elastic import slice_checkpoint": WEIGHTS,
    "from nemo_elastic import load_family": MODEL,
    "nemo-elastic schema": {"numpy"},
    "nemo-elastic inspect family": WEIGHTS,
    "nemo-elastic plan --config elastic_12b.yaml --parent nemotron-nano-12b-v2": {"numpy", "omegaconf"},
    "nemo-elastic init parent --config elastic.yaml --out new --force": WEIGHTS | {"omegaconf"},
    "nemo-elastic slice family --budget half --out cut --force": WEIGHTS,
    "nemo-elastic verify family --no-forward": WEIGHTS,
    "nemo-elastic verify family": MODEL,
    "nemo-elastic doctor": MODEL,
    "nemo-elastic data text --out other --vocab 512 --reasoning 0 --force": TEXT,
    "nemo-elastic data text --out other --vocab 512 --force": TEXT | PROBLEMS,
    "nemo-elastic eval family --data data --problems 0 --tokens 512": MODEL | TEXT,
    "nemo-elastic rank parent --data data --samples 4 --length 64 --out ranking --force": MODEL | TEXT,
}
OURS = [c for c in (*imports(), *runs()) if "nemo_elastic" in c.code]
#: what `make test` starts: of each kind of package that a command may load, one that does
FEW = ("import nemo_elastic", "nemo-elastic slice", "nemo-elastic plan --config", "nemo-elastic eval family")


def each(commands: Iterable[Command]) -> pytest.MarkDecorator:
    """A case for each command; those that are none of the few are long."""
    cases = [pytest.param(c, marks=[] if c.name.startswith(FEW) else [pytest.mark.long], id=c.name) for c in commands]
    return pytest.mark.parametrize("command", cases)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("start")
    make(place)
    return place


@each(helps())
def test_help_loads_nothing_heavy(command: Command, tmp_path: Path) -> None:
    assert command.loads(tmp_path) == []


@each(OURS)
def test_a_command_loads_what_it_needs_and_no_more(command: Command, folder: Path) -> None:
    assert not set(command.loads(folder)) - MAY_LOAD[command.name]


@pytest.mark.long
def test_a_report_needs_plots_alone(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    assert not set(Command.ours("report run").loads(tmp_path)) - (WEIGHTS | {"matplotlib"})


@pytest.mark.parametrize(
    "line",
    [
        "train --factory nemotron_nano_12b_v2 --yaml nowhere.yaml",
        "train --factory nemotron_nano_12b_v2 --yaml elastic.yaml elastic.router.tua=1",
    ],
)
def test_a_wrong_block_is_refused_before_nemo_is_loaded(line: str, folder: Path) -> None:
    assert not set(Command.ours(line).loads(folder, code=2)) - {"numpy", "omegaconf"}


@pytest.mark.nemo
@pytest.mark.slow
@pytest.mark.long
def test_what_is_compared_as_stock_does_not_know_this_package(folder: Path) -> None:
    stock = next(c for c in slow() if c.argv[1] == "llm")
    assert "nemo" in stock.loads(folder)
    hidden = Command("", stock.code, ("nemo", "elastic", "--help"))
    with pytest.raises(RuntimeError, match="exit code 2"):
        hidden.run(folder)
