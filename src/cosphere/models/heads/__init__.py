"""Heads: from the features of a backbone to an embedding. Each module below registers one head by name."""

from cosphere.models.heads import groups as groups
from cosphere.models.heads import linear as linear
from cosphere.models.heads import mlp as mlp
from cosphere.models.heads.base import LAST as LAST
from cosphere.models.heads.base import Features as Features
from cosphere.models.heads.base import Head as Head
from cosphere.models.heads.base import HeadSettings as HeadSettings
from cosphere.models.heads.base import LevelShape as LevelShape
from cosphere.models.heads.base import ShapeOf as ShapeOf
from cosphere.models.heads.base import build_head as build_head
from cosphere.models.heads.base import check_head as check_head
from cosphere.models.heads.base import head_names as head_names
from cosphere.models.heads.base import make_pooling as make_pooling
from cosphere.models.heads.base import register_head as register_head
from cosphere.models.heads.layers import NormName as NormName
from cosphere.models.heads.layers import Pooled as Pooled
from cosphere.models.heads.layers import Pooling as Pooling
from cosphere.models.heads.layers import PoolingName as PoolingName
from cosphere.models.heads.layers import make_linear as make_linear
from cosphere.models.heads.layers import make_norm as make_norm
