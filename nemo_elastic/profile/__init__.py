# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What layers of each kind and width take on a machine, for `core.latency`: measured in an engine, or on paper."""
