# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs in the environment of transformers 5, where this project is not installed: greedy tokens of folders.

Usage: python decode_transformers.py PLACE. Reads PLACE/job.json, writes PLACE/transformers.json. Every prompt goes
through alone, so that nothing is padded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, __version__


def decode(folder: Path, remote: bool, texts: list[str], new: int) -> list[dict[str, Any]]:
    """Tokens of each text and of its continuation; log-probability of each new token and its lead over the second."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=remote)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=remote).eval()
    model.generation_config.eos_token_id = None  # random weights say "end" sooner or later; all of them go on
    out = []
    for text in texts:
        prompt = tokenizer(text, return_tensors="pt")
        result = model.generate(
            input_ids=prompt["input_ids"],
            attention_mask=prompt["attention_mask"],
            max_new_tokens=new,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        logp_lv = torch.cat(result.logits).double().log_softmax(-1)
        best_l2 = logp_lv.topk(2).values
        ids = result.sequences[0].tolist()
        length = prompt["input_ids"].shape[1]
        out.append(
            {
                "prompt": ids[:length],
                "tokens": ids[length:],
                "logprobs": best_l2[:, 0].tolist(),
                "lead": (best_l2[:, 0] - best_l2[:, 1]).tolist(),
            }
        )
    return out


def main(place: Path) -> None:
    job = json.loads((place / "job.json").read_text(encoding="utf-8"))
    ran = {name: decode(place / name, remote, job["texts"], job["new"]) for name, remote in job["folders"].items()}
    (place / "transformers.json").write_text(json.dumps({"version": __version__, "ran": ran}), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
