# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What runs in vLLM's environment, in a process for each folder, because vLLM keeps global state.

python -m tests.vllm.inside FUNCTION FOLDER PLACE: PLACE/job.json has its arguments, PLACE/out.json gets its answer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

#: places of the watched engine; most tokens of a step: long prompts come in parts
PLACES, PAGES, STEP = 6, 26, 100


def decode(folder: str, texts: list[str], new: int, remote: bool) -> list[dict[str, Any]]:
    """Greedy tokens and their log-probabilities, of all prompts together, each at its own length, as a server does."""
    import vllm

    llm = vllm.LLM(
        model=folder, dtype="float32", trust_remote_code=remote, max_model_len=512, max_num_seqs=len(texts),
        enforce_eager=True, enable_prefix_caching=False,  # compiling takes minutes, running seconds
    )  # fmt: skip
    sampling = vllm.SamplingParams(temperature=0, max_tokens=new, logprobs=0, ignore_eos=True)
    out = []
    for result in llm.generate(texts, sampling):
        best = result.outputs[0]
        logprobs = [at[token].logprob for at, token in zip(best.logprobs, best.token_ids, strict=True)]
        out.append({"prompt": list(result.prompt_token_ids), "tokens": list(best.token_ids), "logprobs": logprobs})
    return out


def score(folder: str, tokens: list[int]) -> list[float]:
    """Log-probabilities of the tokens of a text but the first, in bfloat16."""
    import vllm

    llm = vllm.LLM(
        model=folder, dtype="bfloat16", max_model_len=128, max_num_seqs=2, enforce_eager=True,
        enable_prefix_caching=False, skip_tokenizer_init=True,
    )  # fmt: skip
    sampling = vllm.SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    (result,) = llm.generate([{"prompt_token_ids": tokens}], sampling)
    return [at[token].logprob for at, token in zip(result.prompt_logprobs[1:], tokens[1:], strict=True)]


def watch(folder: str, jobs: list[tuple[dict[str, Any], list[int]]], new: int) -> dict[str, Any]:
    """Answers of the engine of a family to [extra arguments, prompt], and what its scheduler did in each step."""
    import vllm

    llm = vllm.LLM(
        model=folder, dtype="float32", max_model_len=512, max_num_seqs=PLACES, enforce_eager=True,
        num_gpu_blocks_override=PAGES, max_num_batched_tokens=STEP,
    )  # fmt: skip
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    steps = noted(scheduler)
    prompts = [{"prompt_token_ids": ids} for _, ids in jobs]
    sampling = [vllm.SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, extra_args=x) for x, _ in jobs]
    tokens = [list(o.outputs[0].token_ids) for o in llm.generate(prompts, sampling, use_tqdm=False)]
    wrong = vllm.SamplingParams(max_tokens=2, extra_args={"member": "7b"})
    refused = llm.generate([prompts[0]], wrong, use_tqdm=False)[0].outputs[0]
    again = [list(o.outputs[0].token_ids) for o in llm.generate(prompts[:3], sampling[:3], use_tqdm=False)]
    changes = [kept for change in scheduler.changes for kept in vars(change).values() if isinstance(kept, dict)]
    kept = (scheduler.requests, scheduler._member, scheduler.waiting, *changes)
    return {
        "tokens": tokens, "again": again, "steps": steps, "salts": salts(), "refused": refused.finish_reason,
        "left": sum(map(len, kept)), "pages": scheduler.kv_cache_manager.usage,
    }  # fmt: skip


def noted(scheduler: Any) -> list[dict[str, Any]]:
    """Let a scheduler write down each step: who had running requests, and who was served."""
    steps, schedule = [], scheduler.schedule

    def noting(*args: Any, **named: Any) -> Any:
        running = sorted({scheduler._member[r.request_id] for r in scheduler.running})
        output = schedule(*args, **named)
        parts = sum(part.is_last and part.before > 0 for part in getattr(output, "undecided", {}).values())
        tokens = output.total_num_scheduled_tokens
        steps.append({"parts": parts, "running": running, "served": output.member, "tokens": tokens})
        return output

    scheduler.schedule = noting
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


if __name__ == "__main__":
    function, folder, place = globals()[sys.argv[1]], sys.argv[2], Path(sys.argv[3])
    answer = function(folder, **json.loads((place / "job.json").read_text(encoding="utf-8")))
    (place / "out.json").write_text(json.dumps(answer), encoding="utf-8")
