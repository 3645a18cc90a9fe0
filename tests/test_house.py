# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The house keeps its own rules: headers, sizes, and a CI that runs what it should."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILT = {
    ".git", ".venv", ".venv-hf", ".venv-vllm", ".venv-mlx", ".venv-kernels", ".venv-bridge", "runs",
    "site", "build", "dist", "shared", "nemo_experiments",
}  # fmt: skip
HEADER = (
    "# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors\n# SPDX-License-Identifier: Apache-2.0\n"
)


@cache
def files(under="", end=""):
    """All but what is built: environments alone have tens of thousands of files, which are not walked."""
    kept = []
    for folder, inside, names in os.walk(ROOT / under):
        inside[:] = [name for name in inside if name != "__pycache__" and (Path(folder) != ROOT or name not in BUILT)]
        kept += [path for name in names if name.endswith(end) and (path := Path(folder, name)).is_file()]
    return sorted(kept)


def name(path):
    return str(path.relative_to(ROOT))


def test_every_python_file_has_the_header():
    python = files(end=".py")
    assert len(python) > 10
    assert [name(p) for p in python if not p.read_text(encoding="utf-8").startswith(HEADER)] == []


def test_no_python_file_is_too_long_to_read():
    long = {name(p): n for p in files(end=".py") if (n := len(p.read_text(encoding="utf-8").splitlines())) > 450}
    assert long == {}, "about 400 lines is the limit"


def test_no_file_is_over_one_megabyte():
    assert [name(p) for p in files() if p.stat().st_size > 1_000_000] == []


def test_ci_runs_what_the_makefile_offers():
    script = ROOT / ".ci" / "run"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text(encoding="utf-8")
    assert all(f"make {target}" in text for target in ("lint", "docs", "test"))


#: calls that read a clock or a generator that everybody shares; `time.monotonic` measures, and decides nothing
SHARED = re.compile(
    r"(np|numpy)\.random\.(?!default_rng|Generator)|random\.(?!Random)|time\.time|datetime\..*(now|today)|uuid\."
)
DRAWS = {"rand", "randn", "randint", "randperm", "normal", "multinomial", "bernoulli"}


def test_what_is_random_follows_from_a_seed_and_nothing_from_a_clock():
    shared = []
    for path in files("nemo_elastic", ".py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            text = ast.unparse(call.func)
            drawn = text.startswith("torch.") and text.rpartition(".")[2] in DRAWS
            if SHARED.match(text) or (drawn and "generator" not in {k.arg for k in call.keywords}):
                shared.append(f"{name(path)}:{call.lineno} {text}")
    assert shared == []
    assert SHARED.match("np.random.rand") and SHARED.match("random.random") and SHARED.match("time.time")
    assert not SHARED.match("np.random.default_rng") and not SHARED.match("random.Random")
