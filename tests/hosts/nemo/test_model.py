# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the model refuses when it is built, where no recipe was checked before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nemo_elastic.errors import ElasticError
from tests.megatron.models import start

pytestmark = pytest.mark.nemo
BLOCK: dict[str, Any] = {
    "budgets": [{"name": "full"}, {"name": "half", "ratio": 0.5}],
    "axes": {"hidden": [128, 64], "mamba_heads": [16, 12], "mamba_head_dim": [16, 9]},
    "distill": {"mode": "ce"},
}


@pytest.mark.parametrize("kernels", [True, False])
def test_a_mamba_width_that_the_kernels_refuse(kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from nemo_elastic.hosts.nemo import model as module
    from nemo_elastic.hosts.nemo.tiny.model import TinyNemotronH
    from nemo_elastic.megatron.platform.device import cuda_as_cpu

    start()
    monkeypatch.setattr("nemo_elastic.megatron.build.have_kernels", lambda: kernels)
    model = module.ElasticMambaModel(TinyNemotronH(), BLOCK, tokenizer=SimpleNamespace(vocab_size=1024))
    with cuda_as_cpu():
        if kernels:
            with pytest.raises(
                ElasticError, match=r"^axes.mamba_head_dim: 9 is not allowed; .* 12 heads of 9 give 236"
            ):
                model.configure_model()
        else:
            model.configure_model()
            assert model.parent.mamba_head_dim == 16
