# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How long every command takes to start, and which heavy packages it loads.

    python -m benchmarks.bench_start [--rounds 2] [--slow-rounds 1] [--json FILE] [--markdown FILE]

Whole processes take turns, round after round: imports, `--help` of every command, and the shortest real run of those
that need no training, on a family of 0.1M parameters. What imports NeMo takes its turns apart, in fewer rounds, with
stock NeMo-Run beside it: the same environment, in which the entry point of this package is not seen. Seconds are
medians over rounds; packages are those in `sys.modules` when the process ends.
"""

from __future__ import annotations

import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.output import arguments, deliver

ROOT = Path(__file__).parents[1]
#: packages that take long to import, or that a deployer need not have
HEAVY = (
    "numpy", "omegaconf", "safetensors", "tokenizers", "torch", "transformers", "datasets", "pandas", "scipy",
    "matplotlib", "reasoning_gym", "lm_eval", "modelopt", "nemo_run", "lightning", "megatron", "nemo",
)  # fmt: skip
LEAST, STOCK, STOCK_LLM = "python -c pass", "stock nemo --help", "stock nemo llm --help"

_OURS = "from nemo_elastic.cli import main; main()"
_NEMO = "from nemo_run.__main__ import app; app()"
#: NeMo-Run where this package is not installed
_WITHOUT_US = """
import importlib_metadata as metadata  # what NeMo-Run asks
every = metadata.EntryPoints.select
def select(self, **wanted):
    return metadata.EntryPoints(e for e in every(self, **wanted) if not e.value.startswith("nemo_elastic"))
metadata.EntryPoints.select = select
"""
#: writes the packages that are loaded when the process ends
_TELL = """
import atexit, sys
def tell(file=sys.argv.pop()):
    with open(file, "w") as f:
        f.write(" ".join({n.partition(".")[0] for n in sys.modules}))
atexit.register(tell)
"""


@dataclass(frozen=True)
class Command:
    """A process: `code` for python, `argv` for the code, with the program's name first."""

    name: str
    code: str
    argv: tuple[str, ...] = ()

    @classmethod
    def ours(cls, line: str) -> Command:
        return cls(f"nemo-elastic {line}", _OURS, ("nemo-elastic", *line.split()))

    def run(self, folder: Path, before: str = "", *more: str, code: int = 0) -> None:
        """Run it there; `before` runs first, `more` are further arguments, `code` is the exit code to expect."""
        # byte code is written, as an installed package has it
        env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPATH": str(ROOT)}
        whole = f"import sys; sys.argv = sys.argv[1:]\n{before}\n{self.code}"
        argv = [sys.executable, "-W", "ignore", "-c", whole if self.argv or before else self.code, *self.argv, *more]
        done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=900)
        if done.returncode != code:
            raise RuntimeError(f"{self.name}: exit code {done.returncode}\n{done.stdout}{done.stderr}")

    def loads(self, folder: Path, code: int = 0) -> list[str]:
        """Those of `HEAVY` that it loads."""
        with tempfile.NamedTemporaryFile("r") as file:
            self.run(folder, _TELL, file.name, code=code)
            names = file.read().split()
        return [name for name in HEAVY if name in names]


def imports() -> list[Command]:
    """The package, each public name that needs no NeMo, and torch to compare with."""
    names = ("Family", "ElasticConfig", "slice_checkpoint", "load_family")
    lines = ["import nemo_elastic", *(f"from nemo_elastic import {name}" for name in names), "import torch"]
    return [Command(LEAST, "pass"), *(Command(line, line) for line in lines)]


def helps() -> list[Command]:
    from nemo_elastic.cli.app import COMMANDS

    return [Command.ours("--help"), *(Command.ours(f"{name} --help") for name in COMMANDS)]


def runs() -> list[Command]:
    """The shortest real runs, in the folder that `make` fills."""
    lines = (
        "schema",
        "inspect family",
        "plan --config elastic_12b.yaml --parent nemotron-nano-12b-v2",
        "init parent --config elastic.yaml --out new --force",
        "slice family --budget half --out cut --force",
        "verify family --no-forward",
        "verify family",
        "doctor",
        "data text --out other --vocab 512 --reasoning 0 --force",
        "data text --out other --vocab 512 --force",
        "eval family --data data --problems 0 --tokens 512",
        "rank parent --data data --samples 4 --length 64 --out ranking --force",
    )
    return [Command.ours(line) for line in lines]


