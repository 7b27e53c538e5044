"""Names of other libraries that people try first, and what takes their place. docs/coming_from.md has the settings too."""

from __future__ import annotations

import re
from collections.abc import Iterable

ELSEWHERE = {
    "AccuracyCalculator": "cosphere.evaluate.retrieval and cosphere.evaluate.clustering",
    "BatchHardMiner": "cosphere.losses.miners.batch_hard",
    "HDCMiner": "cosphere.losses.miners.hdc_pairs",
    "IndexFlatIP": "cosphere.Index.build(embeddings)",
    "IndexFlatL2": "cosphere.Index.build(embeddings)",
    "InferenceModel": "cosphere.Embedder with cosphere.Gallery",
    "MPerClassSampler": "cosphere.data.ClassBalancedBatches",
    "MultiSimilarityMiner": "cosphere.losses.miners.multi_similarity",
    "NPairsLoss": "cosphere.losses.NPairLoss",
    "NormalizedSoftmaxLoss": "cosphere.losses.NormSoftmaxLoss",
    "PairMarginMiner": "cosphere.losses.miners.pair_margin",
    "SelfSupervisedLoss": "any loss of cosphere.losses, with the number of an image as its label",
    "SentenceTransformer": "cosphere.Embedder",
    "TripletMarginLoss": "cosphere.losses.TripletLoss",
    "TripletMarginMiner": "cosphere.losses.miners.violating_triplets",
}

_LOSSES = {
    "arcface": "additive_angular_margin aam aam_softmax arc",
    "batch_hard_triplet": "batch_hard batch_hard_mining",
    "cosface": "additive_margin additive_margin_softmax am_softmax large_margin_cosine lmcl",
    "alignment_uniformity": "align_uniform",
    "lifted_structure": "lifted lifted_struct",
    "multi_similarity": "ms multi_sim",
    "n_pair": "n_pairs",
    "norm_softmax": "normalized_softmax softmax cross_entropy ce",
    "nt_xent": "info_nce simclr",
    "proxy_nca_plus_plus": "proxy_nca_pp",
    "semihard_triplet": "semi_hard",
    "sphereface": "angular_softmax a_softmax",
    "sup_con": "supervised_contrastive",
    "triplet": "triplet_margin",
}
"""Losses here -> their names elsewhere. Capitals, separators and a "loss" at the end make no difference."""


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("++", "plusplus")).removesuffix("loss")


def loss_meant(name: str, known: Iterable[str]) -> str:
    """The tail of an error about an unknown loss that is written differently or has another name elsewhere; else empty.

    >>> loss_meant("ms", ["margin", "multi_similarity"])
    "Did you mean 'multi_similarity'?"
    >>> loss_meant("TripletMarginLoss", ["triplet", "tuplet_margin"])
    "Did you mean 'triplet'? docs/coming_from.md has the settings that give equal values."
    """
    names = list(known)
    here = {_bare(one): one for one in names}
    elsewhere = {_bare(one): meant for meant, typed in _LOSSES.items() for one in typed.split() if meant in names}
    meant = here.get(_bare(name), elsewhere.get(_bare(name)))
    if meant is None:
        return ""
    settings = " docs/coming_from.md has the settings that give equal values." if name.endswith("Loss") else ""
    return f"Did you mean {meant!r}?{settings}"
