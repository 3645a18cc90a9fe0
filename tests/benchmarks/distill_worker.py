# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Distils tiny models as the baselines do, and writes down what test_modelopt_baseline.py asserts.

python -m tests.benchmarks.distill_worker FOLDER
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.texts import library_text

LENGTH, SEQUENCES = 64, 4
COMMON: dict[str, Any] = {"seq_length": LENGTH, "micro_batch_size": 2, "global_batch_size": 2}
WIDTHS = {"hidden": 96, "ffn": 352, "mamba_heads": 12, "mamba_head_dim": 12}
LAYERS = 10


def main(folder: Path) -> None:
    import torch

    from benchmarks.study.modelopt_baseline import distill
    from benchmarks.study.nemo_runs import dense, launch, write_checkpoint
    from nemo_elastic.data.build import build_data
    from nemo_elastic.demo.quiet import quiet
    from nemo_elastic.formats.megatron.stored import read_shapes
    from nemo_elastic.hosts.nemo.tiny.recipe import tiny_recipe

    quiet()
    torch.set_num_threads(1)
    data = folder / "data"
    build_data(data, [library_text(folder / "text")], vocab=512, held_out_problems=4)
    parent = launch(
        tiny_recipe(data, folder / "parent", steps=6, warmup_steps=1, lr=1e-2, **COMMON), folder / "parent"
    )
    shape = read_shapes(parent).parent
    plain = dense(parent, shape)
    tokens = torch.randint(512, (2, 33), generator=torch.Generator().manual_seed(0))
    record: dict[str, Any] = {}
    for name, member in (("full", shape.full), ("small", shape.uniform(range(LAYERS), **WIDTHS))):
        place, out = folder / f"place_{name}", folder / name
        sizes = replace(shape, pattern=member.pattern, **(WIDTHS if name == "small" else {}))
        out.mkdir()
        write_checkpoint(out, sizes, plain.submodel(member).state_dict(), parent, place)
        written = read_shapes(out).parent
        with torch.no_grad():
            difference = (plain(tokens, member) - dense(out, written)(tokens)).abs().max()
        record[name] = {"same": written == sizes, "difference": float(difference)}
        place = folder / f"distilled_{name}"
        short = {"steps": 2, "warmup_steps": 1, "lr": 1e-3, "eval_sequences": SEQUENCES}
        last = distill(out, parent, place, tiny_recipe(data, place, label=place.name, **short, **COMMON))
        lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
        record[name] |= {
            "losses": [x["reduced_train_loss"] for x in lines if x["kind"] == "step"],
            "pattern": [written.pattern, read_shapes(last).parent.pattern],
        }
    (folder / "facts.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
