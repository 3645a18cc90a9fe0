# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The reference model against transformers' own Nemotron-H: parents and members, logits and decoding.

transformers runs in another environment, because NeMo does not take a version that has this architecture.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_elastic.core.family import PARENT_WIDTH, Parent, Subnet
from nemo_elastic.core.kinds.registry import layer_axes
from nemo_elastic.core.layout import is_exact
from nemo_elastic.formats.checkpoint import in_memory
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf.writing import write_checkpoints
from nemo_elastic.nn.gates import Gates
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.runtime import load_family
from nemo_elastic.slicing.card import needs_eager_experts
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.shapes import LATENT, MOE, PARENT
from tests.slicing.helpers import large_biases, write

pytestmark = pytest.mark.hf

ROOT = Path(__file__).parents[2]
NEW_TOKENS = 6
LARGER = Parent(
    pattern="MM-*M-*",
    hidden=48,
    vocab=96,
    ffn=60,
    mamba_heads=12,
    mamba_head_dim=8,
    mamba_groups=4,
    state=8,
    attention_heads=9,
    kv_heads=3,
    attention_head_dim=8,
    ffn_stripes=4,
)


#: whose members may keep some of the key-value heads alone
GROUPS = replace(LARGER, kv_heads_stripes=1)
#: one group in its first attention layer, and in the second two of which each has less
_FEW = {3: {"kv_heads": 1}, 6: {"kv_heads": 2, "attention_heads": 2}}
GROUPS_OF_EACH = Subnet(GROUPS.hidden, tuple(GROUPS.layer(i, **_FEW.get(i, {})) for i in range(GROUPS.num_layers)))


def uneven(parent: Parent) -> Subnet:
    """A member whose layers have widths of their own: transformers runs it with the code that its folder brings."""
    layers = []
    for n, layer in enumerate(parent.full.layers[1:]):
        cut = {}
        for axis, choice in parent.choices(layer).items():
            blocks, heads = parent.axis(axis).blocks, layer_axes()[axis][1].grouped
            cut[axis] = max(blocks, choice - (n % 3 if heads else n) * blocks)
        layers.append(replace(layer, widths=parent.widths(layer.type, cut)))
    return Subnet(parent.hidden - 3, tuple(layers)).validate(parent)


CASES: dict[str, tuple[Parent, Subnet]] = {
    "small": (PARENT, PARENT.full),
    "larger": (LARGER, LARGER.full),
    "tied": (replace(PARENT, tied=True), PARENT.full),
    "odd_kernel": (replace(LARGER, conv_kernel=3, norm_eps=1e-3), LARGER.full),
    "hidden": (LARGER, LARGER.uniform(hidden=31)),
    "norm": (replace(LARGER, norm=PARENT_WIDTH, norm_eps=1e-2), LARGER.uniform(hidden=31, mamba_heads=8)),
    "ffn": (LARGER, LARGER.uniform(ffn=28)),
    "mamba_heads": (LARGER, LARGER.uniform(mamba_heads=8)),
    "mamba_head_dim": (LARGER, LARGER.uniform(mamba_head_dim=5)),
    "attention_heads": (LARGER, LARGER.uniform(attention_heads=6)),
    "kv_heads": (GROUPS, GROUPS.uniform(kv_heads=1)),
    "kv_heads_of_one_query": (GROUPS, GROUPS.uniform(kv_heads=2, attention_heads=2)),
    "depth": (LARGER, LARGER.uniform(keep=(0, 2, 3, 4))),
    "all": (
        LARGER,
        LARGER.uniform(keep=(1, 2, 3, 5), hidden=40, ffn=32, mamba_heads=4, mamba_head_dim=6, attention_heads=3),
    ),
    "uneven": (LARGER, uneven(LARGER)),
    "uneven_kv_heads": (GROUPS, GROUPS_OF_EACH),
    "latent_experts": (LATENT, LATENT.full),
    "experts": (MOE, MOE.full),
    "fewer_experts": (MOE, MOE.uniform(experts=4)),
    "expert_ffn": (MOE, MOE.uniform(expert_ffn=6)),
    "shared_ffn": (LATENT, LATENT.uniform(shared_ffn=8)),
    "latent": (LATENT, LATENT.uniform(latent=4)),
    "all_of_experts": (
        LATENT,
        LATENT.uniform(keep=(0, 1, 3), hidden=11, experts=6, expert_ffn=8, shared_ffn=12, latent=4, mamba_heads=4),
    ),
    "odd_experts": (LATENT, LATENT.uniform(expert_ffn=6, latent=7)),
    "uneven_experts": (LATENT, uneven(LATENT)),
}


