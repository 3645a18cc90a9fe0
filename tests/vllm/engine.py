# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The engine itself, in this process: whose turn its steps are, and by what its cache distinguishes.

Usage: python -m tests.vllm.engine FOLDER OUT.json, in vLLM's environment. `serve.py` judges what it writes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .decode_vllm import QUIET

PLACES, PAGES, NEW = 6, 26, 24
#: most tokens of a step: long prompts come in parts
STEP = 100


def watched(scheduler: Any) -> list[dict[str, Any]]:
    """Let a scheduler write down each step: who had running requests, who was served, and who started."""
    steps, schedule = [], scheduler.schedule

    def watching(*args: Any, **named: Any) -> Any:
        member_of = scheduler._member
        running = sorted({member_of[r.request_id] for r in scheduler.running})
        waiting = {r.request_id: r.arrival_time for r in scheduler.waiting}
        output = schedule(*args, **named)
        started = [waiting[i] for i in output.num_scheduled_tokens if i in waiting]
        steps.append({
            "parts": sum(part.is_last and part.before > 0 for part in getattr(output, "undecided", {}).values()),
            "running": running, "served": output.member, "tokens": output.total_num_scheduled_tokens,
            "started": started, "left": sorted(t for i, t in waiting.items() if i not in output.num_scheduled_tokens),
        })  # fmt: skip
        return output

    scheduler.schedule = watching
    return steps


def salts() -> dict[str, bool]:
    """Whether requests of two members find each other's pages, and a handed over request its new member's."""
    from vllm import SamplingParams
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.request import Request

    from nemo_elastic.serving.engine.scheduler import FamilyScheduler, Turns

    init_none_hash(sha256)
    keeps = SimpleNamespace(_member={}, turns=Turns(("6b", "12b")))

    def request(name: str, member: str, salt: str | None = None) -> Request:
        made = Request(
            request_id=name, prompt_token_ids=list(range(64)), sampling_params=SamplingParams(), pooling_params=None,
            cache_salt=salt, block_hasher=get_request_block_hasher(16, sha256),
        )  # fmt: skip
        FamilyScheduler._hand_to(keeps, made, member)
        return made

    small, large, other = request("a", "6b"), request("b", "12b"), request("c", "12b", "theirs")
    same, moved = request("d", "12b"), request("e", "6b")
    FamilyScheduler._hand_to(keeps, moved, "12b")
    assert len(small.block_hashes) == 4
    return {
        "members are apart": not set(small.block_hashes) & set(large.block_hashes),
        "one member's are shared": same.block_hashes == large.block_hashes,
        "clients' salts stay": not set(other.block_hashes) & set(large.block_hashes),
        "handed over": moved.block_hashes == large.block_hashes,
    }


def main(folder: Path, out: Path) -> None:
    import vllm

    llm = vllm.LLM(
        model=str(folder), dtype="float32", max_model_len=512, max_num_seqs=PLACES, enforce_eager=True,
        num_gpu_blocks_override=PAGES, max_num_batched_tokens=STEP,
    )  # fmt: skip
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    steps = watched(scheduler)
    job = json.loads((folder.parent / "engine.json").read_text(encoding="utf-8"))
    prompts = [{"prompt_token_ids": ids} for _, ids in job]
    sampling = [
        vllm.SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, extra_args=extra) for extra, _ in job
    ]
    got = [list(o.outputs[0].token_ids) for o in llm.generate(prompts, sampling, use_tqdm=False)]
    wrong = vllm.SamplingParams(max_tokens=2, extra_args={"member": "7b"})
    refused = llm.generate([prompts[0]], wrong, use_tqdm=False)[0].outputs[0]
    again = [list(o.outputs[0].token_ids) for o in llm.generate(prompts[:3], sampling[:3], use_tqdm=False)]
    changes = [kept for change in scheduler.changes for kept in vars(change).values() if isinstance(kept, dict)]
    kept = (scheduler.requests, scheduler._member, scheduler.waiting, *changes)
    report = {
        "tokens": got, "again": again, "steps": steps, "salts": salts(), "refused": refused.finish_reason,
        "left": sum(map(len, kept)), "pages": scheduler.kv_cache_manager.usage,
    }  # fmt: skip
    out.write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    os.environ.update(QUIET)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
