# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The house keeps its own rules: headers, and nothing that follows from a clock."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEADER = (
    "# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors\n# SPDX-License-Identifier: Apache-2.0\n"
)
CODE = ("nemo_elastic", "tests", "benchmarks", "tools", "recipes", "docker")


def files(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name(path):
    return str(path.relative_to(ROOT))


def test_every_python_file_has_the_header():
    python = files(*CODE)
    assert len(python) > 10
    assert [name(p) for p in python if not p.read_text(encoding="utf-8").startswith(HEADER)] == []


#: calls that read a clock or a generator that everybody shares; `time.monotonic` measures, and decides nothing
SHARED = re.compile(
    r"(np|numpy)\.random\.(?!default_rng|Generator)|random\.(?!Random)|time\.time|datetime\..*(now|today)|uuid\."
)
DRAWS = {"rand", "randn", "randint", "randperm", "normal", "multinomial", "bernoulli"}


def test_what_is_random_follows_from_a_seed_and_nothing_from_a_clock():
    shared = []
    for path in files("nemo_elastic"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            text = ast.unparse(call.func)
            drawn = text.startswith("torch.") and text.rpartition(".")[2] in DRAWS
            if SHARED.match(text) or (drawn and "generator" not in {k.arg for k in call.keywords}):
                shared.append(f"{name(path)}:{call.lineno} {text}")
    assert shared == []
    assert SHARED.match("np.random.rand") and not SHARED.match("np.random.default_rng")
