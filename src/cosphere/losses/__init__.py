"""Losses: one file each, a pure function and a thin module.

``loss(embeddings, labels) -> scalar`` takes raw embeddings (B, D) and integer labels (B,). Pair losses also take
``references=`` and ``reference_labels=``. To add a loss, write its file and its test and add a line below; see
docs/extending.md.
"""

# ruff: noqa: F403 - each module says in its __all__ what it exports, so that a loss is one line here.

import inspect
import typing

from cosphere._lazy import lazily as _lazily
from cosphere.losses import miners as miners
from cosphere.losses.adaface import *
from cosphere.losses.alignment_uniformity import *
from cosphere.losses.angular import *
from cosphere.losses.arcface import *
from cosphere.losses.attention_ensemble import *
from cosphere.losses.batch_cosines import *
from cosphere.losses.batch_hard_triplet import *
from cosphere.losses.boosted_binomial import *
from cosphere.losses.circle import *
from cosphere.losses.class_tree import *
from cosphere.losses.contrastive import *
from cosphere.losses.cosface import *
from cosphere.losses.curricularface import *
from cosphere.losses.distance_weighted import *
from cosphere.losses.engine import *
from cosphere.losses.engine.registry import register as _register
from cosphere.losses.facility_location import *
from cosphere.losses.generalized_lifted_structure import *
from cosphere.losses.hard_cascade import *
from cosphere.losses.heated_up_softmax import *
from cosphere.losses.hierarchical_triplet import *
from cosphere.losses.histogram import *
from cosphere.losses.intra_pair_variance import *
from cosphere.losses.lifted_structure import *
from cosphere.losses.magface import *
from cosphere.losses.margin import *
from cosphere.losses.memory import *
from cosphere.losses.multi_similarity import *
from cosphere.losses.n_pair import *
from cosphere.losses.norm_softmax import *
from cosphere.losses.normalized_n_pair import *
from cosphere.losses.nt_xent import *
from cosphere.losses.proxy_anchor import *
from cosphere.losses.proxy_nca import *
from cosphere.losses.proxy_nca_plus import *
from cosphere.losses.semihard_triplet import *
from cosphere.losses.smooth_ap import *
from cosphere.losses.soft_triple import *
from cosphere.losses.sphereface import *
from cosphere.losses.subcenter_arcface import *
from cosphere.losses.sup_con import *
from cosphere.losses.timing import *
from cosphere.losses.triplet import *
from cosphere.losses.tuplet_margin import *

__all__ = sorted(
    ["miners", *(name for name, value in globals().items() if name[0] != "_" and not inspect.ismodule(value))]
)

_register(globals()[name] for name in __all__)

if not typing.TYPE_CHECKING:  # else mypy would accept any name
    __getattr__ = _lazily(__name__, {})
