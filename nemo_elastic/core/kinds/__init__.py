# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Kinds of layers, one `Kind` record each: the rest of the package asks the record, never the kind's name."""
