# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What llama.cpp makes of GGUF files, in a process of its own: a file that it refuses may end it.

Usage: python llama.py JOBS, a JSON file: file -> {"prompt": ids, "new": number of tokens, "vocab": size,
"texts": texts to tokenize}. Prints one line of JSON: file -> {"ids": greedy tokens, "logs": of each the
log-probabilities of the vocabulary, "tokens": of each text}.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from pathlib import Path
from typing import Any

#: none is taken down: on a busy machine that may wait for ever
SERVERS: list[Any] = []


def answer(file: str, job: dict[str, Any]) -> dict[str, Any]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.warmup = file, 512, 1, False
    params.cpuparams.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it computes in 16 bits
    server = xllamacpp.Server(params)

    SERVERS.append(server)

    def tokens(text: str) -> list[int]:
        body = json.dumps({"content": text}).encode()
        request = urllib.request.Request(f"{server.listening_address}/tokenize", body)
        return json.load(urllib.request.urlopen(request, timeout=60))["tokens"]

    out: dict[str, Any] = {"tokens": [*map(tokens, job.get("texts", ()))]}
    if "prompt" in job:
        how = {"n_predict": job["new"], "n_probs": job["vocab"], "temperature": 0, "samplers": ["temperature"]}
        done = server.handle_completions({"prompt": job["prompt"], "ignore_eos": True, **how})
        steps = done["choices"][0]["logprobs"]["content"]
        out["ids"] = [step["id"] for step in steps]
        each = ({x["id"]: x["logprob"] for x in step["top_logprobs"]} for step in steps)
        out["logs"] = [[logs[i] for i in range(job["vocab"])] for logs in each]
    return out


if __name__ == "__main__":
    jobs = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps({file: answer(file, job) for file, job in jobs.items()}), flush=True)
    os._exit(0)
