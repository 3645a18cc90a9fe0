# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The frozen teacher: built, loaded, and held in few bytes.

ModelOpt's quantised formats here are weight-only and real: `mtq.quantize` alone computes in a narrow format and keeps
the wide weight, `mtq.compress` replaces it. A layer's weight is made whole for as long as the layer runs, so
activations and products have the model's own dtype and no calibration is needed.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import torch
from megatron.core import parallel_state

from .linear import ElasticLayerNormColumnParallelLinear, ElasticRowLinear
from .load import load_model_weights

LINEAR = (ElasticLayerNormColumnParallelLinear, ElasticRowLinear)
#: elastic.distill.teacher_precision -> ModelOpt's format of a weight: type of an element, one scale per row (axis 0)
FORMATS = {"fp8": {"num_bits": (4, 3), "axis": 0}, "int8": {"num_bits": 8, "axis": 0}}


def build_teacher(build: Callable[[Any], Any], config: Any, path: str | None, precision: str | None = None) -> Any:
    """The parent as a frozen megatron-core model, sharded like the student.

    In bf16 the model is allocated as such, whatever the checkpoint holds. To be quantised it exists once in the
    model's own dtype, then shrinks weight by weight; call this before the student is built, and that peak (plus one
    layer) is below what training takes later.

    Args:
        build: makes a model of a config.
        config: of the parent, with the elastic stack spec.
        path: checkpoint of the parent.
        precision: `elastic.distill.teacher_precision`.
    """
    if precision == "bf16":
        # the student keeps its own: a copy, not a change
        config = copy.copy(config)
        config.bf16, config.params_dtype = True, torch.bfloat16
    teacher = build(config).eval().requires_grad_(False)
    if config.bf16:
        teacher = teacher.bfloat16()  # as megatron-core's Float16Module does with the student
    load_model_weights(teacher, path)
    if precision in FORMATS:
        quantize(teacher, precision)
    return teacher


@torch.no_grad()
def quantize(model: Any, precision: str) -> None:
    """Replace the weights of the elastic linear layers by ModelOpt's compressed ones, in place. It cannot be undone.

    Every tensor-parallel rank scales the rows of its own shard. A layer with a row of zeros stays as it is: its scale
    would be zero.
    """
    import modelopt.torch.quantization as mtq

    _register()
    # in a list of their own: ModelOpt would convert convolutions and the head too, and set flags in the shared config
    layers = [m for m in model.decoder.modules() if isinstance(m, LINEAR)]
    layers = torch.nn.ModuleList(m for m in layers if m.weight.detach().abs().amax(1).min() > 0)  # pyright: ignore
    off = {"enable": False}
    quantizers = {"*weight_quantizer": FORMATS[precision], "*input_quantizer": off, "*output_quantizer": off}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", message="Real quantization has been applied")  # nothing here is saved
        mtq.quantize(layers, {"quant_cfg": quantizers, "algorithm": None})
        mtq.compress(layers)


def _register() -> None:
    """Tell ModelOpt that our linears read their weight as `nn.Linear` does.

    Its own rule for megatron-core's classes replaces functions of megatron-core, which ours do not call.
    """
    from modelopt.torch.quantization.nn import QuantModuleRegistry
    from modelopt.torch.quantization.nn.modules.quant_module import QuantLinearConvBase
    from modelopt.torch.utils.distributed import ParallelState

    class QuantElasticLinear(QuantLinearConvBase):
        def _setup(self) -> None:
            self.parallel_state = ParallelState(
                parallel_state.get_data_parallel_group(), parallel_state.get_tensor_model_parallel_group()
            )
            super()._setup()

    for cls in LINEAR:
        if cls not in QuantModuleRegistry:
            QuantModuleRegistry.register({cls: cls.__name__})(QuantElasticLinear)
