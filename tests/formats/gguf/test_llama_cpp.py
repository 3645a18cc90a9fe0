# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members as GGUF files answer in llama.cpp as they do here, and texts are cut into the same tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.formats.checkpoint import Checkpoint, in_memory
from nemo_elastic.formats.gguf.tokenizer import GPT2, PRE
from nemo_elastic.formats.gguf.writing import prepare
from nemo_elastic.formats.places import write_places
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.nn.weights import random_state
from nemo_elastic.slicing.cutting import cut

VOCAB, NEW, PROMPT = 300, 16, [5, 77, 200, 12, 9, 9, 100]
SIZES: dict[str, Any] = {
    "hidden": 64, "vocab": VOCAB, "ffn": 96, "mamba_heads": 8, "mamba_head_dim": 12, "mamba_groups": 2, "state": 16,
    "attention_heads": 4, "kv_heads": 2, "attention_head_dim": 16,
}  # fmt: skip
DENSE = Parent("M-M*M-M*-", **SIZES)
MOE = Parent("MEM*EME*", **SIZES | {"ffn": 1}, experts=8, expert_ffn=32, shared_ffn=64, top_k=2, routed_scaling=2.5)
LATENT = replace(MOE, sizes=dict(MOE.sizes) | {"latent": 32})
TEXTS = [
    "def read(path):\n    return open(path).read()  # naïve, 12345.678\r\n\r\n\n",
    "It's what THEY'LL say: \t\tÜber 日本語 ﬁ \u0301 🦜   end  ", "don't DON'T x1y22z333 camelCase HTTPServer/path//",
]  # fmt: skip


def other_width(member: Subnet, layer: int, **widths: int) -> Subnet:
    layers = list(member.layers)
    own = layers[layer].widths
    layers[layer] = replace(layers[layer], widths=type(own)({**own, **widths}))
    return replace(member, layers=tuple(layers))


#: name -> parent, member, dtype, most that the likeliest log-probabilities may differ by
CASES: dict[str, tuple[Parent, Subnet, str | None, float]] = {
    "dense": (DENSE, DENSE.full, None, 1e-3),
    "tied": (replace(DENSE, tied=True), DENSE.full, None, 1e-3),
    "narrow": (DENSE, DENSE.uniform([0, 1, 3, 4, 5], hidden=48, ffn=64, mamba_heads=6, attention_heads=2), None, 1e-3),
    "rotated": (replace(DENSE, norm="parent"), DENSE.uniform([0, 1, 3, 5], hidden=48), None, 1e-3),
    "FFN by layer": (DENSE, other_width(DENSE.full, 1, ffn=64), None, 1e-3),
    "experts": (MOE, MOE.full, None, 1e-3),
    "fewer experts": (MOE, MOE.uniform([*range(8)], experts=4, expert_ffn=16, shared_ffn=32), None, 1e-3),
    "expert width by layer": (MOE, other_width(MOE.full, 1, expert_ffn=16), None, 1e-3),
    "latent": (LATENT, LATENT.full, None, 1e-3),
    "fp16": (DENSE, DENSE.full, "fp16", 1e-2),
    "bf16": (DENSE, DENSE.full, "bf16", 0.1),
    "q8_0": (DENSE, DENSE.full, "q8_0", 0.3),
    "experts in q8_0": (MOE, MOE.full, "q8_0", 0.3),
}


def train(pre: pre_tokenizers.PreTokenizer, folder: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre, decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([*TEXTS * 3, Path(__file__).read_text()], trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", "pad_token": "<pad>"}))
    return tokenizer


def pre_tokenizer(patterns: tuple[str, ...]) -> pre_tokenizers.PreTokenizer:
    """As files of the hub have it: GPT-2's pattern is that of the byte level, others are split by before."""
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns if pattern != GPT2]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(False, use_regex=GPT2 in patterns)])


def made(parent: Parent, member: Subnet, folder: Path) -> tuple[Checkpoint, NemotronH]:
    """A member cut from its parent, and the parent that runs it."""
    state = random_state(parent, parent.full)
    whole = in_memory(parent, parent.full, state, companions=folder)
    return cut(whole, member), NemotronH(parent, state, trainable=False)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Tokenizer]]:
    place = tmp_path_factory.mktemp("tokenizers")
    return {name: (place / name, train(pre_tokenizer(patterns), place / name)) for patterns, name in PRE.items()}


@pytest.fixture(scope="module")
def answers(
    tokenizers: dict[str, tuple[Path, Tokenizer]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, Any]]:
    """What llama.cpp says of every case and every tokenizer."""
    place, jobs = tmp_path_factory.mktemp("gguf"), {}
    for name, (parent, member, dtype, _) in CASES.items():
        model, _ = made(parent, member, tokenizers["gpt-2"][0])
        write_places(prepare(model, place / name, name=name, dtype=dtype))
        jobs[str(place / name)] = {"prompt": PROMPT, "new": NEW}
    for name, (folder, _) in tokenizers.items():
        write_places(prepare(made(DENSE, DENSE.full, folder)[0], place / name, name=name))
        jobs[str(place / name)] = {"texts": TEXTS}
    (place / "jobs.json").write_text(json.dumps(jobs))
    worker = Path(__file__).with_name("llama.py")
    done = subprocess.run([sys.executable, worker, place / "jobs.json"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    return lambda name: said[str(place / name)]


@pytest.mark.parametrize("name", CASES)
def test_llama_cpp_gives_our_log_probabilities(name: str, answers: Callable[[str], dict[str, Any]]) -> None:
    parent, member, _, most = CASES[name]
    _, model = made(parent, member, Path())
    said = answers(name)
    ids, ours = list(PROMPT), []
    with torch.no_grad():
        first = model(torch.tensor([ids]), choice=member)[0, -1].log_softmax(-1)
        for token in said["ids"]:
            ours.append(int(model(torch.tensor([ids]), choice=member)[0, -1].argmax()))
            ids.append(token)
    worst = max(abs(first[int(i)].item() - logprob) for i, logprob in said["first"].items())
    assert worst < most
    assert ours == said["ids"] or most > 1e-3


@pytest.mark.parametrize("name", PRE.values())
def test_llama_cpp_cuts_texts_as_the_tokenizer_does(
    name: str, answers: Callable[[str], dict[str, Any]], tokenizers: dict[str, tuple[Path, Tokenizer]]
) -> None:
    assert answers(name)["tokens"] == [tokenizers[name][1].encode(text).ids for text in TEXTS]
