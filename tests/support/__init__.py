# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What tests and benchmarks share: models without a host, naive references, memory at its peak."""
