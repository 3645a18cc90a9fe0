# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs in the environment that has transformers: logits and greedy tokens of every folder below the one it is given.

Knows nothing of this package, so what it says is an independent opinion.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

NEW_TOKENS = 6


def main() -> None:
    torch.set_num_threads(1)
    for folder in sorted(p for p in Path(sys.argv[1]).iterdir() if p.is_dir()):
        # grouped products want rows of whole 16 bytes
        eager = {"experts_implementation": "eager"} if (folder / "eager").exists() else {}
        file = folder / "dtype"  # float32, unless it says another, or that the folder's own is taken
        dtype = file.read_text() if file.exists() else torch.float32
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=True, output_loading_info=True, **eager
        )
        assert not info["missing_keys"] and not info["unexpected_keys"], (folder, info)
        model.eval()
        tokens = torch.from_numpy(np.load(folder / "tokens.npy"))
        with torch.no_grad():
            logits = model(tokens).logits
            # without a mask, generate() would take tokens equal to pad_token_id for padding
            prompt = {"input_ids": tokens[:, :4], "attention_mask": torch.ones_like(tokens[:, :4])}
            new = model.generate(**prompt, do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=None)
        biases = {n: b.numpy() for n, b in model.named_buffers() if n.endswith("e_score_correction_bias")}
        np.savez(folder / "transformers.npz", logits=logits.float().numpy(), new=new[:, 4:].numpy(), **biases)


if __name__ == "__main__":
    main()
