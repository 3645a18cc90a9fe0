# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Tests of nemo_elastic.hosts.nemo.checkpoint.write.

The stock side runs once, in a process that cannot import this package, with megatron-core layers of its own
(`stock_spec.py`): what it computes is an oracle independent of everything here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_elastic.core.family import Subnet
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.adapter import to_megatron
from nemo_elastic.hosts.nemo.checkpoint.write import divisor, write_nemo_checkpoint
from tests.hosts.nemo.cutting import MEMBER, PARENT, assert_equal, cut, random_tensors, write_words
from tests.support.states import read_checkpoint

HERE = Path(__file__).parents[1]
TOKENS = 60  # of the tokenizer; the model has 64 rows


@pytest.fixture(scope="module")
def full() -> dict[str, torch.Tensor]:
    return random_tensors(PARENT)


@pytest.mark.parametrize(("vocab", "tokens", "wanted"), [(131072, 131072, 1), (1024, 1000, 32), (64, 1, 64)])
def test_nemo_pads_to_exactly_the_rows_that_are_there(vocab, tokens, wanted):
    d = divisor(vocab, tokens)
    assert d == wanted
    assert (tokens + d - 1) // d * d == vocab  # what nemo.lightning.get_vocab_size computes


# ------------------------------------------------------------------ refusals: before NeMo is imported


def test_refusals_leave_nothing(full, tmp_path):
    uneven = Subnet(MEMBER.hidden, (*MEMBER.layers[:-1], PARENT.layer(6, ffn=32)))
    double = {name: value.double() for name, value in cut(PARENT, MEMBER, full).items()}
    for match, member, state in (
        ("one width in all layers", uneven, cut(PARENT, uneven, full)),
        ("float32, bfloat16 or float16", MEMBER, double),
    ):
        with pytest.raises(ElasticError, match=match):
            write_nemo_checkpoint(tmp_path / "out", PARENT, member, state)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ElasticError, match="rows for 64 tokens"):
        divisor(64, 65)


def test_one_of_several_processes_is_refused(full, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ElasticError, match="world size: 2"):
        write_nemo_checkpoint(tmp_path / "out", PARENT, MEMBER, cut(PARENT, MEMBER, full))
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ through NeMo


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    return write_words(tmp_path_factory.mktemp("tokenizer") / "words", TOKENS)


@pytest.fixture(scope="module")
def written(full, tokenizer, tmp_path_factory) -> Path:
    """The member's checkpoint, written where neither a process group nor model-parallel state exists."""
    before = torch.distributed.is_initialized()  # False, unless another test left its own behind
    out = tmp_path_factory.mktemp("written") / "member"
    random_state = torch.get_rng_state()
    assert write_nemo_checkpoint(out, PARENT, MEMBER, cut(PARENT, MEMBER, full), tokenizer_dir=tokenizer) == out
    assert torch.distributed.is_initialized() is before
    assert torch.equal(torch.get_rng_state(), random_state)
    return out


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(0, TOKENS, (2, 21), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def stock(written, tokens, tmp_path_factory) -> dict:
    """What stock NeMo makes of the checkpoint, moved away from where it was written."""
    folder = tmp_path_factory.mktemp("stock")
    moved = written.rename(folder / "moved")
    np.save(folder / "tokens.npy", tokens.numpy())
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "stock_worker.py"), str(moved), "tokens.npy", "out.npz"]
    try:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=1800)
    finally:
        moved.rename(written)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    actual = np.load(folder / "out.npz")
    return {k: torch.from_numpy(actual[k]) for k in ("by_nemo", "by_megatron")} | json.loads(str(actual["facts"]))


@pytest.fixture(scope="module")
def trained_before():
    """A process as it is after training: process group and model-parallel state."""
    from tests.support.models import start

    start()


