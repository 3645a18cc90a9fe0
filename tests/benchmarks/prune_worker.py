# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Lets ModelOpt prune a tiny model, in Megatron-Bridge's environment."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

LENGTH, SEQUENCES = 64, 4
#: widths and depth to prune to
WIDTHS = {"hidden_size": 96, "ffn_hidden_size": 352, "mamba_num_heads": 12, "mamba_head_dim": 12, "num_layers": 9}


def main(folder: Path) -> None:
    from benchmarks.study.modelopt_layers import prepare_modelopt

    prune = prepare_modelopt()
    import numpy as np
    import torch

    from benchmarks.study.modelopt_prune import cut
    from benchmarks.study.modelopt_targets import FIELDS
    from nemo_elastic.core.family import Parent
    from nemo_elastic.megatron.dist_checkpoint import write_megatron_checkpoint
    from nemo_elastic.nn.nemotron_h import NemotronH
    from tests.support.states import from_megatron

    torch.set_num_threads(1)
    torch.manual_seed(0)
    parent = Parent("M-M*-M-M*-", 128, 256, 512, 16, 16, 4, 16, 4, 8, 2, 16)
    plain = NemotronH.random(parent)
    checkpoint = write_megatron_checkpoint(folder / "parent", parent, parent.full, plain.state_dict())
    tokens = torch.randint(256, (SEQUENCES, LENGTH))
    np.save(folder / "tokens.npy", tokens)
    sizes = {
        "full": {name: getattr(parent, field) for name, field in FIELDS.items()},
        "given": WIDTHS,
        "layers": {"num_layers": WIDTHS["num_layers"]},
    }
    record: dict[str, Any] = {"parent": parent.to_json()}
    for name, wanted in sizes.items():
        job = {"parent": str(checkpoint), "out": str(folder / name), "sizes": wanted,
               "importance": str(folder / "tokens.npy"), "scores": str(folder / "scores")}  # fmt: skip
        cut(job, prune)
        record[name] = json.loads((folder / name / "pruned.json").read_text())
    weights = torch.load(folder / "full" / "weights.pt", weights_only=True)
    same = NemotronH(parent, from_megatron(parent, parent.full, weights), trainable=False)
    with torch.no_grad():
        record["difference"] = float((plain(tokens) - same(tokens)).abs().max())
    before, after = dict(plain.named_parameters()), dict(same.named_parameters())
    record["sorted"] = [name for name in before if not torch.equal(before[name], after[name])]
    (folder / "facts.json").write_text(json.dumps(record))


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir()
    main(Path(sys.argv[1]))
