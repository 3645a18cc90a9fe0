# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs in Megatron-Bridge's environment: logits of every member as a slice of its whole parent, on megatron-core.

Usage: python megatron_slices.py PLACE; `table.write_folders` has written it. Each `all/NAME` gets a `megatron.npy`.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from nemo_elastic.formats.adapter import to_megatron
from nemo_elastic.formats.folders import open_source
from nemo_elastic.megatron.compat import named_weights
from nemo_elastic.megatron.cpu import cuda_as_cpu
from tests.support.models import build, start


def main() -> None:
    start()
    place = Path(sys.argv[1])
    whole = {}
    for folder in place.glob("family-*"):
        source = open_source(folder)
        weights = {name: torch.from_numpy(raw.numpy().copy()) for name, raw in source.tensors.items()}
        model = build(source.parent, layernorm_epsilon=source.parent.norm_eps).eval()
        own = to_megatron(source.parent, source.parent.full, weights)
        with torch.no_grad():
            for name, weight in named_weights(model):
                weight.copy_(own[name])
        whole[source.parent] = model
    for folder in (place / "all").iterdir():
        member = open_source(folder)
        model = whole[member.parent]
        model.state.choice = member.held
        with torch.no_grad(), cuda_as_cpu():
            logits = model(torch.from_numpy(np.load(folder / "tokens.npy")), None, None)
        np.save(folder / "megatron.npy", logits.numpy())


if __name__ == "__main__":
    main()
