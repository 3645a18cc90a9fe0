# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family in memory once, any member callable, text in and text out. Needs torch, not NeMo."""

from .family import FamilyRuntime, load_family, members_of
from .member import MemberModel
from .tokenizer import FamilyTokenizer

__all__ = ["FamilyRuntime", "FamilyTokenizer", "MemberModel", "load_family", "members_of"]
