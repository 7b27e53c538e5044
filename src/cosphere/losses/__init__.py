"""Losses: one file each, a pure function and a thin module.

``loss(embeddings, labels) -> scalar`` takes raw embeddings (B, D) and integer labels (B,). Pair losses also take
``references=`` and ``reference_labels=``. To add a loss: its file, its test, and its line below.
"""

from cosphere.losses import miners
from cosphere.losses.adaface import AdaFaceLoss, adaface_loss
from cosphere.losses.alignment_uniformity import AlignmentUniformityLoss, alignment_uniformity_loss
from cosphere.losses.angular import AngularLoss, angular_loss
from cosphere.losses.arcface import ArcFaceLoss, arcface_loss
from cosphere.losses.batch_hard_triplet import BatchHardTripletLoss, batch_hard_triplet_loss
from cosphere.losses.circle import CircleLoss, circle_loss
from cosphere.losses.class_tree import AnchorNeighbourBatches, ClassTree
from cosphere.losses.contrastive import ContrastiveLoss, contrastive_loss
from cosphere.losses.cosface import CosFaceLoss, cosface_loss
from cosphere.losses.curricularface import CurricularFaceLoss, curricularface_loss
from cosphere.losses.distance_weighted import distance_weighted_triplets
from cosphere.losses.engine.base import About, EmbedTrainingSet, Loss, PairLoss
from cosphere.losses.engine.classes import ClassLoss, sample_classes
from cosphere.losses.engine.maths import similarities_held
from cosphere.losses.engine.registry import about, build, table
from cosphere.losses.ensembles import abe_divergence_loss, boosted_binomial_loss
from cosphere.losses.facility_location import FacilityLocationLoss, facility_location_loss
from cosphere.losses.generalized_lifted_structure import (
    GeneralizedLiftedStructureLoss,
    generalized_lifted_structure_loss,
)
from cosphere.losses.hard_cascade import HardCascadeLoss, hard_cascade_loss
from cosphere.losses.heated_up_softmax import HeatedUpSoftmaxLoss, heated_up_softmax_loss
from cosphere.losses.hierarchical_triplet import HierarchicalTripletLoss, hierarchical_triplet_loss
from cosphere.losses.histogram import HistogramLoss, histogram_loss
from cosphere.losses.intra_pair_variance import IntraPairVarianceLoss, intra_pair_variance_loss
from cosphere.losses.lifted_structure import LiftedStructureLoss, lifted_structure_loss
from cosphere.losses.magface import MagFaceLoss, magface_loss
from cosphere.losses.margin import MarginLoss, margin_loss
from cosphere.losses.memory import CrossBatchMemory
from cosphere.losses.multi_similarity import MultiSimilarityLoss, multi_similarity_loss
from cosphere.losses.n_pair import NPairLoss, n_pair_loss
from cosphere.losses.norm_softmax import NormSoftmaxLoss, norm_softmax_loss
from cosphere.losses.normalized_n_pair import NormalizedNPairLoss, normalized_n_pair_loss
from cosphere.losses.nt_xent import NTXentLoss, nt_xent_loss
from cosphere.losses.pair_cosines import PairCosines, pair_cosines
from cosphere.losses.proxy_anchor import ProxyAnchorLoss, proxy_anchor_loss
from cosphere.losses.proxy_nca import ProxyNCALoss, proxy_nca_loss
from cosphere.losses.proxy_nca_plus import ProxyNCAPlusPlusLoss, proxy_nca_plus_plus_loss
from cosphere.losses.semihard_triplet import SemihardTripletLoss, semihard_triplet_loss
from cosphere.losses.smooth_ap import SmoothAPLoss, smooth_ap_loss
from cosphere.losses.soft_triple import SoftTripleLoss, centre_distance, soft_triple_loss
from cosphere.losses.sphereface import SphereFaceLoss, sphereface_loss
from cosphere.losses.subcenter_arcface import SubCenterArcFaceLoss, subcenter_arcface_loss
from cosphere.losses.sup_con import SupConLoss, sup_con_loss
from cosphere.losses.timing import Timing, time_losses
from cosphere.losses.triplet import TripletLoss, triplet_loss
from cosphere.losses.tuplet_margin import TupletMarginLoss, tuplet_margin_loss

__all__ = [
    "About",
    "AdaFaceLoss",
    "AlignmentUniformityLoss",
    "AnchorNeighbourBatches",
    "AngularLoss",
    "ArcFaceLoss",
    "BatchHardTripletLoss",
    "CircleLoss",
    "ClassLoss",
    "ClassTree",
    "ContrastiveLoss",
    "CosFaceLoss",
    "CrossBatchMemory",
    "CurricularFaceLoss",
    "EmbedTrainingSet",
    "FacilityLocationLoss",
    "GeneralizedLiftedStructureLoss",
    "HardCascadeLoss",
    "HeatedUpSoftmaxLoss",
    "HierarchicalTripletLoss",
    "HistogramLoss",
    "IntraPairVarianceLoss",
    "LiftedStructureLoss",
    "Loss",
    "MagFaceLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "NPairLoss",
    "NTXentLoss",
    "NormSoftmaxLoss",
    "NormalizedNPairLoss",
    "PairCosines",
    "PairLoss",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "ProxyNCAPlusPlusLoss",
    "SemihardTripletLoss",
    "SmoothAPLoss",
    "SoftTripleLoss",
    "SphereFaceLoss",
    "SubCenterArcFaceLoss",
    "SupConLoss",
    "Timing",
    "TripletLoss",
    "TupletMarginLoss",
    "abe_divergence_loss",
    "about",
    "adaface_loss",
    "alignment_uniformity_loss",
    "angular_loss",
    "arcface_loss",
    "batch_hard_triplet_loss",
    "boosted_binomial_loss",
    "build",
    "centre_distance",
    "circle_loss",
    "contrastive_loss",
    "cosface_loss",
    "curricularface_loss",
    "distance_weighted_triplets",
    "facility_location_loss",
    "generalized_lifted_structure_loss",
    "hard_cascade_loss",
    "heated_up_softmax_loss",
    "hierarchical_triplet_loss",
    "histogram_loss",
    "intra_pair_variance_loss",
    "lifted_structure_loss",
    "magface_loss",
    "margin_loss",
    "miners",
    "multi_similarity_loss",
    "n_pair_loss",
    "norm_softmax_loss",
    "normalized_n_pair_loss",
    "nt_xent_loss",
    "pair_cosines",
    "proxy_anchor_loss",
    "proxy_nca_loss",
    "proxy_nca_plus_plus_loss",
    "sample_classes",
    "semihard_triplet_loss",
    "similarities_held",
    "smooth_ap_loss",
    "soft_triple_loss",
    "sphereface_loss",
    "subcenter_arcface_loss",
    "sup_con_loss",
    "table",
    "time_losses",
    "triplet_loss",
    "tuplet_margin_loss",
]
