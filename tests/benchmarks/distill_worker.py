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
    from nemo.lightning import io
    from nemo.lightning.ckpt_utils import ckpt_to_context_subdir

    from benchmarks.study.modelopt_baseline import distill, write_checkpoint
    from benchmarks.study.nemo_runs import dense, launch
    from nemo_elastic.data.build import build_data
    from nemo_elastic.demo.quiet import quiet
    from nemo_elastic.formats.adapter import to_megatron
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
    record: dict[str, Any] = {"tokens": same_tokens(data, folder)}
    for name, member in (("full", shape.full), ("small", shape.uniform(range(LAYERS), **WIDTHS))):
        left, out = folder / f"left_{name}", folder / name  # as the process that prunes leaves a model
        sizes = replace(shape, pattern=member.pattern, **(WIDTHS if name == "small" else {}))
        left.mkdir()
        torch.save(to_megatron(shape, member, plain.submodel(member).state_dict()), left / "weights.pt")
        (left / "pruned.json").write_text(json.dumps({"sizes": sizes.to_json()}))
        out.mkdir()
        write_checkpoint(out, left, parent, left)
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
            "heldout": [x["losses"]["parent"] for x in lines if x["kind"] == "heldout"],
            "before": heldout(out, data, LENGTH, SEQUENCES),
            "after": heldout(last, data, LENGTH, SEQUENCES),
            "pattern": [written.pattern, read_shapes(last).parent.pattern],
        }
    loaded: Any = io.load_context(path=ckpt_to_context_subdir(folder / "small"), subpath="model")
    config = loaded.config
    record["class"] = type(loaded).__name__
    record["config"] = {
        "hidden": config.hidden_size, "ffn": config.ffn_hidden_size, "mamba_heads": config.mamba_num_heads,
        "mamba_head_dim": config.mamba_head_dim, "layers": config.num_layers,
    }  # fmt: skip
    (folder / "facts.json").write_text(json.dumps(record))


def same_tokens(data: Path, folder: Path) -> bool:
    """Whether the baselines measure and score on the first tokens of a run, as our search does."""
    import fiddle

    from benchmarks.study.modelopt_baseline import training_tokens
    from nemo_elastic.hosts.nemo.tiny.recipe import tiny_recipe
    from nemo_elastic.megatron.gpt_tokens import dataset_tokens

    run: Any = fiddle.build(tiny_recipe(data, folder / "run", steps=6, seed=7, **COMMON).data)
    run.build(6, trainer_val_check_interval=6, trainer_limit_val_batches=0, trainer_limit_test_batches=0)
    ours = dataset_tokens(run._train_ds, SEQUENCES)[0]
    theirs = training_tokens(data, LENGTH, 2 * SEQUENCES, 7)
    return bool((ours.numpy() == theirs[:SEQUENCES]).all())


def heldout(checkpoint: Path, data: Path, seq_length: int, sequences: int) -> float:
    """Held-out cross-entropy in nats per token of a dense checkpoint, on the tokens that our runs validate on.

    Those are the first validation sequences of a run with this data order; the model is the plain one in torch.
    """
    import fiddle
    import torch
    import torch.nn.functional as F

    from benchmarks.study.nemo_runs import dense
    from nemo_elastic.formats.megatron.stored import read_shapes
    from nemo_elastic.hosts.nemo.folder_data import pretraining_data
    from nemo_elastic.megatron.gpt_tokens import dataset_tokens

    config = pretraining_data(
        data, seq_length=seq_length, micro_batch_size=1, global_batch_size=1, num_train_samples=1
    )
    module = fiddle.build(config)
    module.build(1, trainer_val_check_interval=1, trainer_limit_val_batches=0, trainer_limit_test_batches=0)
    tokens, labels = dataset_tokens(module._validation_ds, sequences)
    model = dense(checkpoint, read_shapes(checkpoint).parent)
    with torch.no_grad():
        losses = [
            F.cross_entropy(model(t).flatten(0, 1), y.flatten(), reduction="sum")
            for t, y in zip(tokens.split(8), labels.split(8), strict=True)
        ]
    return float(sum(losses)) / labels.numel()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
