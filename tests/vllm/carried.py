# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""An engine that carries the cache of a pair over, in this process.

Usage: python -m tests.vllm.carried FOLDER JOB.json OUT.json, in vLLM's environment. `serve.py` judges what it writes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from .decode_vllm import QUIET

NEW = 24


def main(folder: Path, job: Path, out: Path) -> None:
    import vllm

    llm = vllm.LLM(
        model=str(folder), dtype="float32", max_model_len=512, max_num_seqs=6, enforce_eager=True,
        num_gpu_blocks_override=64, additional_config={"nemo_elastic": {"carry_cache": True}},
    )  # fmt: skip
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    asked = json.loads(job.read_text(encoding="utf-8"))
    prompts = [{"prompt_token_ids": ids} for _, ids in asked]
    sampling = [
        vllm.SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, extra_args=extra) for extra, _ in asked
    ]
    answers = llm.generate(prompts, sampling, use_tqdm=False)
    told = {
        "tokens": [list(answer.outputs[0].token_ids) for answer in answers],
        "carriable": sorted(f"{small}>{large}" for small, large in scheduler._carriable),
        "left": len(scheduler._carrying) + len(scheduler.requests),
    }
    out.write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    os.environ.update(QUIET)
    main(*(Path(argument) for argument in sys.argv[1:4]))
