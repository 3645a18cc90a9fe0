# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What `nemo-elastic doctor --kernels` runs on a GPU; tests/gpu_checks has what else only a GPU can show.

`run_checks` lists the checks and starts each in a process of its own, for an error of CUDA's ends the process that it
happens in. Every check's function takes the device, so that a CPU runs the same code.
"""
