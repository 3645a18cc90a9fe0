# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The demo: the whole method on real text at tiny size, through NeMo, on this machine's CPU."""
