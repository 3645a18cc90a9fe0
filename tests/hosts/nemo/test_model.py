# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the model refuses when it is built, where no recipe was checked before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.documents import Documents
from nemo_elastic.train.training import FamilyTraining
from tests.megatron.models import start

pytestmark = pytest.mark.nemo
BLOCK: dict[str, Any] = {
    "budgets": [{"name": "full"}, {"name": "half", "ratio": 0.5}],
    "axes": {"hidden": [128, 64], "mamba_heads": [16, 12], "mamba_head_dim": [16, 9]},
    "distill": {"teacher": "none"},
}


@pytest.mark.parametrize("owner", ["ddp_config", "optim"])
def test_an_overlap_that_was_turned_on_again(owner: str) -> None:
    from megatron.core.distributed import DistributedDataParallelConfig
    from megatron.core.optimizer import OptimizerConfig
    from nemo import lightning as nl

    from nemo_elastic.hosts.nemo.model import ElasticMambaModel
    from nemo_elastic.hosts.nemo.tiny.recipe import TinyNemotronH

    start()
    optimizer, ddp = OptimizerConfig(lr=1e-3), DistributedDataParallelConfig()
    (optimizer if owner == "optim" else ddp).overlap_param_gather = True
    optim, tokenizer = nl.MegatronOptimizerModule(config=optimizer), SimpleNamespace(vocab_size=1024)
    model: Any = ElasticMambaModel(TinyNemotronH(), BLOCK, tokenizer=tokenizer, optim=optim)
    model._trainer = SimpleNamespace(strategy=nl.MegatronStrategy(ddp=ddp))
    name = "optim.config" if owner == "optim" else "trainer.strategy.ddp"
    with pytest.raises(ElasticError, match=rf"^recipe\.{name}\.overlap_param_gather: True "):
        model.configure_model()


def test_a_micro_batch_of_packed_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    from nemo_elastic.hosts.nemo.model import ElasticMambaModel
    from nemo_elastic.hosts.nemo.tiny.recipe import TinyNemotronH
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    start()
    model: Any = ElasticMambaModel(TinyNemotronH(), BLOCK, tokenizer=SimpleNamespace(vocab_size=1024))
    model.host = SimpleNamespace(core=SimpleNamespace(vocab_size=1024))
    whole = {name: torch.zeros(1, 8, dtype=torch.long) for name in ("tokens", "labels", "loss_mask", "position_ids")}
    packed = whole | {"cu_seqlens": torch.tensor([[0, 4, 8]]), "cu_seqlens_argmin": torch.tensor([[3]])}
    packed["max_seqlen"] = torch.tensor([4])
    with cuda_as_cpu():
        assert model.data_step(iter([whole]))["documents"] is None
        assert model.data_step(iter([packed]))["documents"] == Documents(((4, 8),))
        model.family = FamilyTraining(ElasticConfig.from_dict(BLOCK | {"data": {"documents": "joined"}}))
        assert model.data_step(iter([packed]))["documents"] is None


@pytest.mark.parametrize("kernels", [True, False])
def test_a_mamba_width_that_the_kernels_refuse(kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from nemo_elastic.hosts.nemo import model as module
    from nemo_elastic.hosts.nemo.tiny.recipe import TinyNemotronH
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    start()
    monkeypatch.setattr("nemo_elastic.megatron.models.have_kernels", lambda: kernels)
    model = module.ElasticMambaModel(TinyNemotronH(), BLOCK, tokenizer=SimpleNamespace(vocab_size=1024))
    with cuda_as_cpu():
        if kernels:
            with pytest.raises(ElasticError, match=r"^elastic.axes.mamba_head_dim: 9 "):
                model.configure_model()
        else:
            model.configure_model()
            assert model.parent.mamba_head_dim == 16
