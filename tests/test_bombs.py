# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Files made to hang a reader or to fill the memory are refused, within limits that the kernel holds.

python -m tests.test_bombs FOLDER: all of them, in this process, which has so little memory and time.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.manifest import FILE, Family
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checksums import CHECKSUMS_FILE, read_checksums
from nemo_elastic.formats.hf.config import to_hf_config
from nemo_elastic.formats.hf.reading import open_folder, open_shard
from nemo_elastic.io.read import read_json
from tests.shapes import MOE, PARENT

ROOT = Path(__file__).parents[1]
#: what one file of each kind may take beside the libraries, all of them together for the seconds
MEMORY, SECONDS = 2 * 2**30, 120
FAMILY = Family.of(PARENT, {"full": PARENT.full}).to_json()
#: more of something than any file has
MANY = 2**31
BLOCKS = {
    "an alias of itself": "seed: &a [1, {b: *a}]",
    "an interpolation of itself": "seed: ${seed}",
    "depth": "[" * 100_000,
    "a number": "seed: 0x" + "f" * 200_000,
}
JSON = {"depth": "[" * 5_000_000, "a number": "1" * 30_000_000}


def families() -> dict[str, str]:
    """Name -> text of an `elastic.json`."""
    full, axes = FAMILY["members"]["full"], FAMILY["axes"]
    layer = {"index": 0, "type": "mamba", "heads": 2, "head_dim": 1}
    hidden = {"choices": list(range(3_000_000)), "per_layer": False, "blocks": 1}
    changes = {
        "layers of the parent": {"parent": FAMILY["parent"] | {"pattern": "M" * 30_000_000}},
        "layers of a member": {"members": {"full": full | {"subnet": {"hidden": 1, "layers": [layer] * 300_000}}}},
        "choices": {"axes": axes | {"hidden": hidden}},
    }
    return {name: json.dumps(FAMILY | change) for name, change in changes.items()}


def folders() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name -> the `config.json` of a model of more experts, layers or channels than any file has: a tensor each."""
    config = to_hf_config(MOE, MOE.full)
    for name, change in {
        "experts": {"n_routed_experts": MANY},
        "experts in many layers": {
            "hybrid_override_pattern": "E" * 9_000, "num_hidden_layers": 9_000, "n_routed_experts": 2**20,
        },
        "layers": {"hybrid_override_pattern": "M" * 30_000_000, "num_hidden_layers": 30_000_000},
        "width": {"hidden_size": MANY},
    }.items():  # fmt: skip
        yield name, config | change


def bombs(place: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is wrong with a file that has just been written, and its reader."""
    for what, text in BLOCKS.items():
        (place / "block.yaml").write_text(text)
        yield f"block: {what}", lambda: ElasticConfig.load(place / "block.yaml")
    for what, text in JSON.items():
        (place / "some.json").write_text(text)
        yield f"JSON: {what}", lambda: Subnet.from_json(read_json(place / "some.json"), PARENT)
    for what, text in families().items():
        (place / FILE).write_text(text)
        yield f"family: {what}", lambda: Family.load(place)
    (place / FILE).unlink()
    for what, config in folders():
        (place / "config.json").write_text(json.dumps(config))
        yield f"config: {what}", lambda: open_folder(place)
    (place / CHECKSUMS_FILE).write_text('{"algorithm": "crc32", "tensors": {' + '"a": "00000000", ' * 100_000 + "}}")
    yield "checksums: twice", lambda: read_checksums(place)
    header = b'{"a": {"shape": [' + b"9999999999999999999," * 100_000 + b"1]}}"
    (place / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    yield "weights: a shape", lambda: open_shard(place / "a.safetensors")


def test_bombs_are_refused(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_bombs", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) > 14, (lines[-3:], done.stderr[-2000:])
    assert [line for line in lines if not line.endswith(": refused")] == []


def main(place: Path) -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, mapped + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    for what, reader in bombs(place):
        try:
            reader()
            print(f"{what}: READ", flush=True)
        except ElasticError as refused:
            assert "\n" not in str(refused) and len(str(refused)) < 4100
            print(f"{what}: refused", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