@pytest.mark.nemo
@pytest.mark.slow
class TestNeMo:
    def test_the_folder_is_plain_and_names_no_place(self, written, tokenizer):
        names = {str(p.relative_to(written)) for p in written.rglob("*") if p.is_file()}
        assert names >= {"context/io.json", "context/model.yaml", "context/tokenizer/tokenizer.json"}
        assert names >= {"weights/metadata.json", "weights/common.pt", "weights/.metadata"}
        for name in ("context/io.json", "context/model.yaml"):
            text = (written / name).read_text()
            assert "nemo_elastic" not in text
            assert str(tokenizer) not in text
            assert str(written.parent) not in text

    def test_stock_nemo_rebuilds_stock_classes(self, stock):
        assert stock["model"] == "nemo.collections.llm.gpt.model.ssm.MambaModel"
        assert stock["config"] == "nemo.collections.llm.gpt.model.ssm.NemotronHConfigBase"
        assert stock["default_spec"] is True
        assert stock["strategy"] == "MegatronStrategy"
        assert stock["dtype"] == "torch.float32"
        assert stock["sizes"] == {
            "hybrid_override_pattern": "MM*--",
            "num_layers": 5,
            "hidden_size": 48,
            "ffn_hidden_size": 64,
            "mamba_num_heads": 6,
            "mamba_head_dim": 12,
            "mamba_num_groups": 2,
            "mamba_state_dim": 8,
            "num_attention_heads": 4,
            "num_query_groups": 2,
            "kv_channels": 8,
            "vocab_size": 64,
            "make_vocab_size_divisible_by": 8,
            "layernorm_epsilon": 1e-5,
            "share_embeddings_and_output_weights": False,
            "seq_length": 8192,
        }
        assert (stock["tokens"], stock["rows"]) == (TOKENS, PARENT.vocab)

    def test_the_keys_are_those_of_megatron_core(self, stock):
        assert stock["only_in_model"] == []
        # what TransformerEngine's layers have, and the plain ones of the oracle have not
        assert stock["only_in_file"] == [
            "module.decoder.final_norm._extra_state",
            "module.decoder.layers.2.self_attention.core_attention._extra_state",
        ]

    def test_stock_logits_are_those_of_the_elastic_slice(self, stock, trained_before, full, tokens):
        from nemo_elastic.megatron.cpu import cuda_as_cpu
        from tests.megatron.models import build, load

        core = build(PARENT).eval()
        load(core, to_megatron(PARENT, PARENT.full, full))
        core.state.choice = MEMBER
        with cuda_as_cpu(), torch.no_grad():
            ours = core(tokens, None, None)
            core.state.choice = None
            whole = core(tokens, None, None)
        assert ours.shape == (2, 21, PARENT.vocab)
        torch.testing.assert_close(stock["by_megatron"], ours, rtol=1e-5, atol=1e-5)
        assert torch.equal(stock["by_nemo"], stock["by_megatron"])
        assert (whole - ours).abs().max() > 0.1  # the comparison can tell members apart

    def test_it_writes_after_training_in_the_same_process(self, written, trained_before, full, tokenizer, tmp_path):
        import torch.distributed as dist
        from megatron.core import parallel_state

        group = dist.group.WORLD
        half = {name: value.bfloat16() for name, value in full.items()}
        out = write_nemo_checkpoint(tmp_path / "parent", PARENT, PARENT.full, half, tokenizer_dir=tokenizer)
        assert dist.group.WORLD is group
        assert parallel_state.model_parallel_is_initialized()
        assert_equal(read_checkpoint(out, PARENT)[0], half)

        from nemo.lightning import io

        config = io.load_context(out, subpath="model.config")
        assert (config.params_dtype, config.bf16, config.hidden_size) == (torch.bfloat16, True, PARENT.hidden)

    def test_a_base_class_built_first_does_not_spoil_the_capture(self, written, full, tmp_path, monkeypatch):
        """NeMo takes a class for one that captures its arguments once its base does; here the classes are as if the
        base had been built first."""
        from nemo.collections.llm.gpt.model import ssm
        from nemo.lightning import io

        ssm.SSMConfig(apply_rope_fusion=False)
        config = ssm.NemotronHConfigBase
        monkeypatch.delattr(config, "__wrapped_init__", raising=False)
        monkeypatch.setattr(config, "__init__", getattr(config.__init__, "__wrapped__", config.__init__))
        assert not hasattr(config(apply_rope_fusion=False), "__io__")
        out = write_nemo_checkpoint(tmp_path / "again", PARENT, MEMBER, cut(PARENT, MEMBER, full))
        model = io.load_context(out, subpath="model")
        assert model.tokenizer is None
        assert model.config.hidden_size == MEMBER.hidden

    @pytest.mark.parametrize("content", [None, "no JSON"])
    def test_a_bad_tokenizer_is_one_line(self, full, tmp_path, content):
        folder = tmp_path / "tokenizer"
        if content is not None:
            folder.mkdir()
            (folder / "tokenizer.json").write_text(content)
        with pytest.raises(ElasticError, match="tokenizer") as caught:
            write_nemo_checkpoint(tmp_path / "out", PARENT, MEMBER, cut(PARENT, MEMBER, full), tokenizer_dir=folder)
        assert "\n" not in caught.value.message
        assert not (tmp_path / "out").exists()
