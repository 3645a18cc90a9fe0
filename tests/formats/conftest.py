# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A small family whose widths are blocks of 16, for the formats of low precision."""

from tests.quantize.conftest import dense as dense
