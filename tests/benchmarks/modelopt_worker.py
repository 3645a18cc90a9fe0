# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Prunes and distils a tiny model as the baseline does, and writes down what test_modelopt_baseline.py asserts.

python -m tests.benchmarks.modelopt_worker FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.texts import library_text

LENGTH, SEQUENCES = 64, 4
COMMON: dict[str, Any] = {"seq_length": LENGTH, "micro_batch_size": 2, "global_batch_size": 2}
FULL = {
    "target_hidden_size": 128,
    "target_ffn_hidden_size": 512,
    "target_mamba_num_heads": 16,
    "target_mamba_head_dim": 16,
    "target_num_attention_heads": 4,
    "target_num_query_groups": 2,
    "target_num_layers": 12,
}
SMALL = {
    "target_hidden_size": 96,
    "target_ffn_hidden_size": 352,
    "target_mamba_num_heads": 12,
    "target_mamba_head_dim": 12,
    "target_num_attention_heads": 2,
    "target_num_query_groups": 2,
    "target_num_layers": 10,
}


def main(folder: Path) -> None:
    import torch
    from nemo.lightning import io
    from nemo.lightning.ckpt_utils import ckpt_to_context_subdir

    from benchmarks.study.modelopt_baseline import distill, facts, prune
    from benchmarks.study.nemo_runs import dense, launch
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
    cut = {"data": data, "seq_length": LENGTH, "samples": 8}
    full = prune(parent, folder / "full", targets=FULL, **cut)
    small = prune(parent, folder / "small", targets=SMALL, **cut)
    record: dict[str, Any] = {"pruned": facts(small)}

    models = {path.name: dense(path, read_shapes(path).parent) for path in (parent, full)}
    tokens = torch.randint(512, (2, 33), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = (m(tokens) for m in models.values())
    record["logits"] = [float((one - other).abs().max()), float(one.abs().max())]
    changed = {
        name for (name, a), b in zip(models[parent.name].named_parameters(), models["full"].parameters(), strict=True)
        if not torch.equal(a, b)
    }  # fmt: skip
    record["sorted"] = sorted(changed)

    loaded: Any = io.load_context(path=ckpt_to_context_subdir(small), subpath="model")
    record["class"] = type(loaded).__name__
    record["config"] = {f.removeprefix("target_"): getattr(loaded.config, f.removeprefix("target_")) for f in SMALL}
    record["shape"] = read_shapes(small).parent.to_json()
    record["tokens"] = same_tokens(data, folder)
    again = folder / "again"
    record["again"] = search_left(small, parent, again)
    for student in (full, small, again):
        out = folder / f"distilled_{student.name}"
        short = {"steps": 2, "warmup_steps": 1, "lr": 1e-3, "eval_sequences": SEQUENCES}
        last = distill(student, parent, out, tiny_recipe(data, out, label=out.name, **short, **COMMON))
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        record[f"distilled_{student.name}"] = {
            "losses": [x["reduced_train_loss"] for x in lines if x["kind"] == "step"],
            "heldout": [x["losses"]["parent"] for x in lines if x["kind"] == "heldout"],
            "before": heldout(student, data, LENGTH, SEQUENCES),
            "after": heldout(last, data, LENGTH, SEQUENCES),
            "pattern": read_shapes(last).parent.pattern,
        }
    (folder / "facts.json").write_text(json.dumps(record))


def search_left(small: Path, parent: Path, out: Path) -> float:
    """Write this model as what the strongest baseline's search leaves is written; returns how far logits are apart."""
    import torch

    from benchmarks.study.minitron_baseline import write_checkpoint
    from benchmarks.study.nemo_runs import dense
    from nemo_elastic.formats.adapter import from_parts
    from nemo_elastic.formats.megatron.metadata import PREFIX
    from nemo_elastic.formats.megatron.stored import plain_tensors, read_shapes

    left, shape = out.with_name("left"), read_shapes(small).parent
    left.mkdir()
    tensors = {name.removeprefix(PREFIX): value for name, value in plain_tensors(small).items()}
    torch.save(from_parts(shape, shape.full, tensors), left / "weights.pt")
    (left / "pruned.json").write_text(json.dumps({"sizes": shape.to_json()}))
    out.mkdir()
    write_checkpoint(out, left, parent, left)
    assert read_shapes(out).parent == shape
    tokens = torch.randint(512, (2, 33), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float((dense(small, shape)(tokens) - dense(out, shape)(tokens)).abs().max())


def same_tokens(data: Path, folder: Path) -> bool:
    """Whether the strongest baseline measures and scores on the first tokens of a run, as our search does."""
    import fiddle

    from benchmarks.study.minitron_baseline import training_tokens
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
