"""Nearest-neighbour search over embeddings and packed bits, and indexes of a gallery."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosphere._lazy import lazily
from cosphere.search.asymmetric import asymmetric_search, reranked_search
from cosphere.search.engines import IndexSettings
from cosphere.search.exact import Neighbours, search
from cosphere.search.expansion import expanded_queries
from cosphere.search.hamming import hamming_search
from cosphere.search.index import Index
from cosphere.search.kinds import AUTO, KINDS
from cosphere.search.reciprocal import k_reciprocal_search
from cosphere.search.reduction import Reduction, first_dimensions, principal_dimensions
from cosphere.search.refining import Refinement
from cosphere.search.self_check import SelfCheck, check_search
from cosphere.search.storage import ProductQuantiser

# Galleries bring a database with them, which a search in saved embeddings does without.
if TYPE_CHECKING:
    from cosphere.search.answer import Answer as Answer
    from cosphere.search.answer import Hit as Hit
    from cosphere.search.any_gallery import GalleryHit as GalleryHit
    from cosphere.search.gallery import Gallery as Gallery
    from cosphere.search.gallery_file import GalleryFile as GalleryFile
    from cosphere.search.gallery_file import load_gallery as load_gallery
    from cosphere.search.gallery_file import save_gallery as save_gallery
    from cosphere.search.opening import create_gallery as create_gallery
    from cosphere.search.opening import open_gallery as open_gallery
    from cosphere.search.postgres_gallery import PostgresGallery as PostgresGallery
else:
    __getattr__ = lazily(
        __name__,
        {
            "Answer": "cosphere.search.answer",
            "Hit": "cosphere.search.answer",
            "GalleryHit": "cosphere.search.any_gallery",
            "Gallery": "cosphere.search.gallery",
            "GalleryFile": "cosphere.search.gallery_file",
            "load_gallery": "cosphere.search.gallery_file",
            "save_gallery": "cosphere.search.gallery_file",
            "PostgresGallery": "cosphere.search.postgres_gallery",
            "create_gallery": "cosphere.search.opening",
            "open_gallery": "cosphere.search.opening",
        },
    )

__all__ = [
    "AUTO",
    "KINDS",
    "Answer",
    "Gallery",
    "GalleryFile",
    "GalleryHit",
    "Hit",
    "Index",
    "IndexSettings",
    "Neighbours",
    "PostgresGallery",
    "ProductQuantiser",
    "Reduction",
    "Refinement",
    "SelfCheck",
    "asymmetric_search",
    "check_search",
    "create_gallery",
    "expanded_queries",
    "first_dimensions",
    "hamming_search",
    "k_reciprocal_search",
    "load_gallery",
    "open_gallery",
    "principal_dimensions",
    "reranked_search",
    "save_gallery",
    "search",
]
