"""Data: the catalogue of images and labels, readers and published layouts, the data check, batches."""

from cosphere.data.catalogue import Catalogue as Catalogue
from cosphere.data.catalogue import LayoutCheck as LayoutCheck
from cosphere.data.catalogue import Skipped as Skipped
from cosphere.data.check import DataReport as DataReport
from cosphere.data.check import check as check
from cosphere.data.dataset import Batch as Batch
from cosphere.data.dataset import ImageRows as ImageRows
from cosphere.data.dataset import Item as Item
from cosphere.data.dataset import UnreadableLog as UnreadableLog
from cosphere.data.dataset import collate as collate
from cosphere.data.folders import read_folder as read_folder
from cosphere.data.layouts import LAYOUTS as LAYOUTS
from cosphere.data.pairs import PairList as PairList
from cosphere.data.pairs import Pairs as Pairs
from cosphere.data.pairs import find_pairs as find_pairs
from cosphere.data.pairs import read_lfw_pairs as read_lfw_pairs
from cosphere.data.pairs import read_pairs as read_pairs
from cosphere.data.reading import read_catalogue as read_catalogue
from cosphere.data.samplers import ClassBalancedBatches as ClassBalancedBatches
from cosphere.data.samplers import Draw as Draw
from cosphere.data.samplers import Seen as Seen
from cosphere.data.splits import TrainingParts as TrainingParts
from cosphere.data.splits import hold_out_classes as hold_out_classes
from cosphere.data.splits import training_parts as training_parts
from cosphere.data.splits import with_class_splits as with_class_splits
from cosphere.data.tables import read_table as read_table
