# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The studies: one parent, several ways to make smaller models of it, the same data, tokens and seeds."""
