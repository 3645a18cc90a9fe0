# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs in the environment of transformers 5: cut a member as one does it by hand, for `bench_slice`.

    python slice_with_transformers.py FAMILY PLACE OUT

PLACE has names.json (tensor of the member -> tensor of the family) and kept.npz (`name/dimension` -> kept positions).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM


def main(family: Path, place: Path, out: Path) -> None:
    # The weights as they are stored: one copy of the whole model in memory.
    model = AutoModelForCausalLM.from_pretrained(family, dtype=torch.bfloat16)
    state = {name.replace("model.", "backbone.", 1): t for name, t in model.state_dict().items()}
    kept = np.load(place / "kept.npz")
    cut = {}
    for new, old in json.loads((place / "names.json").read_text()).items():
        tensor = state[old]
        for dim in range(tensor.dim()):
            if f"{new}/{dim}" in kept:
                tensor = tensor.index_select(dim, torch.from_numpy(kept[f"{new}/{dim}"]))
        cut[new] = tensor.contiguous()
    out.mkdir()
    save_file(cut, out / "model.safetensors", metadata={"format": "pt"})
    # What the member's config says is taken from ours; writing it is no work.
    (out / "config.json").write_bytes((place / "ours" / "config.json").read_bytes())
    (out / "elastic_member.json").write_bytes((place / "ours" / "elastic_member.json").read_bytes())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
