# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Endless files and harmful sizes, counts and depths, read within limits that the kernel holds: see test_bombs.py."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.manifest import FILE, Family
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checksums import CHECKSUMS_FILE, read_checksums
from nemo_elastic.formats.folders import read_shapes
from nemo_elastic.formats.hf.config import to_hf_config
from nemo_elastic.formats.hf.reading import open_folder, open_shard
from nemo_elastic.io.read import read_json
from tests.shapes import MOE, PARENT

#: what one file of each kind may take beside the libraries, all of them together for the seconds
MEMORY, SECONDS = 2 * 2**30, 120
FAMILY = Family.of(PARENT, {"full": PARENT.full}).to_json()

#: name -> text of a block
BLOCKS = {
    "an alias of itself": "seed: &a [1, {b: *a}]",
    "an interpolation of itself": "seed: ${seed}",
    "depth": "[" * 100_000,
    "depth of mappings": "{a: " * 50_000,
    "depth of a block": "".join(" " * i + "a:\n" for i in range(600)),
    "length": "# \n" * 200_000,
    "a number": "seed: 0x" + "f" * 200_000,
    "a number to base 60": "seed: " + ":59" * 80_000,
}
#: name -> text of a JSON file
JSON = {
    "depth": "[" * 5_000_000,
    "closed depth": "[" * 100_000 + "]" * 100_000,
    "depth of mappings": '{"a":' * 1_000_000,
    "a number": "1" * 30_000_000,
    "a fraction": "0." + "1" * 30_000_000,
    "length": " " * (64 * 2**20 + 1),
}


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


def experts(place: Path) -> None:
    """Folders of one model with more experts, or other parts, than any file has: a tensor each."""
    config, many = to_hf_config(MOE, MOE.full), 2**31
    changes: dict[str, dict[str, Any]] = {
        "experts": {"n_routed_experts": many},
        "experts in many layers": {
            "hybrid_override_pattern": "E" * 9_000, "num_hidden_layers": 9_000, "n_routed_experts": 2**20,
        },
        "width of an expert": {"moe_intermediate_size": many},
        "width": {"hidden_size": many},
        "vocabulary": {"vocab_size": many},
        "groups": {"n_groups": many},
    }  # fmt: skip
    for name, change in changes.items():
        (place / "config.json").write_text(json.dumps(config | change))
        read(f"counts: {name}", lambda: open_folder(place))
    (place / "config.json").write_text(json.dumps(config))
    data = Family.of(MOE, {"full": MOE.full}).to_json()
    for size in ("experts", "experts_stripes", "hidden", "top_k"):
        (place / FILE).write_text(json.dumps(data | {"parent": data["parent"] | {size: many}}))
        read(f"counts: {size} of a family", lambda: open_folder(place))
    (place / FILE).unlink()


def nemo(place: Path) -> None:
    """Checkpoints of NeMo."""
    from nemo_elastic.formats.megatron.context_files import read_context
    from nemo_elastic.formats.megatron.stored import Stored, read_shapes
    from tests.hosts.nemo.checkpoints import store
    from tests.hosts.nemo.cutting import PARENT as WHOLE
    from tests.hosts.nemo.cutting import random_tensors
    from tests.hosts.nemo.poison import metadata_of

    folder = store(place / "nemo", WHOLE, WHOLE.full, random_tensors(WHOLE))
    path = folder / "weights" / ".metadata"
    whole = path.read_bytes()
    with path.open("wb") as file:
        file.truncate(2**28 + 1)
    read("metadata: length", lambda: Stored(folder))
    size = [2**20, 2**20]
    for what, length in {"larger than its file": 2**44, "larger than said": 900}.items():
        report = {"dtype": "float32", "size": size, "chunks": [[[0, 0], size]],
                "places": [["module.a", [0, 0], "__0_0.distcp", 0, length]]}  # fmt: skip
        path.write_bytes(metadata_of(report))
        read(f"metadata: a tensor {what}", lambda: Stored(folder).read("a"))
    path.write_bytes(whole)
    path.unlink()
    os.mkfifo(path)
    read("metadata: a pipe", lambda: Stored(folder))
    path.unlink()
    path.write_bytes(whole)
    for what, text in BLOCKS.items():
        if "interpolat" not in what and what != "length":
            report = f"{text}\nelastic: {{a: 1}}\nconfig: {{layernorm_epsilon: 1, gated_linear_unit: 1}}\n"
            (folder / "context" / "model.yaml").write_text(report)
            read(f"context: {what}", lambda: read_shapes(folder))
    (folder / "context" / "model.yaml").write_text("# \n" * 100_000)
    read("context: length", lambda: read_context(folder))
    (folder / "context" / "model.yaml").unlink()
    for what, text in JSON.items():
        (folder / "context" / "io.json").write_text(text)
        read(f"context: io.json: {what}", lambda: read_context(folder))


def read(what: str, reader: Callable[[], Any]) -> None:
    try:
        reader()
        print(f"{what}: READ")
    except ElasticError as refused:
        assert "\n" not in str(refused) and len(str(refused)) < 4100
        print(f"{what}: refused")
    sys.stdout.flush()


def main(place: Path) -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, mapped + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    for name, text in BLOCKS.items():
        (place / "block.yaml").write_text(text)
        read(f"block: {name}", lambda: ElasticConfig.load(place / "block.yaml"))
    for name, text in JSON.items():
        (place / "some.json").write_text(text)
        read(f"json: {name}", lambda: Subnet.from_json(read_json(place / "some.json"), PARENT))
    for name, text in families().items():
        (place / FILE).write_text(text)
        read(f"family: {name}", lambda: Family.load(place))
    (place / FILE).unlink()
    config = to_hf_config(PARENT, PARENT.full)
    layers = {"hybrid_override_pattern": "M" * 30_000_000, "num_hidden_layers": 30_000_000}
    (place / "config.json").write_text(json.dumps(config | layers))
    read("config: layers", lambda: read_shapes(place))
    experts(place)
    (place / "config.json").write_text("1" * 30_000_000)
    read("config: a number", lambda: read_shapes(place))
    (place / CHECKSUMS_FILE).write_text('{"algorithm": "crc32", "tensors": {' + '"a": "00000000", ' * 100_000 + "}}")
    read("checksums: twice", lambda: read_checksums(place))
    shape = b'{"a": {"shape": [' + b"9999999999999999999," * 100_000 + b"1]}}"
    for name, header in {"depth": b"[" * 1_000_000, "a shape": shape}.items():
        (place / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        read(f"weights: {name}", lambda: open_shard(place / "a.safetensors"))
    (place / "a.safetensors").write_bytes(b"\xff" * 8)
    read("weights: a header of 2^64 bytes", lambda: open_shard(place / "a.safetensors"))
    for name in ("endless.json", FILE, "config.json"):
        (place / name).unlink(missing_ok=True)
    os.symlink("/dev/zero", place / "endless.json")
    read("json: a device without an end", lambda: read_json(place / "endless.json"))
    nemo(place)
    print("whole")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
