# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a deployer gets: `pip install .` without extras in a fresh environment, and what must work and be quick there.

Usage: python tools/core_install.py [argument for pip...]

Installs into a temporary folder, makes a tiny parent there with numpy, a family of it, cuts and verifies members, and
holds the times of `import nemo_elastic` and `nemo-elastic --help` against their limits. Exit code 1 and one line say
what does not hold.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: None of these may come along.
HEAVY = ("torch", "transformers", "tokenizers", "lightning", "nemo", "megatron", "datasets", "matplotlib")
#: seconds, the best of so many tries
IMPORT_LIMIT, HELP_LIMIT, TRIES = 0.3, 1.0, 3
BLOCK = """
elastic:
  budgets: [{name: big}, {name: half, ratio: 0.5}]
  axes: {hidden: [16, 12, 8], ffn: [16, 8, 4], depth: [5, 4, 3]}
"""
#: Runs in the fresh environment: a plain Nemotron-H of random numbers, written by numpy alone.
MAKE_PARENT = """
import json, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
out = Path(sys.argv[1])
out.mkdir()
hidden, vocab, ffn, heads, size, groups, state, kernel, queries, keys, width = 16, 32, 16, 6, 4, 2, 4, 4, 4, 2, 4
inner, bc = heads * size, 2 * groups * state
layer = {
    "M": {"in_proj.weight": (2 * inner + bc + heads, hidden), "conv1d.weight": (inner + bc, 1, kernel),
          "conv1d.bias": (inner + bc,), "A_log": (heads,), "D": (heads,), "dt_bias": (heads,), "norm.weight": (inner,),
          "out_proj.weight": (hidden, inner)},
    "-": {"up_proj.weight": (ffn, hidden), "down_proj.weight": (hidden, ffn)},
    "*": {"q_proj.weight": (queries * width, hidden), "k_proj.weight": (keys * width, hidden),
          "v_proj.weight": (keys * width, hidden), "o_proj.weight": (hidden, queries * width)},
}
pattern = "M-M*-"
shapes = {"backbone.embeddings.weight": (vocab, hidden), "backbone.norm_f.weight": (hidden,),
          "lm_head.weight": (vocab, hidden)}
for i, kind in enumerate(pattern):
    shapes[f"backbone.layers.{i}.norm.weight"] = (hidden,)
    shapes |= {f"backbone.layers.{i}.mixer.{name}": shape for name, shape in layer[kind].items()}
rng = np.random.default_rng(0)
save_file({name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}, out / "model.safetensors")
(out / "config.json").write_text(json.dumps({
    "model_type": "nemotron_h", "hybrid_override_pattern": pattern, "hidden_size": hidden, "vocab_size": vocab,
    "intermediate_size": ffn, "mamba_num_heads": heads, "mamba_head_dim": size, "n_groups": groups,
    "ssm_state_size": state, "conv_kernel": kernel, "num_attention_heads": queries, "num_key_value_heads": keys,
    "head_dim": width}))
"""


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
    """Hold the two times against their limits."""
    timed = "import time; t = time.perf_counter(); import nemo_elastic; print(time.perf_counter() - t)"
    took = {"import nemo_elastic": [], "nemo-elastic --help": []}
    for _ in range(TRIES):
        took["import nemo_elastic"].append(float(call(binaries / "python", "-c", timed)))
        start = time.perf_counter()
        call(binaries / "nemo-elastic", "--help")
        took["nemo-elastic --help"].append(time.perf_counter() - start)
    for (what, times), limit in zip(took.items(), (IMPORT_LIMIT, HELP_LIMIT), strict=True):
        print(f"{what}: {min(times):.3f} s, the best of {TRIES}; the limit is {limit} s")
        if min(times) >= limit:
            raise Failed(f"{what} takes {min(times):.3f} s; the limit is {limit} s")


def use(binaries: Path, place: Path) -> None:
    """Make a family, look at it, cut it, check it."""
    cli = binaries / "nemo-elastic"
    call(binaries / "python", "-c", MAKE_PARENT, place / "parent")
    (place / "elastic.yaml").write_text(BLOCK)
    family, half = place / "family", place / "half"
    call(cli, "init", place / "parent", "--config", place / "elastic.yaml", "--out", family)
    call(cli, "inspect", family)
    members = json.loads(call(cli, "inspect", family, "--json"))["members"]
    sizes = {name: member["parameters"] for name, member in members.items()}
    if list(sizes) != ["big", "half"] or not 0 < sizes["half"] <= sizes["big"] / 2:
        raise Failed(f"inspect: members big and half were asked for, it has {sizes}")
    call(cli, "verify", family)
    call(cli, "slice", family, "--member", "half", "--out", half)
    call(cli, "slice", family, "--params", sizes["big"], "--out", place / "big")
    for folder, name in ((half, "half"), (place / "big", "big")):
        call(cli, "verify", folder)
        report = json.loads(call(cli, "verify", folder, "--json"))
        logits = [check for check in report["checks"] if check["name"] == "logits"]
        if not report["ok"] or [check["ok"] for check in logits] != [None]:
            raise Failed(f"verify: {folder.name} must pass, with the run of the model skipped: {report}")
        if json.loads(call(cli, "inspect", folder, "--json"))["members"][name]["parameters"] != sizes[name]:
            raise Failed(f"inspect: {folder.name} has not the {sizes[name]} parameters of {name}")
    line = call(cli, "slice", family, "--member", "half", "--out", half, code=2)
    if "already exists" not in line:
        raise Failed(f"slice: an output in the way was reported as: {line}")
    line = call(cli, "verify", family, "--forward", code=2)
    if f"{ROOT}[runtime]" not in line:
        raise Failed(f"verify --forward: that torch is missing was reported as: {line}")
    commands = (("demo", "--out", place / "demo"), ("train", "--factory", "x"), ("eval", family, "--data", place))
    for command in commands:
        line = call(cli, *command, code=2)
        if f"pip install '{ROOT}[" not in line or (place / "demo").exists():
            raise Failed(f"{command[0]}: that an extra is missing was reported as: {line}")
    recipes = (
        "from nemo_elastic import PAPER, Curriculum, ElasticConfig, Stage\n"
        "from nemo_elastic.recipes.families import FAMILIES\n"
        "print(*(name for name, row in FAMILIES.items() if ElasticConfig.load(row.block)))"
    )
    names = call(binaries / "python", "-c", recipes).split()
    line = call(cli, "plan", "--recipe", "nowhere", code=2)
    if not names or ", ".join(names) not in line:
        raise Failed(f"plan: a wrong name must be reported with {names}: {line}")
    line = call(binaries / "python", "-c", "from nemo_elastic import load_family", code=1)
    if f"pip install '{ROOT}[runtime]'" not in line:
        raise Failed(f"load_family: that torch is missing was reported as: {line}")
    print(f"init, inspect, verify and slice work: {sizes}; what needs an extra names it")


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
