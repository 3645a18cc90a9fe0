# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""megatron-core's Mamba mixer as ModelOpt can prune it on a CPU, and what any release of it has to be given there."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core.ssm import mamba_mixer

from nemo_elastic.kernels import MambaWidths
from nemo_elastic.megatron.compat import convolution
from nemo_elastic.megatron.modules import GatedNormWeight
from nemo_elastic.nn.functional import gated_rms_norm
from nemo_elastic.nn.mixer import MixerWeights, torch_scan


class GatedNorm(GatedNormWeight):
    """mamba_ssm's gated norm in torch, with the attributes that ModelOpt cuts."""

    def __init__(self, hidden_size: int, group_size: int, **kwargs: Any) -> None:
        super().__init__(hidden_size, **kwargs)
        self.group_size, self.bias = group_size, None

    def forward(self, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return gated_rms_norm(y, z, self.weight, self.weight.shape[0] // self.group_size, self.eps)


class PrunableMixer(mamba_mixer.MambaMixer):
    """megatron-core's mixer and forward, which ModelOpt knows; only the scan inside is another."""

    def ssm_training(self, zxBCdt: torch.Tensor) -> torch.Tensor:
        conv_weight, conv_bias = convolution(self)
        weights = MixerWeights(
            conv_weight=conv_weight,
            conv_bias=conv_bias,
            a=-torch.exp(self.A_log.float()),
            d=self.D.float(),
            dt_bias=self.dt_bias.float(),
            norm=self.norm.weight,
        )
        heads = self.d_inner_local_tp // self.headdim  # ModelOpt cuts both
        widths = MambaWidths(heads, self.headdim, self.ngroups_local_tp, self.d_state)
        y_bli, z_bli = torch_scan(zxBCdt.transpose(0, 1), weights, widths)
        return self.norm(y_bli, z_bli).transpose(0, 1)

    def _ssm_training(self, zxBCdt: torch.Tensor, packed_seq_params: Any = None) -> torch.Tensor:
        return self.ssm_training(zxBCdt)  # its name in megatron-core 0.19


def check_fresh() -> None:
    """Raise where ModelOpt has been imported: it decides about Mamba on import."""
    if "modelopt.torch.nas.plugins.megatron" in sys.modules:
        raise RuntimeError("ModelOpt was imported before it could know of Mamba: prune in a process of its own")


@contextmanager
def seen(*names: str) -> Iterator[None]:
    """While it lasts, packages of these names can be imported; there is nothing in them but what was put there."""
    modules = {name: types.ModuleType(name) for name in names}
    for name, module in modules.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    sys.modules |= modules
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def tell_megatron() -> None:
    """megatron-core's gated norm is a mock where mamba_ssm is missing; gloo gathers no numbers without a dimension."""
    mamba_mixer.HAVE_MAMBA_SSM, mamba_mixer.ExtendedRMSNorm = True, GatedNorm
    mamba_mixer.RMSNormGated = object
    # depth pruning does, and NCCL takes them
    gather = torch.distributed.all_gather_into_tensor
    torch.distributed.all_gather_into_tensor = lambda out, value, **kw: gather(out, value.reshape(-1), **kw)
