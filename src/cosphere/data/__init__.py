"""Data: the catalogue of images and labels, readers and published layouts, the data check, batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosphere._lazy import lazily

if TYPE_CHECKING:
    from cosphere.data.catalogue import Catalogue as Catalogue
    from cosphere.data.checking import DataReport as DataReport
    from cosphere.data.checking import check as check
    from cosphere.data.converting.convert import Conversion as Conversion
    from cosphere.data.converting.convert import convert as convert
    from cosphere.data.dataset import Batch as Batch
    from cosphere.data.dataset import ImageRows as ImageRows
    from cosphere.data.dataset import Item as Item
    from cosphere.data.dataset import UnreadableLog as UnreadableLog
    from cosphere.data.dataset import collate as collate
    from cosphere.data.faces.aligning import align_faces as align_faces
    from cosphere.data.faces.ijb import IJB as IJB
    from cosphere.data.faces.ijb import FaceImages as FaceImages
    from cosphere.data.faces.ijb import TemplateMedia as TemplateMedia
    from cosphere.data.faces.ijb import TemplatePairs as TemplatePairs
    from cosphere.data.faces.ijb import TemplateSubjects as TemplateSubjects
    from cosphere.data.faces.ijb import read_face_images as read_face_images
    from cosphere.data.faces.ijb import read_ijb as read_ijb
    from cosphere.data.faces.ijb import read_template_media as read_template_media
    from cosphere.data.faces.ijb import read_template_pairs as read_template_pairs
    from cosphere.data.faces.ijb import read_template_subjects as read_template_subjects
    from cosphere.data.faces.megaface import MegaFaceList as MegaFaceList
    from cosphere.data.faces.megaface import read_megaface_feature as read_megaface_feature
    from cosphere.data.faces.megaface import read_megaface_list as read_megaface_list
    from cosphere.data.faces.megaface import read_megaface_noises as read_megaface_noises
    from cosphere.data.faces.megaface import write_megaface_feature as write_megaface_feature
    from cosphere.data.faces.people import People as People
    from cosphere.data.faces.people import read_lfw_people as read_lfw_people
    from cosphere.data.folders import Classes as Classes
    from cosphere.data.folders import read_folder as read_folder
    from cosphere.data.layouts import LAYOUTS as LAYOUTS
    from cosphere.data.pairs import PairList as PairList
    from cosphere.data.pairs import Pairs as Pairs
    from cosphere.data.pairs import find_pairs as find_pairs
    from cosphere.data.pairs import read_lfw_pairs as read_lfw_pairs
    from cosphere.data.pairs import read_pairs as read_pairs
    from cosphere.data.pairs import read_verification_bin as read_verification_bin
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
    from cosphere.data.splits import hold_out_images as hold_out_images
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
            "Conversion": "cosphere.data.converting.convert",
            "convert": "cosphere.data.converting.convert",
            "Batch": "cosphere.data.dataset",
            "collate": "cosphere.data.dataset",
            "ImageRows": "cosphere.data.dataset",
            "Item": "cosphere.data.dataset",
            "UnreadableLog": "cosphere.data.dataset",
            "align_faces": "cosphere.data.faces.aligning",
            "IJB": "cosphere.data.faces.ijb",
            "FaceImages": "cosphere.data.faces.ijb",
            "TemplateMedia": "cosphere.data.faces.ijb",
            "TemplatePairs": "cosphere.data.faces.ijb",
            "TemplateSubjects": "cosphere.data.faces.ijb",
            "read_face_images": "cosphere.data.faces.ijb",
            "read_ijb": "cosphere.data.faces.ijb",
            "read_template_media": "cosphere.data.faces.ijb",
            "read_template_pairs": "cosphere.data.faces.ijb",
            "read_template_subjects": "cosphere.data.faces.ijb",
            "MegaFaceList": "cosphere.data.faces.megaface",
            "read_megaface_feature": "cosphere.data.faces.megaface",
            "read_megaface_list": "cosphere.data.faces.megaface",
            "read_megaface_noises": "cosphere.data.faces.megaface",
            "write_megaface_feature": "cosphere.data.faces.megaface",
            "People": "cosphere.data.faces.people",
            "read_lfw_people": "cosphere.data.faces.people",
            "Classes": "cosphere.data.folders",
            "read_folder": "cosphere.data.folders",
            "LAYOUTS": "cosphere.data.layouts",
            "find_pairs": "cosphere.data.pairs",
            "PairList": "cosphere.data.pairs",
            "Pairs": "cosphere.data.pairs",
            "read_lfw_pairs": "cosphere.data.pairs",
            "read_pairs": "cosphere.data.pairs",
            "read_verification_bin": "cosphere.data.pairs",
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
            "hold_out_images": "cosphere.data.splits",
            "training_parts": "cosphere.data.splits",
            "TrainingParts": "cosphere.data.splits",
            "with_class_splits": "cosphere.data.splits",
            "read_table": "cosphere.data.tables",
        },
    )

__all__ = [
    "IJB",
    "LAYOUTS",
    "Batch",
    "Catalogue",
    "ClassBalancedBatches",
    "Classes",
    "Conversion",
    "DataReport",
    "Draw",
    "EpochBatches",
    "FaceImages",
    "ImageRows",
    "Item",
    "LayoutCheck",
    "MegaFaceList",
    "NeighbourBatches",
    "PairList",
    "Pairs",
    "People",
    "Remarks",
    "Seen",
    "ShuffledBatches",
    "Skipped",
    "TemplateMedia",
    "TemplatePairs",
    "TemplateSubjects",
    "TrainingParts",
    "UnreadableLog",
    "ViewBatches",
    "align_faces",
    "check",
    "collate",
    "convert",
    "find_pairs",
    "hold_out_classes",
    "hold_out_images",
    "make_batches",
    "read_catalogue",
    "read_face_images",
    "read_folder",
    "read_ijb",
    "read_lfw_pairs",
    "read_lfw_people",
    "read_megaface_feature",
    "read_megaface_list",
    "read_megaface_noises",
    "read_pairs",
    "read_table",
    "read_template_media",
    "read_template_pairs",
    "read_template_subjects",
    "read_verification_bin",
    "training_parts",
    "with_class_splits",
    "write_megaface_feature",
]