def slow() -> list[Command]:
    """NeMo-Run looks into every namespace for its commands, so each `nemo NAME --help` imports NeMo."""
    return [
        Command(STOCK, _WITHOUT_US + _NEMO, ("nemo", "--help")),
        Command(STOCK_LLM, _WITHOUT_US + _NEMO, ("nemo", "llm", "--help")),
        Command("nemo elastic --help", _NEMO, ("nemo", "elastic", "--help")),
    ]


def make(folder: Path) -> None:
    """Fill a folder with a tiny parent, its family, a text and its tokens."""
    from nemo_elastic.core.family import Parent
    from nemo_elastic.core.manifest import Family
    from nemo_elastic.data.build import build_data
    from nemo_elastic.nn.weights import random_state
    from nemo_elastic.slicing.family_folder import write_family

    parent = Parent(
        "M-M*-M-M", hidden=64, vocab=512, ffn=128, mamba_heads=8, mamba_head_dim=16, mamba_groups=4, state=16,
        attention_heads=8, kv_heads=2, attention_head_dim=16, ffn_stripes=4,
    )  # fmt: skip
    half = parent.uniform(None, hidden=48, ffn=64)
    state = random_state(parent, parent.full)
    for name, members in (("family", {"full": parent.full, "half": half}), ("parent", {"full": parent.full})):
        write_family(folder / name, parent, state, Family.of(parent, members))
    (folder / "parent" / "elastic.json").unlink()  # a plain Nemotron-H
    block = "{budgets: [{name: full}, {name: half, ratio: 0.7}], axes: {hidden: [64, 48, 32], ffn: [128, 96, 64]}}"
    (folder / "elastic.yaml").write_text(f"elastic: {block}\n")
    (folder / "elastic_12b.yaml").write_text((ROOT / "conf" / "elastic_12b.yaml").read_text())
    (folder / "text").mkdir()
    for name in ("argparse", "ast", "doctest", "inspect", "pydoc", "tarfile", "typing"):
        source = importlib.import_module(name).__file__
        assert source is not None
        (folder / "text" / f"{name}.py").write_text(Path(source).read_text())
    build_data(folder / "data", [folder / "text"], vocab=512, reasoning=0)


def measure(rounds: int, slow_rounds: int) -> dict[str, Any]:
    """Rows by command, and what this package adds to the start of a `nemo` command."""
    groups = {"import": imports(), "help": helps(), "run": runs(), "NeMo": slow()}
    quick = [command for name in ("import", "help", "run") for command in groups[name]]
    times: dict[str, list[float]] = {command.name: [] for command in (*quick, *groups["NeMo"])}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make(folder)
        packages: dict[str, list[str]] = {}
        for commands, warm, count in ((quick, quick, rounds), (groups["NeMo"], groups["NeMo"][1:2], slow_rounds)):
            for command in warm:  # brings files and byte code into memory
                command.run(folder)
            for _ in range(count):
                for command in commands:
                    began = time.perf_counter()
                    packages[command.name] = command.loads(folder)
                    times[command.name].append(time.perf_counter() - began)
    median = {name: statistics.median(taken) for name, taken in times.items()}
    rows = [
        {
            "group": group,
            "command": command.name,
            "seconds": median[command.name],
            "of_pass": median[command.name] / median[LEAST],
            "of_stock": median[command.name] / median[STOCK],
            "loads": packages[command.name],
        }
        for group, commands in groups.items()
        for command in commands
    ]
    added = zip(times["nemo elastic --help"], times[STOCK_LLM], strict=True)
    return {"rows": rows, "elastic_of_stock_llm": statistics.median(ours / theirs for ours, theirs in added)}


def table(figures: dict[str, Any]) -> str:
    """The rows as a Markdown table; commands that print their help share a row where they load the same."""
    lines = ["| command | s | of `python -c pass` | of stock `nemo --help` | loads |", "|---|---:|---:|---:|---|"]
    for row in figures["rows"]:
        ratios = f"{row['of_pass']:.1f} | {row['of_stock']:.3f}"
        lines.append(f"| `{row['command']}` | {row['seconds']:.2f} | {ratios} | {', '.join(row['loads']) or '-'} |")
    ratio = figures["elastic_of_stock_llm"]
    return "\n".join(lines) + f"\n\n`nemo elastic --help` against stock `nemo llm --help`: {ratio:.3f}.\n"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--slow-rounds", type=int, default=1)
    args = parser.parse_args()
    figures = measure(args.rounds, args.slow_rounds)
    deliver(args, figures, table(figures))


if __name__ == "__main__":
    main()
