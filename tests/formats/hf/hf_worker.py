# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs in the environment of transformers 5, where this project is not installed: one process for many small models.

Usage: python hf_worker.py, then one request a line, {"do": name of a function below, ...its arguments}; each is
answered by one line of JSON. Arrays travel as files: tokens.npy [b, l] in, *.npz out.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, __version__


def shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in model.named_parameters()}


def version() -> str:
    return __version__


def dtypes(folder: str) -> dict[str, str]:
    """Of each tensor of a folder's model, loaded in bfloat16."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    return {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in model.state_dict().items()}


def run(
    folder: str,
    tokens: str,
    out: str,
    thorough: bool = False,
    override: dict[str, Any] | None = None,
    dtype: str = "float32",
) -> dict:
    """Load a folder and write its logits [b, l, v] to `out`.

    Args:
        folder: What to load, with remote code where it is a puzzle.
        tokens: File of tokens.
        out: File to write.
        thorough: Decode greedily, too, with the cache (`grown`) and without (`again`), save the model to FOLDER.saved,
            and build it anew from its config alone.
        override: Settings in place of those of `config.json`.
        dtype: In which it runs.
    """
    tokens_bl = torch.from_numpy(np.load(tokens))
    remote = json.loads((Path(folder) / "config.json").read_text())["model_type"] == "nemotron_h_puzzle"
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        trust_remote_code=remote,
        output_loading_info=True,
        experts_implementation="eager",  # others want rows of whole 16 bytes
        **(override or {}),
    )
    model.eval()
    report = {
        "class": type(model).__name__,
        "loading": {key: sorted(map(str, value)) for key, value in loading.items() if value},
    }
    with torch.no_grad():
        arrays = {"logits": model(tokens_bl).logits}
        if thorough:
            # with a mask, or a token that is the padding token would be taken for padding
            start = tokens_bl[:, :6]
            arrays["grown"] = model.generate(
                start, attention_mask=torch.ones_like(start), max_new_tokens=8, do_sample=False, pad_token_id=0
            )
            again = start
            for _ in range(8):  # without the cache: what decoding step by step must give
                again = torch.cat([again, model(again, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)], 1)
            arrays["again"] = again
    arrays["logits"] = arrays["logits"].float()  # numpy has no bfloat16
    np.savez(out, **{name: array.numpy() for name, array in arrays.items()})
    if thorough:
        model.save_pretrained(f"{folder}.saved")
        config = AutoConfig.from_pretrained(folder, trust_remote_code=remote)
        fresh = AutoModelForCausalLM.from_config(config, trust_remote_code=remote)
        report["same shapes when made anew"] = shapes(fresh) == shapes(model)
        report["finite"] = all(bool(torch.isfinite(p).all()) for p in fresh.parameters())
    return report


def make(
    config: dict[str, Any],
    folder: str,
    tokens: str,
    out: str,
    dtype: str = "float32",
    shard: str = "5GB",
    seed: int = 0,
) -> dict:
    """Make a random model out of the arguments of `NemotronHConfig`, save it to `folder` and its logits to `out`."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("nemotron_h", **config)).eval()
    with torch.no_grad():
        for name, b in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                b.normal_(std=0.2)
        for name, p in model.named_parameters():
            if p.dim() > 1:
                p.normal_(std=0.7 / p.shape[-1] ** 0.5 if "conv" not in name else 0.5)
            else:  # norms are all ones otherwise, and biases all zeros
                p.add_(0.2 * torch.randn(p.shape))
        if config.get("tie_word_embeddings"):  # transformers has the setting and does nothing with it
            model.lm_head.weight.copy_(model.get_input_embeddings().weight)
        model.to(getattr(torch, dtype))
        model.save_pretrained(folder, max_shard_size=shard)
        model.set_experts_implementation("eager")
        logits = model.float()(torch.from_numpy(np.load(tokens))).logits
    np.savez(out, logits=logits.numpy())
    return {"files": sorted(p.name for p in Path(folder).iterdir())}


def talk(
    folder: str, out: str, texts: list[str], messages: list[dict[str, str]], new: int, samplings: list[dict[str, Any]]
) -> dict:
    """What a member's folder says to texts and messages, and the probabilities [new, v] of each sampling in `out`."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ends = model.generation_config.eos_token_id

    def said(prompt: dict[str, torch.Tensor]) -> tuple[list[int], str]:
        """The text without the end token, which transformers leaves there if it is no special token."""
        tokens = model.generate(**prompt, do_sample=False, max_new_tokens=new)[
            0, prompt["input_ids"].shape[1] :
        ].tolist()
        return tokens, tokenizer.decode([t for t in tokens if t not in ends], skip_special_tokens=True)

    prompts = [tokenizer(text, return_tensors="pt") for text in texts]
    chat = tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    sampled, arrays = [], {}
    for n, how in enumerate(samplings):
        torch.manual_seed(n)
        result = model.generate(
            **prompts[0], do_sample=True, **how, max_new_tokens=new, eos_token_id=None,
            output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
        sampled.append(result.sequences[0].tolist())
        arrays[f"p{n}"] = torch.cat(result.scores).softmax(-1).numpy()
    np.savez(out, **arrays)
    return {
        "ids": [prompt["input_ids"][0].tolist() for prompt in prompts],
        "greedy": [said(prompt) for prompt in prompts],
        "rendered": tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True),
        "chat_ids": chat["input_ids"][0].tolist(),
        "chat": said(chat)[1],
        "sampled": sampled,
    }


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what transformers prints is no answer
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"version": version, "dtypes": dtypes, "run": run, "make": make, "talk": talk}[request.pop("do")](
            **request
        )
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
