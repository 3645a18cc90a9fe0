# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Models that transformers makes and saves come through us unchanged, however their config and tensors are spelled."""

from __future__ import annotations

import json
import random
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.slicing.slicer import slice_checkpoint
from nemo_elastic.slicing.untrained import init_family
from tests import reference
from tests.slicing import strangers

from .hf_client import worker

pytestmark = pytest.mark.hf
OLD = {"M": "mamba", "-": "mlp", "*": "attention", "E": "moe"}
NEW = {"M": "linear_attention", "-": "mlp", "*": "full_attention", "E": "moe"}
EXPERTS = {
    "n_routed_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 7, "routed_scaling_factor": 2.5,
    "moe_shared_expert_intermediate_size": 10,
}  # fmt: skip
BLOCK = ElasticConfig.from_dict(
    {"budgets": [{"name": "all"}, {"name": "less", "ratio": 0.9}], "axes": {"hidden": [12, 11, 9, 5]}}
)


@dataclass(frozen=True)
class Made:
    """A model for transformers to make.

    Attributes:
        pattern: its layers.
        words: how the config given to transformers says so.
        other: further arguments of `NemotronHConfig`.
        options: of the worker.
    """

    pattern: str
    words: str = "hybrid_override_pattern"
    other: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def config(self) -> dict[str, Any]:
        sizes = {
            "vocab_size": 23, "hidden_size": 12, "intermediate_size": 9, "mamba_num_heads": 6, "mamba_head_dim": 4,
            "n_groups": 2, "ssm_state_size": 5, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
            "use_cache": "*" in self.pattern,
        }  # fmt: skip
        return sizes | spelled(self.pattern, self.words) | self.other


def spelled(pattern: str, words: str) -> dict[str, Any]:
    """The layers of a model in one of the ways that configs have."""
    key, _, names = words.partition(" in ")
    if key == "hybrid_override_pattern":
        return {key: pattern}
    return {key: [(NEW if names == "new words" else OLD)[c] for c in pattern]}


MADE = {
    "tied": Made("M-*", other={"tie_word_embeddings": True}),
    "several files": Made("M-*M-", options={"shard": "3KB"}),
    "several files, tied, bfloat16": Made(
        "M*", other={"tie_word_embeddings": True}, options={"shard": "2KB", "dtype": "bfloat16"}
    ),
    "float16": Made("-M", options={"dtype": "float16"}),
    "sizes in old words": Made(
        "M*", other={"mamba_n_groups": 3, "mamba_d_conv": 3, "mamba_chunk_size": 4, "mamba_expand": 1}
    ),
    "experts": Made("ME*E", other=EXPERTS),
    "experts in a latent width": Made("E*M", "layers_block_type in new words", EXPERTS | {"moe_latent_size": 5}),
    "experts of bfloat16": Made("EM", other=EXPERTS, options={"dtype": "bfloat16"}),
    "another context and other ids": Made("M*", other={"max_position_embeddings": 77, "eos_token_id": [3, 4]}),
}  # fmt: skip
WORDS = (
    "hybrid_override_pattern", "layers_block_type in old words", "layers_block_type in new words",
    "layer_types in old words", "layer_types in new words",
)  # fmt: skip


def random_made(number: int) -> Made:
    """Any sizes, any layers, any spelling; the same in every run."""
    rng = random.Random(number)
    groups, kv_heads = rng.randint(1, 3), rng.randint(1, 3)
    sizes = {
        "intermediate_size": rng.randint(1, 15), "mamba_num_heads": groups * rng.randint(1, 3), "n_groups": groups,
        "mamba_head_dim": rng.randint(1, 5), "ssm_state_size": rng.randint(1, 6), "conv_kernel": rng.randint(2, 5),
        "num_attention_heads": kv_heads * rng.randint(1, 3), "num_key_value_heads": kv_heads,
        "head_dim": rng.randint(1, 7), "layer_norm_epsilon": rng.choice([1e-5, 1e-2]),
        "tie_word_embeddings": rng.random() < 0.5,
    }  # fmt: skip
    pattern = "".join(rng.choice("M-*") for _ in range(rng.randint(1, 6)))
    return Made(pattern, WORDS[number % len(WORDS)], sizes, {"dtype": rng.choice(["float32", "bfloat16"])})


MADE |= {f"random {number}": random_made(number) for number in range(12)}
TOKENS = np.random.default_rng(0).integers(23, size=(2, 19))
#: Nothing of ours says how long a time step is at least; see `to_hf_config`.
NO_CLAMP = {"time_step_min": 1e-12}


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    with worker(tmp_path_factory.mktemp("made")) as running:
        yield running


