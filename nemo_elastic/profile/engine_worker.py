# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A model in transformers or vLLM, in a separate process: runs where this package need not be installed.

    python engine_worker.py transformers|vllm JSON

JSON: {"folder", "dtype", "device", "batch", "length"}; the folder has only a `config.json`, and weights are random.
The device has no index: of GPUs the first that the process sees is taken. Prints a line {"versions", "hardware"} once
the model is loaded. Reads lines [prompt tokens, new tokens] and answers each with the seconds that a batch took.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

#: of vLLM: tracebacks reach us, cores are not claimed, nothing is sent anywhere, and not half of the memory is taken
SETTINGS = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
}  # fmt: skip
#: share of a GPU's memory for each of two models
SHARE = 0.4


def hardware(device: str) -> str:
    """Name of what computes on a device; of a processor also how many threads torch uses."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    if device != "cpu":
        return device
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    threads = torch.get_num_threads()
    return f"{next(named, platform.processor() or platform.machine())}, {threads} thread{'s' * (threads > 1)}"


def _vllm(job: dict[str, Any]) -> tuple[Any, str]:
    import vllm
    from vllm.platforms import current_platform

    device = current_platform.device_type  # of its installation: no argument chooses another
    if device != job["device"]:
        sys.exit(f"this installation of vLLM computes on {device or 'nothing here'}, not on {job['device']}")
    llm = vllm.LLM(
        model=job["folder"], dtype=job["dtype"], load_format="dummy", skip_tokenizer_init=True,
        max_model_len=job["length"], max_num_seqs=job["batch"], enforce_eager=device == "cpu",
        enable_prefix_caching=False, gpu_memory_utilization=SHARE,
    )  # fmt: skip

    def answer(prompt: int, new: int) -> None:
        sampling = vllm.SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        ids = [{"prompt_token_ids": [1] * prompt} for _ in range(job["batch"])]
        done = llm.generate(ids, [sampling] * job["batch"], use_tqdm=False)
        assert all(len(one.outputs[0].token_ids) == new for one in done)

    return answer, vllm.__version__


def _transformers(job: dict[str, Any]) -> tuple[Any, str]:
    import torch
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(job["folder"])
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, job["dtype"])).to(job["device"]).eval()
    model.generation_config.eos_token_id = None

    def answer(prompt: int, new: int) -> None:
        ids = torch.ones(job["batch"], prompt, dtype=torch.long, device=job["device"])
        with torch.no_grad():
            answers = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)
        assert answers.shape == (job["batch"], prompt + new)
        answers.cpu()

    return answer, transformers.__version__


def main(engine: str, given: str) -> None:
    stdout, sys.stdout = sys.stdout, sys.stderr  # libraries print
    job = json.loads(given)
    answer, version = {"vllm": _vllm, "transformers": _transformers}[engine](job)
    import torch

    versions = {engine: version, "torch": torch.__version__}
    print(json.dumps({"versions": versions, "hardware": hardware(job["device"])}), file=stdout, flush=True)
    for line in sys.stdin:
        prompt, new = json.loads(line)
        began = time.perf_counter()
        answer(prompt, new)
        print(time.perf_counter() - began, file=stdout, flush=True)


if __name__ == "__main__":
    os.environ.update(SETTINGS)
    main(sys.argv[1], sys.argv[2])
