# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a deployer gets: `pip install .` without extras in a fresh environment, and what must work and be quick there.

Usage: python tools/core_install.py [argument for pip...]

Installs into a temporary folder, makes an example family there, cuts and verifies members, and holds the times of
`import nemo_elastic` and `nemo-elastic --help` against their limits. Exit code 1 and one line say what does not hold.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: None of these may come along.
HEAVY = ("torch", "transformers", "tokenizers", "lightning", "nemo", "megatron", "datasets", "matplotlib")
#: seconds of the processor, start of Python included, the best of so many tries
IMPORT_LIMIT, HELP_LIMIT, TRIES = 0.3, 1.0, 3


class Failed(Exception):
    """Something does not hold; the message is the line to print."""


def call(*command: object, code: int = 0, cwd: Path | None = None) -> str:
    """Run a command and give what it prints; anything but its expected exit code is a failure."""
    words = [str(word) for word in command]
    # PYTHONPATH and the folder that this is called from must not lend anything to the fresh environment.
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd or "/", env=clean)
    if done.returncode != code or (code == 2 and len(done.stderr.splitlines()) != 1):
        output = (done.stderr + done.stdout).strip()[-2000:]
        raise Failed(f"exit code {done.returncode}, not {code}: {' '.join(words)}\n{output}")
    return done.stdout + done.stderr if code else done.stdout


def install(place: Path, pip_arguments: list[str]) -> Path:
    """Make the environment; gives its folder of programs."""
    call(sys.executable, "-m", "venv", place / "venv")
    binaries = place / "venv" / "bin"
    quiet = ["--disable-pip-version-check", "--quiet"]
    call(binaries / "python", "-m", "pip", "install", *quiet, *pip_arguments, ".", cwd=ROOT)
    call(binaries / "python", "-m", "pip", "check")
    heavy = call(
        binaries / "python", "-c", f"import importlib.util as u; print(*(n for n in {HEAVY!r} if u.find_spec(n)))"
    )
    if heavy.strip():
        raise Failed(f"the core brings what only an extra may: {heavy.strip()}")
    return binaries


def measure(binaries: Path) -> None:
    """Hold the two times against their limits: of the processor, which other processes do not lengthen."""
    programs = {
        "import nemo_elastic": (IMPORT_LIMIT, [binaries / "python", "-c", "import nemo_elastic"]),
        "--help": (HELP_LIMIT, [binaries / "nemo-elastic", "--help"]),
    }
    for what, (limit, command) in programs.items():
        times = []
        for _ in range(TRIES):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            call(*command)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        print(f"{what}: {min(times):.3f} s, the best of {TRIES}; the limit is {limit} s")
        if min(times) >= limit:
            raise Failed(f"{what} takes {min(times):.3f} s; the limit is {limit} s")


def use(binaries: Path, place: Path) -> None:
    """Make an example family, look at it, cut it, check it; what needs an extra names it."""
    cli, family, half = binaries / "nemo-elastic", place / "family", place / "half"
    call(cli, "init", "--example", "--out", family)
    members = json.loads(call(cli, "inspect", family, "--json"))["members"]
    name, parameters = list(members)[-1], [member["parameters"] for member in members.values()]
    if parameters != sorted(parameters, reverse=True):
        raise Failed(f"inspect: members are out of order: {parameters}")
    call(cli, "verify", family)
    call(cli, "plan", "--config", ROOT / "conf/elastic_12b.yaml", "--parent", "nemotron-nano-12b-v2", "--gpus", 64)
    call(cli, "slice", family, "--member", name, "--out", half)
    call(cli, "slice", family, "--params", parameters[0], "--out", place / "big")
    for folder, size in ((half, parameters[-1]), (place / "big", parameters[0])):
        report = json.loads(call(cli, "verify", folder, "--json"))
        if not report["ok"] or [c["ok"] for c in report["checks"] if c["name"] == "logits"] != [None]:
            raise Failed(f"verify: {folder.name} must pass, with the run of the model skipped: {report}")
        (member,) = json.loads(call(cli, "inspect", folder, "--json"))["members"].values()
        if member["parameters"] != size:
            raise Failed(f"inspect: {folder.name} has {member['parameters']} parameters, not {size}")
    wrong: tuple[tuple[str, tuple[object, ...]], ...] = (
        ("already exists", ("slice", family, "--member", name, "--out", half)),
        ("[runtime]", ("verify", family, "--forward")),
        ("pip install", ("demo", "--out", place / "demo")),
        ("pip install", ("train", "--factory", "x")),
        ("nemotron_elastic_12b", ("plan", "--recipe", "nowhere")),
    )
    for needed, words in wrong:
        if needed not in (line := call(cli, *words, code=2)) or (place / "demo").exists():
            raise Failed(f"{words[0]}: the line lacks {needed!r}: {line}")
    line = call(binaries / "python", "-c", "from nemo_elastic import load_family", code=1)
    if f"pip install '{ROOT}[runtime]'" not in line:
        raise Failed(f"load_family: that torch is missing was reported as: {line}")
    print(f"init, inspect, verify and slice work: {parameters}; what needs an extra names it")


def main(pip_arguments: list[str]) -> int:
    """Give the exit code."""
    with tempfile.TemporaryDirectory(prefix="nemo-elastic-core-") as place:
        try:
            binaries = install(Path(place), pip_arguments)
            use(binaries, Path(place))
            measure(binaries)
        except Failed as exc:
            print(f"error: {exc}", file=sys.stderr)
            return 1
    print("the core install works")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
