# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs in the environment that has transformers: what it makes of texts, messages and samplings of a member folder.

Knows nothing of this package, so what it says is an independent opinion.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ends = model.generation_config.eos_token_id

    def text_of(new: torch.Tensor) -> str:
        """Without the end token, which transformers leaves in the text if it is no special token."""
        return tokenizer.decode([t for t in new.tolist() if t not in ends], skip_special_tokens=True)

    report: dict = {"greedy": [], "sampled": [], "ids": []}
    arrays = {}
    for text in job["texts"]:
        prompt = tokenizer(text, return_tensors="pt")
        length = prompt["input_ids"].shape[1]
        report["ids"].append(prompt["input_ids"][0].tolist())
        new = model.generate(**prompt, do_sample=False, max_new_tokens=job["new"])[0, length:]
        report["greedy"].append([new.tolist(), text_of(new)])
    report["rendered"] = tokenizer.apply_chat_template(job["messages"], tokenize=False, add_generation_prompt=True)
    chat = tokenizer.apply_chat_template(
        job["messages"], tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    report["chat_ids"] = chat["input_ids"][0].tolist()
    new = model.generate(**chat, do_sample=False, max_new_tokens=job["new"])[0, len(report["chat_ids"]) :]
    report["chat"] = text_of(new)
    for n, how in enumerate(job["samplings"]):
        torch.manual_seed(n)
        prompt = tokenizer(job["texts"][0], return_tensors="pt")
        result = model.generate(
            **prompt, do_sample=True, **how, max_new_tokens=job["new"], eos_token_id=None,
            output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
        report["sampled"].append(result.sequences[0].tolist())
        arrays[f"p{n}"] = torch.cat(result.scores).softmax(-1).numpy()
    (folder / "theirs.json").write_text(json.dumps(report))
    np.savez(folder / "theirs.npz", **arrays)


if __name__ == "__main__":
    main()
