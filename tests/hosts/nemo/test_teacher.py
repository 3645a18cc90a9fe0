# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The teacher: its precision, its rows, and what a student learns of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nemo_elastic.errors import ElasticError
from tests.hosts.nemo.cutting import MEMBER, PARENT, random_tensors
from tests.support.elastic_model import batch_of, elastic_model, settings

pytestmark = pytest.mark.nemo
MIDDLE = PARENT.uniform(keep=[0, 1, 2, 3, 4, 6], hidden=56, ffn=80)
MEMBERS = [PARENT.full, MIDDLE, MEMBER]
BLOCK: dict[str, Any] = {
    "budgets": [{"name": "full"}, {"name": "middle", "ratio": 0.8}, {"name": "small", "ratio": 0.5}],
    "axes": {
        "hidden": [64, 56, 48, 32], "ffn": {"choices": [96, 80, 64, 32], "stripes": 4}, "mamba_heads": [8, 6, 4],
        "mamba_head_dim": [16, 12], "attention_heads": [8, 4], "depth": [7, 6, 5],
    },
    "shapes": "even",
}  # fmt: skip
TOKENS = torch.randint(0, PARENT.vocab, (2, 40), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("parent"), random_tensors(PARENT))


def write(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    from nemo_elastic.hosts.nemo.checkpoint.write import write_nemo_checkpoint
    from tests.support.models import start

    start()
    return write_nemo_checkpoint(folder / "nemo", PARENT, PARENT.full, tensors)


def teacher(checkpoint: Path, precision: str | None, given: Any = None) -> Any:
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.models import build_teacher

    given = given or settings(PARENT)
    before, tokenizer = dict(vars(given)), SimpleNamespace(vocab_size=PARENT.vocab)
    with cuda_as_cpu():
        made = build_teacher(lambda c: c.configure_model(tokenizer), given, str(checkpoint), precision)
    assert vars(given) == before, "they are the student's, too"
    assert not made.training and not any(p.requires_grad for p in made.parameters())
    return made


def held(model: Any) -> dict[str, int]:
    """Bytes of every parameter and buffer."""
    return {n: t.numel() * t.element_size() for n, t in [*model.named_parameters(), *model.named_buffers()]}


@pytest.mark.parametrize(("tokens", "unit"), [(60, 128), (64, 3)])
def test_the_family_has_the_teachers_rows_whatever_it_is_padded_for(checkpoint: Path, tokens: int, unit: int) -> None:
    core, taught = (m.embedding.word_embeddings.weight for m in padded(checkpoint, tokens, unit))
    assert core.shape == (PARENT.vocab, PARENT.hidden) and torch.equal(core, taught)


def test_a_tokenizer_that_is_not_the_teachers_is_refused_when_the_run_starts(checkpoint: Path) -> None:
    with pytest.raises(ElasticError, match=r"^recipe\.data\.tokenizer\.vocab_size: 65 "):
        padded(checkpoint, 65, 1)


def padded(checkpoint: Path, tokens: int, unit: int) -> tuple[Any, Any]:
    """Student and teacher of a run with a tokenizer, whose size NeMo pads to a multiple of `unit`."""
    from nemo_elastic.hosts.nemo.model import ElasticMambaModel
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from tests.support.models import start

    start()
    config, tokenizer = settings(PARENT), SimpleNamespace(vocab_size=tokens)
    config.make_vocab_size_divisible_by = unit
    model = ElasticMambaModel(config, BLOCK, teacher=str(checkpoint), stage_steps=100, tokenizer=tokenizer)
    with cuda_as_cpu():
        model.configure_model()
    return model.host.core, model.host.frozen


def test_a_teacher_in_bf16_takes_half_of_the_bytes(checkpoint: Path) -> None:
    half = settings(PARENT)
    half.bf16, half.params_dtype = True, torch.bfloat16
    own = held(teacher(checkpoint, None))
    for small in (teacher(checkpoint, "bf16"), teacher(checkpoint, None, half)):
        assert {name: 2 * size for name, size in held(small).items()} == own
        with torch.no_grad():
            assert small(TOKENS, None, None).dtype == torch.bfloat16


def test_a_float32_student_learns_nearly_the_same_of_a_half_precision_teacher(checkpoint: Path) -> None:
    def step(precision: str | None) -> tuple[torch.Tensor, torch.Tensor]:
        block = BLOCK | {"distill": {"teacher_precision": precision}, "sampling": {"small": 1}}
        model = elastic_model(PARENT, block, MEMBERS, checkpoint)
        loss = model.training_step(batch_of(PARENT, 2, 40))
        loss.backward()
        return loss.detach(), model.host.core.output_layer.weight.grad

    (loss, grad), (wanted, near) = step("bf16"), step(None)
    assert loss.dtype == grad.dtype == torch.float32
    torch.testing.assert_close(loss, wanted, rtol=0.02, atol=0)
    assert 0 < (grad - near).norm() < 0.2 * near.norm()


def test_the_routers_loss_counts_as_often_as_the_micro_batch_has_tokens(checkpoint: Path) -> None:
    soft = {"shapes": "router", "router": {"hidden": 8, "loss_weight": 2.0}, "sampling": {"small": 1}}
    model = elastic_model(PARENT, BLOCK | soft, MEMBERS, checkpoint)
    batch = batch_of(PARENT, 2, 20)
    loss = model.training_step(batch)
    routed = model.family.last_router["routed"]
    (ran,) = model.family.ran
    assert ran.budget == 2
    wanted = 2.0 * model.members.router.budget_loss(routed, 2) * batch["loss_mask"].sum()
    assert float(wanted) > 0
    torch.testing.assert_close((loss - ran.loss).float(), wanted.float(), rtol=1e-4, atol=1e-4)
