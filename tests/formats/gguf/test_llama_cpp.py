# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members as GGUF files answer in llama.cpp as they do here, and texts are cut into the same tokens."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
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
TOP_K = replace(MOE, top_k=4, top_k_stripes=1)
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


#: name -> parent, member
CASES: dict[str, tuple[Parent, Subnet]] = {
    "dense": (DENSE, DENSE.full),
    "dense, tied": (replace(DENSE, tied=True), DENSE.full),
    "dense, cut on every axis": (
        DENSE, DENSE.uniform([0, 1, 3, 4, 5], hidden=48, ffn=64, mamba_heads=6, mamba_head_dim=8, attention_heads=2)
    ),
    "dense, rotated, cut": (replace(DENSE, norm="parent"), DENSE.uniform([0, 1, 3, 5], hidden=48)),
    "dense, FFN width by layer": (DENSE, other_width(DENSE.full, 1, ffn=64)),
    "experts": (MOE, MOE.full),
    "experts, cut": (MOE, MOE.uniform([*range(8)], experts=4, expert_ffn=16, shared_ffn=32)),
    "experts, width by layer": (MOE, other_width(MOE.full, 1, expert_ffn=16)),
    "experts, fewer for a token": (TOP_K, TOP_K.uniform(top_k=3)),
    "experts, fewer for a token by layer": (TOP_K, other_width(TOP_K.uniform(top_k=3), 1, top_k=1)),
    "experts in a latent width": (LATENT, LATENT.full),
    "experts in a latent width, cut": (LATENT, LATENT.uniform([*range(8)], hidden=48, experts=4, latent=16)),
}  # fmt: skip
#: dtype -> most nats between ours and llama.cpp's
MOST = {"fp32": 1e-6, "fp16": 1e-5, "bf16": 0.05, "q8_0": 0.1}


def train(pre: pre_tokenizers.PreTokenizer, folder: Path, texts: Sequence[str], alphabet: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
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
    texts, alphabet = [*TEXTS * 3, Path(__file__).read_text()], sorted(pre_tokenizers.ByteLevel.alphabet())
    return {
        name: (place / name, train(pre_tokenizer(patterns), place / name, texts, alphabet))
        for patterns, name in PRE.items()
    }


@pytest.fixture(scope="module")
def answers(
    tokenizers: dict[str, tuple[Path, Tokenizer]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, Any]]:
    """What llama.cpp says of every case and every tokenizer."""
    place, jobs = tmp_path_factory.mktemp("gguf"), {}
    # without bytes that are no characters: llama.cpp's server gives no log-probabilities of them
    train(pre_tokenizers.ByteLevel(False), place / "ascii", ["ab"], [])
    for name, dtype in itertools.product(CASES, MOST):
        model, file = made(*CASES[name], place / "ascii")[0], place / f"{name}.{dtype}"
        write_places(prepare(model, file, name=name, dtype=dtype))
        jobs[str(file)] = {"prompt": PROMPT, "new": NEW, "vocab": VOCAB}
    for name, (folder, _) in tokenizers.items():
        write_places(prepare(made(DENSE, DENSE.full, folder)[0], place / name, name=name))
        jobs[str(place / name)] = {"texts": TEXTS}
    (place / "jobs.json").write_text(json.dumps(jobs))
    worker = Path(__file__).with_name("llama.py")
    done = subprocess.run([sys.executable, worker, place / "jobs.json"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    return lambda name: said[str(place / name)]


@pytest.fixture(scope="module")
def rows() -> Iterator[dict[str, dict[str, str]]]:
    """Rows of a table, which goes to the file that LLAMA_TABLE names."""
    rows: dict[str, dict[str, str]] = {}
    yield rows
    if out := os.environ.get("LLAMA_TABLE"):
        cells = [
            [*next(iter(rows.values()))],
            ["---", *["---:"] * (len(MOST) + 1)],
            *(r.values() for r in rows.values()),
        ]
        table = "".join(f"| {' | '.join(line)} |\n" for line in cells)
        note = f"xllamacpp {version('xllamacpp')} on a CPU, random weights, {NEW} greedy tokens."
        Path(out).write_text(f"{table}\n{note}\n")


@pytest.mark.parametrize("dtype", MOST)
@pytest.mark.parametrize("name", CASES)
def test_llama_cpp_gives_our_log_probabilities(
    name: str, dtype: str, answers: Callable[[str], dict[str, Any]], rows: dict[str, dict[str, str]]
) -> None:
    parent, member = CASES[name]
    said = answers(f"{name}.{dtype}")
    theirs = torch.tensor(said["logs"], dtype=torch.float64)
    with torch.no_grad():
        logits = made(parent, member, Path())[1](torch.tensor([PROMPT + said["ids"][:-1]]), choice=member)
    ours = logits[0, len(PROMPT) - 1 :].double().log_softmax(-1)
    worst, kl = (ours - theirs).abs().max().item(), (ours.exp() * (ours - theirs)).sum(-1).mean().item()
    same = int((ours.argmax(-1) == theirs.argmax(-1)).sum())
    if dtype == "fp32":
        rows[name] = {"member": name, "differ in fp32 by": f"{worst:.0e}", "tokens in fp32": f"{same} of {NEW}"}
    else:
        rows[name][f"KL in {dtype}"] = f"{kl:.1e}"
    assert kl < MOST[dtype]
    assert dtype != "fp32" or (worst < 1e-4 and same == NEW)


@pytest.mark.parametrize("name", PRE.values())
def test_llama_cpp_cuts_texts_as_the_tokenizer_does(
    name: str, answers: Callable[[str], dict[str, Any]], tokenizers: dict[str, tuple[Path, Tokenizer]]
) -> None:
    assert answers(name)["tokens"] == [tokenizers[name][1].encode(text).ids for text in TEXTS]
