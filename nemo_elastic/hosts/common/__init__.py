# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What all hosts share around a training: options, files, checkpoints, what must agree, and jobs by NeMo-Run.

Nothing here imports NeMo, Megatron-Bridge or a host.
"""
