# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The right size by itself: what the smallest member makes of a prompt says which member answers it."""
