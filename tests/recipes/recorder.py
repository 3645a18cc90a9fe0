# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A callback that writes down what a stage starts and ends with, one file per rank; it runs inside the jobs."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from megatron.core import parallel_state

from nemo_elastic.hosts.nemo.model import ElasticMambaModel
from tests.parallel.nemo import digest


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


class StateRecorder(pl.Callback):
    """Digests of a stage's state, its lengths and its samples, in FOLDER/stageN-rankM.json.

    Args:
        folder: where to write.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.record: dict[str, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not isinstance(pl_module, ElasticMambaModel):
            return
        core = pl_module.host.core
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        self.record = {
            "start": state_of(trainer, pl_module),
            "members": [m.to_json() for m in pl_module.members.get()],
            "frozen": pl_module.members.is_frozen,
            "length": [core.config.recompute_granularity, data.seq_length, pl_module.config.seq_length],
            "sampling": pl_module.elastic_config.weights(),
            "parallel": [
                parallel_state.get_tensor_model_parallel_world_size(),
                parallel_state.get_data_parallel_world_size(),
                core.config.sequence_parallel,
            ],
            "lr": [g["lr"] for g in trainer.optimizers[0].param_groups],
            # one that every rank holds, and the first row of one that is cut in two
            "norm": core.decoder.final_norm.weight.tolist(),
            "row": core.decoder.layers[1].mlp.linear_fc2.weight[0].tolist(),
        }

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.record:
            self.record |= {
                "end": state_of(trainer, pl_module),
                "end_members": [m.to_json() for m in pl_module.members.get()],
                "end_lr": [g["lr"] for g in trainer.optimizers[0].param_groups],
                "teacher_moved": digest(dict(pl_module.host.frozen.named_parameters()))
                != self.record["start"]["teacher"],
            }
            out = Path(self.folder) / f"stage{pl_module.stage}-rank{trainer.global_rank}.json"
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(self.record))
