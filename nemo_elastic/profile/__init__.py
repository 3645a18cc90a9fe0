# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Times of layers of each kind and width on a machine, for `core.latency`: measured in an engine, or computed."""
