# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Are found shapes worth it? The demo's members against the most even shapes of the same cost, trained alike.

Takes the folder of a finished demo (parent, ranking, members), trains both stages again with uniform shapes on the
same data, ranking, steps, seeds and teacher, and evaluates both in one table. Without a folder it runs the demo first.

    python -m benchmarks.bench_shapes [--run runs/demo] [--markdown FILE]
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any


def uniform_block(block: dict[str, Any], ranking: Path) -> dict[str, Any]:
    """The demo's block with its ranking and without search and router: the most even cuts."""
    return block | {"router": None, "search": None, "ranking": str(ranking)}


def train_uniform(run: Path, settings: Any) -> Path:
    """Both stages with uniform shapes; returns the family folder."""
    from nemo_elastic.config import ElasticConfig
    from nemo_elastic.data.folder import DataFolder
    from nemo_elastic.demo.quiet import quiet

    quiet()
    from nemo_elastic.demo.train import train_stage
    from nemo_elastic.nemo.family import export_family
    from nemo_elastic.nemo.shape import parent_of
    from nemo_elastic.nemo.tiny import TinyNemotronH
    from nemo_elastic.nemo.tiny_recipe import last_checkpoint

    out = run / "uniform"
    shutil.rmtree(out, ignore_errors=True)
    parent = last_checkpoint(run / "parent")
    block = uniform_block(settings.block, run / "stage1" / "elastic" / "ranking")
    sampling = settings.stage2_block()["sampling"]
    first = train_stage(1, run / "data", out / "stage1", settings, parent, block=block)
    late = block | {"sampling": sampling}
    second = train_stage(2, run / "data", out / "stage2", settings, parent, first, block=late)
    config = ElasticConfig.from_dict(block)
    shape = config.parent_shape(parent_of(TinyNemotronH(), settings.vocab))
    export_family(second, out / "family", shape, config, tokenizer_dir=DataFolder.open(run / "data").tokenizer_dir)
    return out / "family"


def compare(run: Path, settings: Any) -> list[dict[str, Any]]:
    """Rows {member, found, uniform, untrained …} with held-out losses in nats per token."""
    from nemo_elastic.demo.evaluate import evaluate

    family = train_uniform(run, settings)
    found = {m["name"]: m for m in json.loads((run / "metrics.json").read_text())["members"]}
    uniform = evaluate(run / "data", family, run / "sorted", run / "parent_hf", settings, print)
    rows = []
    for u in uniform[1:]:
        f = found[u["name"]]
        rows.append(
            {
                "member": u["name"],
                "parameters found": f["parameters"],
                "parameters uniform": u["parameters"],
                "untrained found": f["untrained_loss"],
                "untrained uniform": u["untrained_loss"],
                "found": f["loss"],
                "uniform": u["loss"],
                "gain": u["loss"] - f["loss"],
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [f"{v:,}" if isinstance(v, int) else f"{v:.3f}" if isinstance(v, float) else v for v in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--short", action="store_true", help="the run is a short demo")
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    from nemo_elastic.demo.run import Demo
    from nemo_elastic.demo.settings import FULL, SHORT

    settings = SHORT if args.short else FULL
    if not (args.run / "metrics.json").is_file():
        Demo(args.run, settings).run()
    rows = compare(args.run.resolve(), settings)
    print(table(rows))
    if args.markdown:
        args.markdown.write_text(table(rows))


if __name__ == "__main__":
    main()
