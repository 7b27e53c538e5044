"""A gallery on disk: items with ids, metadata and rows of numbers, durable and consistent. Imports neither torch nor pandas.

:class:`cosphere.search.Gallery` is this with a search; programs use that.
"""

from __future__ import annotations

from cosphere.gallery.adding import Added
from cosphere.gallery.address import is_gallery, open_store
from cosphere.gallery.changes import Known
from cosphere.gallery.compaction import check_all, compact
from cosphere.gallery.erasure import Receipt, load_receipts
from cosphere.gallery.interface import Compacted
from cosphere.gallery.items import Item
from cosphere.gallery.proof import Finding, Proof, prove_deleted
from cosphere.gallery.receipt_file import OnReceipt, ReceiptFile, save_receipts
from cosphere.gallery.schema import Space, State
from cosphere.gallery.sqlite import library_version, version_warning
from cosphere.gallery.store import Deleted, Store
from cosphere.gallery.where import Where, parse

__all__ = [
    "Added",
    "Compacted",
    "Deleted",
    "Finding",
    "Item",
    "Known",
    "OnReceipt",
    "Proof",
    "Receipt",
    "ReceiptFile",
    "Space",
    "State",
    "Store",
    "Where",
    "check_all",
    "compact",
    "is_gallery",
    "library_version",
    "load_receipts",
    "open_store",
    "parse",
    "prove_deleted",
    "save_receipts",
    "version_warning",
]
