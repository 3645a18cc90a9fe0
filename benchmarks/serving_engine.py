# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One engine of vLLM in this process, for `benchmarks.serving`; runs in vLLM's environment.

    python -m benchmarks.serving_engine FOLDER DTYPE PAGES

Reads jobs from stdin, a JSON line each: {"asked": [[member or null, token ids], ...], "new": tokens of each}. For each
it prints a line: {"seconds", "tokens": of each answer, "memory": anonymous bytes above those before the load}.
"""

from __future__ import annotations

import json
import os
import sys
import time

from benchmarks.output import resident

PLACES, LENGTH = 24, 512
#: as a server has it, but for the process of its own
SETTINGS = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING",
}  # fmt: skip


def main(folder: str, dtype: str, pages: int) -> None:
    said, sys.stdout = sys.stdout, sys.stderr  # vLLM prints
    import torch
    import vllm

    torch.nn.functional.linear(torch.ones(64, 64), torch.ones(64, 64))  # threads and their buffers are no model's
    before = resident("RssAnon")
    llm = vllm.LLM(
        model=folder, dtype=dtype, skip_tokenizer_init=True, max_model_len=LENGTH, max_num_seqs=PLACES,
        enforce_eager=True, enable_prefix_caching=False, num_gpu_blocks_override=pages,
    )  # fmt: skip
    print(json.dumps({"version": vllm.__version__}), file=said, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        prompts = [{"prompt_token_ids": ids} for _, ids in job["asked"]]
        sampling = [
            vllm.SamplingParams(
                temperature=0, max_tokens=job["new"], ignore_eos=True, detokenize=False,
                extra_args={"member": member} if member else None,
            )
            for member, _ in job["asked"]
        ]  # fmt: skip
        began = time.perf_counter()
        done = llm.generate(prompts, sampling, use_tqdm=False)
        seconds = time.perf_counter() - began
        tokens = [list(answer.outputs[0].token_ids) for answer in done]
        figures = {"seconds": seconds, "tokens": tokens, "memory": resident("RssAnon") - before}
        print(json.dumps(figures), file=said, flush=True)


if __name__ == "__main__":
    os.environ.update(SETTINGS)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