@pytest.fixture(scope="module")
def made(hf):
    """Every model as transformers saved it, the family and the full member that we made of it."""
    for i, (name, case) in enumerate(MADE.items()):
        place = hf.place / name
        hf.arrays("make", TOKENS, config=case.config(), folder=str(place / "theirs"), seed=i, **case.options)
        init_family(place / "theirs", BLOCK, place / "family")
        slice_checkpoint(place / "family", place / "full", member="all")
    return hf.place


def raw_tensors(folder: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """dtype, shape and bytes of every tensor, by the name with `backbone.`."""
    return {re.sub(r"^model\.", "backbone.", name): raw for name, raw in strangers.read(folder).items()}


@pytest.mark.parametrize("name", MADE)
def test_tensors_come_through_byte_for_byte(made, name):
    theirs = raw_tensors(made / name / "theirs")
    assert len(theirs) > 5
    for ours in ("family", "full"):
        assert raw_tensors(made / name / ours) == theirs
    several = len(list((made / name / "theirs").glob("*.safetensors"))) > 1
    assert several == ("several" in name)
    if not several:  # the whole file, too: safetensors orders tensors as we do
        file = "model.safetensors"
        assert (made / name / "full" / file).read_bytes() == (made / name / "theirs" / file).read_bytes()


@pytest.mark.parametrize("name", MADE)
def test_transformers_computes_the_same_with_ours(hf, made, name):
    expect, _ = hf.arrays("run", TOKENS, folder=str(made / name / "theirs"), override=NO_CLAMP)
    independent = reference.logits(reference.read(made / name / "full"), TOKENS)
    for ours in ("family", "full"):
        got, message = hf.arrays("run", TOKENS, folder=str(made / name / ours))
        assert message == {"class": "NemotronHForCausalLM", "loading": {}}
        np.testing.assert_array_equal(got["logits"], expect["logits"])
        assert np.abs(got["logits"] - independent).max() <= 1e-5 * np.abs(independent).max()


@pytest.mark.parametrize("name", MADE)
def test_settings_come_through(made, name):
    """What a config says beside shapes and layers; both are read by their own tests."""
    theirs, ours = (json.loads((made / name / f / "config.json").read_text()) for f in ("theirs", "full"))
    for key in (
        "bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings", "tie_word_embeddings", "use_cache",
        "layer_norm_epsilon", "initializer_range", "chunk_size", "expand",
    ):  # fmt: skip
        assert ours[key] == theirs[key], key
    assert ours["torch_dtype"] == (theirs["dtype"] if "dtype" in theirs else theirs["torch_dtype"])


@pytest.mark.parametrize("words", [*WORDS, "hybrid_override_pattern and layers_block_type"])
@pytest.mark.parametrize(("name", "prefix"), [("tied", "backbone"), ("several files", "model")])
def test_every_spelling_is_the_same_model(hf, made, tmp_path, name, words, prefix):
    """On the disk, as older and newer versions of transformers and of Nemotron-H's own code have written it."""
    folder = tmp_path / "theirs"
    shutil.copytree(made / name / "theirs", folder)
    pattern = MADE[name].pattern
    config = json.loads((folder / "config.json").read_text())
    for key in ("hybrid_override_pattern", "layers_block_type", "layer_types"):
        config.pop(key, None)
    for part in words.split(" and "):
        config |= spelled(pattern, part)
    (folder / "config.json").write_text(json.dumps(config))
    rename(folder, prefix)
    # what transformers makes of that spelling is the same, too: it is not one that only we know
    expect, _ = hf.arrays("run", TOKENS, folder=str(made / name / "theirs"))
    got, message = hf.arrays("run", TOKENS, folder=str(folder))
    assert message["loading"] == {}
    np.testing.assert_array_equal(got["logits"], expect["logits"])
    init_family(folder, BLOCK, tmp_path / "family")
    slice_checkpoint(tmp_path / "family", tmp_path / "full", member="all")
    for kind in ("family", "full"):
        for path in sorted((made / name / kind).iterdir()):
            if path.name != "README.md":
                assert (tmp_path / kind / path.name).read_bytes() == path.read_bytes(), path.name


def rename(folder: Path, prefix: str) -> None:
    """Give all tensors that prefix, in the files and in the index."""
    own = lambda name: name.replace("backbone.", f"{prefix}.").replace("model.", f"{prefix}.")  # noqa: E731
    for path in folder.glob("*.safetensors"):
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.dumps({own(n): info for n, info in json.loads(content[8:start]).items()}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + content[start:])
    index = folder / "model.safetensors.index.json"
    if index.exists():
        data = json.loads(index.read_text())
        data["weight_map"] = {own(n): file for n, file in data["weight_map"].items()}
        index.write_text(json.dumps(data))
