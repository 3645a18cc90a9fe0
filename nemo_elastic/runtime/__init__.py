# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family in memory once, any member callable, text in and text out. Needs torch, not NeMo."""

from nemo_elastic.formats.tokenizer import FamilyTokenizer

from .family_runtime import FamilyRuntime, load_family, members_of
from .member_model import MemberModel

__all__ = ["FamilyRuntime", "FamilyTokenizer", "MemberModel", "load_family", "members_of"]
