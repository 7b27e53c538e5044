"""Models: backbones with their weights, heads, the embedder and its bundle on disk."""

from cosphere.models.backbones import Backbone as Backbone
from cosphere.models.backbones import InputScale as InputScale
from cosphere.models.backbones import build_backbone as build_backbone
from cosphere.models.backbones import default_preprocessing as default_preprocessing
from cosphere.models.backbones import input_scale as input_scale
from cosphere.models.calibration import Calibration as Calibration
from cosphere.models.embedder import Embedder as Embedder
from cosphere.models.embedder import EmbedderSettings as EmbedderSettings
from cosphere.models.embedder import build_embedder as build_embedder
from cosphere.models.embedder import norm_layers as norm_layers
from cosphere.models.heads import Head as Head
from cosphere.models.heads import Pooling as Pooling
from cosphere.models.heads import register_head as register_head
from cosphere.models.origin import stored_model_id as stored_model_id
from cosphere.models.origin import weights_identity as weights_identity
