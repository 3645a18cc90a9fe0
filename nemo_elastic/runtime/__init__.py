# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family in memory once, any member callable. Needs torch, not NeMo."""

from .family import FamilyRuntime, MemberModel, load_family, members_of

__all__ = ["FamilyRuntime", "MemberModel", "load_family", "members_of"]
