# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""NeMo 2 checkpoints: megatron-core's distributed weights and NeMo's context, read as data with torch only."""
