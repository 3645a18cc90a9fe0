# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members in low precision in vLLM on a CPU: what runs computes what our runtime does.

vLLM emulates NVFP4 there, as our plugin lets it. Our runtime does not round inputs.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.quantize.loads import CASES, NOISE, RUNS, TOKENS, Case, logits_of, write_member

from .server import inside

pytestmark = [pytest.mark.vllm, pytest.mark.long, pytest.mark.slow(minutes=4)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_member_scores_a_text_as_in_the_runtime_or_is_refused(case: Case, tmp_path: Path) -> None:
    folder = write_member(tmp_path, case)
    logprobs, said = inside("score", folder, tmp_path / "vllm", tokens=TOKENS[0].tolist())
    if case.vllm != RUNS:
        assert logprobs is None and case.vllm in said
        return
    assert logprobs is not None, said[-3000:]
    own = logits_of(folder).log_softmax(-1)[:-1].gather(-1, torch.from_numpy(TOKENS[0, 1:, None])).squeeze(-1)
    assert float((torch.tensor(logprobs) - own).abs().max()) < NOISE[case.to]
