# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs in the environment of transformers 5, where this project is not installed: logits and tokens of folders.

Usage: python hf_worker.py PLACE NAME..., where PLACE has tokens.npy [b, l] and a folder per name. Writes
PLACE/NAME.npz with logits [b, l, v] and greedily generated tokens, and PLACE/NAME.saved: the folder as transformers
saves it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, __version__


def shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in model.named_parameters()}


def main(place: Path, names: list[str]) -> None:
    tokens = torch.from_numpy(np.load(place / "tokens.npy"))
    told = {}
    for name in names:
        remote = json.loads((place / name / "config.json").read_text())["model_type"] == "nemotron_h_puzzle"
        model, loading = AutoModelForCausalLM.from_pretrained(
            place / name, dtype=torch.float32, trust_remote_code=remote, output_loading_info=True
        )
        model.eval()
        with torch.no_grad():
            logits = model(tokens).logits
            # with a mask, or a token that is the padding token would be taken for padding
            mask = torch.ones_like(tokens[:, :6])
            grown = model.generate(
                tokens[:, :6], attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0
            )
            again = tokens[:, :6]
            for _ in range(8):  # without the cache: what decoding step by step must give
                again = torch.cat([again, model(again, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)], 1)
        np.savez(place / f"{name}.npz", logits=logits.numpy(), grown=grown.numpy(), again=again.numpy())
        model.save_pretrained(place / f"{name}.saved")
        config = AutoConfig.from_pretrained(place / name, trust_remote_code=remote)
        fresh = AutoModelForCausalLM.from_config(config, trust_remote_code=remote)
        told[name] = {
            "class": type(model).__name__,
            "loading": {key: sorted(map(str, value)) for key, value in loading.items() if value},
            "same shapes when made anew": shapes(fresh) == shapes(model),
            "finite": all(bool(torch.isfinite(p).all()) for p in fresh.parameters()),
        }
    (place / "told.json").write_text(json.dumps({"transformers": __version__, "models": told}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
