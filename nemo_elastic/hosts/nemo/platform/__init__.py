# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""NeMo on the machine that is there: what lets training that was written for CUDA run on a CPU.

`device.cuda_as_cpu` needs torch alone; `strategy.CPUMegatronStrategy` and `strategy.strategy_class` import NeMo.
"""
