# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs in vLLM's environment, where it finds our plugin by its entry point: log-probabilities of the tokens of a text.

Usage: python score_vllm.py FOLDER IDS.json OUT.json. One process per folder: vLLM keeps global state.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from decode_vllm import QUIET


def main(folder: str, ids: Path, out: Path) -> None:
    import vllm

    tokens = json.loads(ids.read_text(encoding="utf-8"))
    llm = vllm.LLM(
        model=folder, dtype="bfloat16", max_model_len=128, max_num_seqs=2, enforce_eager=True,
        enable_prefix_caching=False, skip_tokenizer_init=True,
    )  # fmt: skip
    sampling = vllm.SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    (result,) = llm.generate([{"prompt_token_ids": tokens}], sampling)
    said = [at[token].logprob for at, token in zip(result.prompt_logprobs[1:], tokens[1:], strict=True)]
    out.write_text(json.dumps({"version": vllm.__version__, "logprobs": said}), encoding="utf-8")


if __name__ == "__main__":
    os.environ.update(QUIET)
    main(sys.argv[1], *map(Path, sys.argv[2:]))
