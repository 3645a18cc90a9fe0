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

import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.manifest import FILE, Family
from nemo_elastic.errors import ElasticError, bad
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
    "depth of a block": "".join(" " * i + "a:\n" for i in range(600)),
    "a number": "seed: 0x" + "f" * 200_000,
    "a number to base 60": "seed: " + ":59" * 80_000,
}
JSON = {"depth": "[" * 5_000_000, "depth of mappings": '{"a":' * 1_000_000, "a number": "1" * 30_000_000}


def families() -> dict[str, str]:
    """Name -> text of an `elastic.json`."""
    full, axes = FAMILY["members"]["full"], FAMILY["axes"]
    layer = {"index": 0, "type": "mamba", "heads": 2, "head_dim": 1}
    hidden = {"choices": list(range(3_000_000)), "per_layer": False, "blocks": 1}
    changes = {
        "layers of the parent": {"parent": FAMILY["parent"] | {"pattern": "M" * 30_000_000}},
        "layers of a member": {"members": {"full": full | {"subnet": {"hidden": 1, "layers": [layer] * 300_000}}}},
        "names": {"members": {"x" * 30_000_000: full}},
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
        "width of an expert": {"moe_intermediate_size": MANY},
        "width": {"hidden_size": MANY},
        "groups": {"n_groups": MANY},
    }.items():  # fmt: skip
        yield name, config | change


def nemo(place: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Checkpoints of NeMo."""
    from nemo_elastic.formats.megatron.context_files import read_context
    from nemo_elastic.formats.megatron.stored import Stored
    from nemo_elastic.formats.megatron.stored import read_shapes as read_nemo
    from tests.hosts.nemo.checkpoints import store
    from tests.hosts.nemo.cutting import PARENT as WHOLE
    from tests.hosts.nemo.cutting import random_tensors
    from tests.hosts.nemo.poison import metadata_of

    folder = store(place / "nemo", WHOLE, WHOLE.full, random_tensors(WHOLE))
    path, context, size = folder / "weights" / ".metadata", folder / "context", [2**20, 2**20]
    whole = path.read_bytes()
    with path.open("wb") as file:
        file.truncate(2**28 + 1)
    yield "metadata: length", lambda: Stored(folder)
    for what, length in {"larger than its file": 2**44, "larger than said": 900}.items():
        report = {"dtype": "float32", "size": size, "chunks": [[[0, 0], size]],
                  "places": [["module.a", [0, 0], "__0_0.distcp", 0, length]]}  # fmt: skip
        path.write_bytes(metadata_of(report))
        yield f"metadata: a tensor {what}", lambda: Stored(folder).read("a")
    path.write_bytes(whole)
    for what in ("depth", "a number"):
        (context / "model.yaml").write_text(f"{BLOCKS[what]}\nconfig: {{layernorm_epsilon: 1}}\n")
        yield f"model.yaml: {what}", lambda: read_nemo(folder)
    (context / "model.yaml").unlink()
    for what, text in JSON.items():
        (context / "io.json").write_text(text)
        yield f"io.json: {what}", lambda: read_context(folder)


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
    yield from nemo(place)


def test_bombs_are_refused(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_bombs", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) > 25, (lines[-3:], done.stderr[-2000:])
    assert [line for line in lines if not line.endswith(": refused")] == []


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
    with pytest.raises(ElasticError, match="contains itself"):
        read_io_json(tmp_path / "io.json", "model")


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
