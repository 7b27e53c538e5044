"""Images: decoding, containers of images, the pixel cache, preprocessing and augmentation."""

from cosphere.images.augmentation import Augmentation as Augmentation
from cosphere.images.augmentation import own_scale as own_scale
from cosphere.images.augmentation import preset as preset
from cosphere.images.cache import PixelCache as PixelCache
from cosphere.images.containers import container_of as container_of
from cosphere.images.containers import find_item as find_item
from cosphere.images.containers.cifar import CifarLabels as CifarLabels
from cosphere.images.containers.cifar import cifar_class_names as cifar_class_names
from cosphere.images.containers.cifar import is_cifar_batch as is_cifar_batch
from cosphere.images.containers.cifar import read_cifar_labels as read_cifar_labels
from cosphere.images.containers.cifar import read_cifar_row as read_cifar_row
from cosphere.images.containers.verification_bin import verification_labels as verification_labels
from cosphere.images.decode import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from cosphere.images.decode import MAX_PIXELS as MAX_PIXELS
from cosphere.images.decode import Box as Box
from cosphere.images.decode import check_box as check_box
from cosphere.images.decode import image_kind as image_kind
from cosphere.images.decode import read_image as read_image
from cosphere.images.encoded import EncodedImage as EncodedImage
from cosphere.images.encoded import encoded_image as encoded_image
from cosphere.images.modes import Pixels as Pixels
from cosphere.images.preprocessing import IMAGENET_MEAN as IMAGENET_MEAN
from cosphere.images.preprocessing import IMAGENET_STD as IMAGENET_STD
from cosphere.images.preprocessing import Preprocessing as Preprocessing
