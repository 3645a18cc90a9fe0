# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What llama.cpp makes of GGUF files, in a process of its own: a file that it refuses may end it.

Usage: python llama.py JOBS, a JSON file: file -> {"prompt": ids, "new": number of tokens, "texts": texts to tokenize}.
Prints one line of JSON: file -> {"ids": greedy tokens, "first": id -> log-probability of the 20 likeliest first
tokens, "tokens": of each text}.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any


def answer(file: str, job: dict[str, Any]) -> dict[str, Any]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.warmup = file, 512, 1, False
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)

    def post(way: str, **body: Any) -> dict[str, Any]:
        request = urllib.request.Request(f"{server.listening_address}/{way}", json.dumps(body).encode())
        return json.load(urllib.request.urlopen(request, timeout=600))

    out: dict[str, Any] = {"tokens": [post("tokenize", content=text)["tokens"] for text in job.get("texts", ())]}
    if "prompt" in job:
        done = post("completion", prompt=job["prompt"], n_predict=job["new"], temperature=0, n_probs=20,
                    samplers=["temperature"], cache_prompt=False, return_tokens=True)  # fmt: skip
        out["ids"] = done["tokens"]
        out["first"] = {x["id"]: x["logprob"] for x in done["completion_probabilities"][0]["top_logprobs"]}
    return out


if __name__ == "__main__":
    jobs = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps({file: answer(file, job) for file, job in jobs.items()}))
