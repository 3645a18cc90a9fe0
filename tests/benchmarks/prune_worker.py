# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Lets ModelOpt prune a tiny model, and writes down what test_modelopt_prune.py asserts.

python -m tests.benchmarks.prune_worker FOLDER     (in Megatron-Bridge's environment)
"""

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
    from nemo_elastic.core.cost import parameters
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

    def run(name: str, sizes: dict[str, int]) -> tuple[dict[str, Any], Any]:
        job = {"parent": str(checkpoint), "out": str(folder / name), "sizes": sizes,
               "importance": str(folder / "tokens.npy"), "scores": str(folder / "scores")}  # fmt: skip
        cut(job, prune)
        data = json.loads((folder / name / "pruned.json").read_text())
        shape = Parent.from_json(data["sizes"])
        weights = torch.load(folder / name / "weights.pt", weights_only=True)
        return data, NemotronH(shape, from_megatron(shape, shape.full, weights), trainable=False)

    full, same = run("full", {name: getattr(parent, field) for name, field in FIELDS.items()})
    given, narrow = run("given", WIDTHS)
    layers, _ = run("layers", {"num_layers": WIDTHS["num_layers"]})
    with torch.no_grad():
        difference = (plain(tokens) - same(tokens)).abs().max()
    before, after = dict(plain.named_parameters()), dict(same.named_parameters())
    record = {
        "full": full, "given": given, "layers": layers, "parent": parent.to_json(), "difference": float(difference),
        "given_count": parameters(narrow.parent, narrow.parent.full),
        "sorted": sorted(name for name in before if not torch.equal(before[name], after[name])),
        "left": sorted(k for k in sys.modules if k in ("mamba_ssm", "transformer_engine")),
    }  # fmt: skip
    (folder / "facts.json").write_text(json.dumps(record))


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir()
    main(Path(sys.argv[1]))
