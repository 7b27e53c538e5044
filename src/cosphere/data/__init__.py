"""Data: the catalogue of images and labels, readers and published layouts, the data check, batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosphere._lazy import lazily

if TYPE_CHECKING:
    from cosphere.data.catalogue import Catalogue as Catalogue
    from cosphere.data.checking import DataReport as DataReport
    from cosphere.data.checking import check as check
    from cosphere.data.dataset import Batch as Batch
    from cosphere.data.dataset import ImageRows as ImageRows
    from cosphere.data.dataset import Item as Item
    from cosphere.data.dataset import UnreadableLog as UnreadableLog
    from cosphere.data.dataset import collate as collate
    from cosphere.data.folders import Classes as Classes
    from cosphere.data.folders import read_folder as read_folder
    from cosphere.data.layouts import LAYOUTS as LAYOUTS
    from cosphere.data.pairs import PairList as PairList
    from cosphere.data.pairs import Pairs as Pairs
    from cosphere.data.pairs import find_pairs as find_pairs
    from cosphere.data.pairs import read_lfw_pairs as read_lfw_pairs
    from cosphere.data.pairs import read_pairs as read_pairs
    from cosphere.data.reading import read_catalogue as read_catalogue
    from cosphere.data.remarks import LayoutCheck as LayoutCheck
    from cosphere.data.remarks import Remarks as Remarks
    from cosphere.data.remarks import Skipped as Skipped
    from cosphere.data.samplers import ClassBalancedBatches as ClassBalancedBatches
    from cosphere.data.samplers import Draw as Draw
    from cosphere.data.samplers import EpochBatches as EpochBatches
    from cosphere.data.samplers import NeighbourBatches as NeighbourBatches
    from cosphere.data.samplers import Seen as Seen
    from cosphere.data.samplers import ShuffledBatches as ShuffledBatches
    from cosphere.data.samplers import ViewBatches as ViewBatches
    from cosphere.data.samplers import make_batches as make_batches
    from cosphere.data.splits import TrainingParts as TrainingParts
    from cosphere.data.splits import hold_out_classes as hold_out_classes
    from cosphere.data.splits import training_parts as training_parts
    from cosphere.data.splits import with_class_splits as with_class_splits
    from cosphere.data.tables import read_table as read_table
else:
    __getattr__ = lazily(
        __name__,
        {
            "Catalogue": "cosphere.data.catalogue",
            "check": "cosphere.data.checking",
            "DataReport": "cosphere.data.checking",
            "Batch": "cosphere.data.dataset",
            "collate": "cosphere.data.dataset",
            "ImageRows": "cosphere.data.dataset",
            "Item": "cosphere.data.dataset",
            "UnreadableLog": "cosphere.data.dataset",
            "Classes": "cosphere.data.folders",
            "read_folder": "cosphere.data.folders",
            "LAYOUTS": "cosphere.data.layouts",
            "find_pairs": "cosphere.data.pairs",
            "PairList": "cosphere.data.pairs",
            "Pairs": "cosphere.data.pairs",
            "read_lfw_pairs": "cosphere.data.pairs",
            "read_pairs": "cosphere.data.pairs",
            "read_catalogue": "cosphere.data.reading",
            "LayoutCheck": "cosphere.data.remarks",
            "Remarks": "cosphere.data.remarks",
            "Skipped": "cosphere.data.remarks",
            "ClassBalancedBatches": "cosphere.data.samplers",
            "Draw": "cosphere.data.samplers",
            "EpochBatches": "cosphere.data.samplers",
            "make_batches": "cosphere.data.samplers",
            "NeighbourBatches": "cosphere.data.samplers",
            "Seen": "cosphere.data.samplers",
            "ShuffledBatches": "cosphere.data.samplers",
            "ViewBatches": "cosphere.data.samplers",
            "hold_out_classes": "cosphere.data.splits",
            "training_parts": "cosphere.data.splits",
            "TrainingParts": "cosphere.data.splits",
            "with_class_splits": "cosphere.data.splits",
            "read_table": "cosphere.data.tables",
        },
    )

__all__ = [
    "LAYOUTS",
    "Batch",
    "Catalogue",
    "ClassBalancedBatches",
    "Classes",
    "DataReport",
    "Draw",
    "EpochBatches",
    "ImageRows",
    "Item",
    "LayoutCheck",
    "NeighbourBatches",
    "PairList",
    "Pairs",
    "Remarks",
    "Seen",
    "ShuffledBatches",
    "Skipped",
    "TrainingParts",
    "UnreadableLog",
    "ViewBatches",
    "check",
    "collate",
    "find_pairs",
    "hold_out_classes",
    "make_batches",
    "read_catalogue",
    "read_folder",
    "read_lfw_pairs",
    "read_pairs",
    "read_table",
    "training_parts",
    "with_class_splits",
]
