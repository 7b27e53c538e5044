"""Proposed changes of labels as a file: look at it, apply it, undo it. No image is ever deleted or written."""

from __future__ import annotations

from cosphere.data.patches.applying import AppliedPatch, apply_patch, boxes_of_one_label, record_of, undo_patch
from cosphere.data.patches.proposal import RELABEL, REMOVE, Change, patch_text, read_patch, write_patch

__all__ = [
    "RELABEL",
    "REMOVE",
    "AppliedPatch",
    "Change",
    "apply_patch",
    "boxes_of_one_label",
    "patch_text",
    "read_patch",
    "record_of",
    "undo_patch",
    "write_patch",
]