#: what `slice --dtype bf16` writes of a parent whose biases bfloat16 cannot tell apart, and how it is loaded
HALF = {"half": "bfloat16", "half_auto": "auto"}
HALF_MEMBER = MOE.uniform(experts=4)


def hf_python() -> Path:
    python = Path(os.environ.get("NEMO_ELASTIC_HF_PYTHON", ".venv-hf/bin/python"))
    python = python if python.is_absolute() else ROOT / python
    assert python.is_file(), (
        f"{python} is missing: `make venv` makes the environment with transformers that this test compares with; "
        "NEMO_ELASTIC_HF_PYTHON names another one"
    )
    return python


def parent_model(parent: Parent) -> NemotronH:
    return NemotronH.random(parent, seed=7, scale=1.5)


def tokens_of(parent: Parent) -> np.ndarray:
    return np.random.default_rng(0).integers(parent.vocab, size=(2, 21))


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> Path:
    """Folders of all cases, with what transformers makes of them: one process, its import takes seconds."""
    root = tmp_path_factory.mktemp("parity")
    for name, (parent, member) in CASES.items():
        (root / name).mkdir()
        model = parent_model(parent).submodel(member)
        write_checkpoints({root / name: in_memory(parent, member, model.state_dict())})
        np.save(root / name / "tokens.npy", tokens_of(parent))
        if needs_eager_experts(member, 4):
            (root / name / "eager").touch()
    state = {n: t.detach().numpy() for n, t in parent_model(MOE).state_dict().items()}
    write(tmp_path_factory.mktemp("half") / "family", MOE, {"small": HALF_MEMBER}, tensors=large_biases(state))
    for name, dtype in HALF.items():
        family = tmp_path_factory.getbasetemp() / "half0" / "family"
        slice_checkpoint(family, root / name, member="small", dtype="bf16")
        np.save(root / name / "tokens.npy", tokens_of(MOE))
        (root / name / "dtype").write_text(dtype)
        (root / name / "eager").touch()
    worker = Path(__file__).with_name("transformers_worker.py")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    env["HF_HOME"] = str(tmp_path_factory.mktemp("hf_home"))  # remote code is copied there
    done = subprocess.run([hf_python(), worker, root], capture_output=True, text=True, timeout=1800, env=env)
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(answers, case):
    parent, member = CASES[case]
    expected = np.load(answers / case / "transformers.npz")["logits"]
    model, tokens = parent_model(parent), torch.from_numpy(tokens_of(parent))
    with torch.no_grad():
        sliced, masked = (model(tokens, choice).numpy() for choice in (member, Gates.of(parent, member)))
    assert np.abs(expected).max() > 0.5
    for actual in (sliced, masked):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-5 * np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_greedy_decoding_is_that_of_transformers(answers, case):
    parent, member = CASES[case]
    expected = np.load(answers / case / "transformers.npz")["new"]
    new = parent_model(parent).generate(torch.from_numpy(tokens_of(parent))[:, :4], NEW_TOKENS, choice=member)
    assert expected.tolist() == new


@pytest.mark.parametrize("case", HALF)
def test_it_takes_the_biases_of_experts_in_float32_beside_bfloat16(answers, case):
    actual, tensors = np.load(answers / case / "transformers.npz"), open_source(answers / case).tensors
    own = {n: raw for n, raw in tensors.items() if is_exact(n)}
    assert len(own) == 2 and tensors["backbone.norm_f.weight"].dtype == "BF16"
    for name, raw in own.items():
        bias = actual[name.replace("backbone", "model")]
        assert bias.dtype == np.float32 and len(set(bias.tolist())) == 4
        np.testing.assert_array_equal(bias, raw.numpy())
    logits = load_family(answers / case).select("small")(torch.from_numpy(tokens_of(MOE))).float().numpy()
    assert np.abs(logits - actual["logits"]).mean() < 0.02 * np.abs(logits).max()
