# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""An engine with settings of ours, in this process.

Usage: python -m tests.vllm.set FOLDER JOB.json OUT.json SETTINGS, in vLLM's environment. `engines.py` judges what it
writes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from .decode_vllm import QUIET

NEW = 24
#: every so many requests are asked again beside one that samples its tokens
BESIDE = 5


def _joined(engine: Any, first: list[tuple[Any, Any]], later: tuple[Any, Any]) -> list[list[int]]:
    """Tokens of requests, of which the last comes when the others are in the middle of their answers."""
    said: dict[str, list[int]] = {}
    for number, (prompt, sampling) in enumerate(first):
        engine.add_request(str(number), prompt, sampling)
    steps = 0
    while engine.has_unfinished_requests():
        steps += 1
        if steps == NEW // 2:
            engine.add_request(str(len(first)), *later)
        said.update({o.request_id: list(o.outputs[0].token_ids) for o in engine.step() if o.finished})
    return [said[str(number)] for number in range(len(said))]


def main(folder: Path, job: Path, out: Path, settings: str) -> None:
    import vllm

    llm = vllm.LLM(
        model=str(folder), dtype="float32", max_model_len=512, max_num_seqs=6, enforce_eager=True,
        num_gpu_blocks_override=120, additional_config={"nemo_elastic": json.loads(settings)},
    )  # fmt: skip
    core = llm.llm_engine.engine_core.engine_core
    asked = json.loads(job.read_text(encoding="utf-8"))
    prompts = [{"prompt_token_ids": ids} for _, ids in asked]
    sampling = [
        vllm.SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, extra_args=extra) for extra, _ in asked
    ]
    drafts: dict[str, list[int]] = {}
    drafter = getattr(core.model_executor.driver_worker.worker.model_runner, "drafter", None)
    if drafter is not None:
        propose, drafter._cost = drafter._draft, 0.1  # as if it were small: as large as it is, it would not pay

        def counted(request_id: str, ids: list[int], new: int) -> list[int]:
            member = core.scheduler._member[request_id]
            counts = drafts.setdefault(member, [0, 0])
            counts[1] += new - 1
            said = propose(request_id, ids, new)
            counts[0] += len(said)
            return said

        drafter._draft = counted
    answers = llm.generate(prompts, sampling, use_tqdm=False)
    counted_then = {member: list(counts) for member, counts in drafts.items()}
    sampled = vllm.SamplingParams(temperature=0.8, seed=1, max_tokens=NEW, ignore_eos=True)
    beside = _joined(llm.llm_engine, list(zip(prompts, sampling, strict=True))[::BESIDE], (prompts[0], sampled))
    report = {
        "tokens": [list(answer.outputs[0].token_ids) for answer in answers],
        "drafts": counted_then,
        "beside": beside,
    }
    out.write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    os.environ.update(QUIET)
    main(*(Path(argument) for argument in sys.argv[1:4]), sys.argv[4])
