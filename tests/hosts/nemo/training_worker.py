# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Trains a tiny family through NeMo in a process of its own and writes down what test_training.py asserts.

python -m tests.hosts.nemo.training_worker FOLDER
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from tests.texts import library_text

BLOCK = {
    "budgets": [{"name": "full"}, {"name": "large", "ratio": 0.75}, {"name": "small", "ratio": 0.5}],
    "axes": {
        "hidden": [128, 112, 96, 80, 64],
        "ffn": {"choices": [512, 384, 256, 128], "per_layer": True, "stripes": 4},
        "mamba_heads": {"choices": [16, 12, 8], "per_layer": True},
        "mamba_head_dim": [16, 12, 8],
        "attention_heads": {"choices": [4, 2], "per_layer": True},
        "depth": [12, 11, 10, 9, 8],
    },
    "importance": {"samples": 4, "depth_samples": 2},
    "shapes": "router",
    "router": {"freeze_at": 0.5, "hidden": 16},
    "seed": 1,
}
STEPS = 8


def digest(tensors: dict[str, Any]) -> str:
    """Hash of named tensors."""
    h = hashlib.sha256()
    for name in sorted(tensors):
        h.update(name.encode() + tensors[name].detach().float().cpu().numpy().tobytes())
    return h.hexdigest()


def state_of(trainer: Any, model: Any) -> dict[str, str]:
    """Digests of weights, router, members and optimizer."""
    named = {k: v for k, v in model.host.core.state_dict().items() if hasattr(v, "detach")}
    optimizer = trainer.optimizers[0].mcore_optimizer.optimizer
    moments = {
        f"{g}.{i}.{k}": optimizer.state[p][k]
        for g, group in enumerate(optimizer.param_groups)
        for i, p in enumerate(group["params"])
        for k in ("exp_avg", "exp_avg_sq")
        if p in optimizer.state
    }
    return {
        "weights": digest({k: v for k, v in named.items() if not k.startswith("elastic.")}),
        "router": digest({k: v for k, v in named.items() if k.startswith("elastic.router.")}),
        "members": digest(
            {k: v for k, v in named.items() if k.startswith("elastic.") and not k.startswith("elastic.router.")}
        ),
        "optimizer": digest(moments),
        "moments": str(len(moments)),
        "teacher": digest(dict(model.host.frozen.named_parameters())),
    }


def main(folder: Path) -> None:
    import fiddle
    import lightning.pytorch as pl
    import nemo_run as run
    import torch
    from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator

    from nemo_elastic.core.family import Subnet
    from nemo_elastic.data.build import build_data
    from nemo_elastic.demo.quiet import quiet
    from nemo_elastic.formats.megatron.stored import plain_tensors
    from nemo_elastic.hosts.nemo.host import NemoHost
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint, tiny_recipe
    from nemo_elastic.nn.gates import Gates

    quiet()
    torch.set_num_threads(1)
    text = library_text(folder / "text")
    build_data(folder / "data", [text], vocab=512, held_out_problems=4)
    facts: dict[str, Any] = {"choices": [], "steps": STEPS}

    def launch(recipe: Any, callback: Any = None) -> Path:
        destroy_num_microbatches_calculator()
        task = fiddle.build(recipe)
        if callback is not None:
            task.keywords["trainer"].callbacks.append(callback)
        task()
        return last_checkpoint(recipe.log.explicit_log_dir)

    class Recorder(pl.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            facts[f"start{module.stage}"] = state_of(trainer, module)

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            state = module.members.router
            facts.setdefault(f"router{module.stage}", []).append(digest(dict(state.named_parameters())))

        def on_train_end(self, trainer: Any, module: Any) -> None:
            facts[f"end{module.stage}"] = state_of(trainer, module)
            facts[f"members{module.stage}"] = [m.to_json() for m in module.members.get()]
            facts[f"lr{module.stage}"] = [g["lr"] for g in trainer.optimizers[0].param_groups]

    student = NemoHost.student

    def watched(self: Any, tokens: Any, choice: Any = None, documents: Any = None) -> Any:
        if torch.is_grad_enabled():
            kind = {type(None): "whole", Subnet: "sliced", Gates: "soft"}[type(choice)]
            facts["choices"].append([self.module.stage, self.step, kind])
        return student(self, tokens, choice, documents)

    NemoHost.student = watched

    def recipe(out: str, length: int, split: str = "train") -> run.Partial:
        r = tiny_recipe(folder / "data", folder / out, steps=STEPS, seq_length=length, micro_batch_size=2,
                        global_batch_size=4, split=split, label=out, eval_every=0, eval_sequences=4)  # fmt: skip
        r.model.config.vocab_size = 512
        return r

    parent = launch(recipe("parent", 64))
    facts["parent"] = digest({k: v for k, v in plain_tensors(parent).items() if "_extra_state" not in k})
    first = apply_elastic(recipe("one", 64), BLOCK, teacher=str(parent), total_steps=2 * STEPS, verbose=False,
                          out=str(folder / "one" / "elastic"))  # fmt: skip
    one = launch(first, Recorder())
    sampled = BLOCK | {"sampling": {"full": 1, "large": 1, "small": 2}}
    second = apply_elastic(recipe("two", 128, "train_long"), sampled, teacher=str(parent), stage=2, previous=str(one),
                           done_steps=STEPS, total_steps=2 * STEPS, verbose=False)  # fmt: skip
    two = launch(second, Recorder())
    facts["saved"] = sorted({k.split(".")[1] for k in plain_tensors(two)})
    facts["metrics"] = [json.loads(x) for x in (folder / "one" / "metrics.jsonl").read_text().splitlines()]
    facts["frozen"] = json.loads((folder / "one" / "elastic" / "members.json").read_text())
    (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
