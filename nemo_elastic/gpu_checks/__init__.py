# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show: `nemo-elastic doctor --kernels` and `pytest -m gpu` run these checks.

`checks` lists them and starts each in a process of its own, for an error of CUDA's ends the process that it happens
in; it needs the standard library alone. Every check's function takes the device, so that a CPU runs the same code.
"""
