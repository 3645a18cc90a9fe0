# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs in vLLM's environment, where this project is not installed: greedy tokens of one folder on the CPU.

Usage: python decode_vllm.py PLACE NAME. Reads PLACE/job.json, writes PLACE/NAME.vllm.json. All prompts are decoded
together, each at its own length, as a server does. One process per folder: vLLM keeps global state.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

QUIET = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; the default takes half of the memory
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # other processes may sit on the cores
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # its tracebacks then reach us
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


def main(place: Path, name: str) -> None:
    import vllm

    job = json.loads((place / "job.json").read_text(encoding="utf-8"))
    llm = vllm.LLM(
        model=str(place / name),
        dtype="float32",
        trust_remote_code=job["folders"][name],
        max_model_len=512,
        max_num_seqs=len(job["texts"]),
        enforce_eager=True,  # compiling takes minutes, running seconds
        enable_prefix_caching=False,
    )
    sampling = vllm.SamplingParams(temperature=0, max_tokens=job["new"], logprobs=0, ignore_eos=True)
    ran = []
    for result in llm.generate(job["texts"], sampling):
        best = result.outputs[0]
        tokens = list(best.token_ids)
        logprobs = [at[token].logprob for at, token in zip(best.logprobs, tokens, strict=True)]
        ran.append({"prompt": list(result.prompt_token_ids), "tokens": tokens, "logprobs": logprobs})
    report = {"version": vllm.__version__, "ran": ran}
    (place / f"{name}.vllm.json").write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    os.environ.update(QUIET)
    main(Path(sys.argv[1]), sys.argv[2])
