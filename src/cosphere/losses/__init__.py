"""Losses: one file each, a pure function and a thin module.

``loss(embeddings, labels) -> scalar`` takes raw embeddings (B, D) and integer labels (B,). Pair losses also take
``references=`` and ``reference_labels=``. To add a loss: its file, its test, and its line below.
"""

from cosphere.losses._about import About, Loss, about, build, table
from cosphere.losses._pairs import PairCosines, pair_cosines
from cosphere.losses.contrastive import ContrastiveLoss, contrastive_loss
from cosphere.losses.multi_similarity import MultiSimilarityLoss, multi_similarity_loss
from cosphere.losses.norm_softmax import NormSoftmaxLoss, norm_softmax_loss
from cosphere.losses.normalized_n_pair import NormalizedNPairLoss, normalized_n_pair_loss
from cosphere.losses.semihard_triplet import SemihardTripletLoss, semihard_triplet_loss
from cosphere.losses.triplet import TripletLoss, triplet_loss

__all__ = [
    "About",
    "ContrastiveLoss",
    "Loss",
    "MultiSimilarityLoss",
    "NormSoftmaxLoss",
    "NormalizedNPairLoss",
    "PairCosines",
    "SemihardTripletLoss",
    "TripletLoss",
    "about",
    "build",
    "contrastive_loss",
    "multi_similarity_loss",
    "norm_softmax_loss",
    "normalized_n_pair_loss",
    "pair_cosines",
    "semihard_triplet_loss",
    "table",
    "triplet_loss",
]
