# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""megatron-core modules that know widths: linears, norms, mixers, stack and the spec that assembles them."""
