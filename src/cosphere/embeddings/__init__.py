"""Embeddings of a catalogue: computed once, kept on disk, cut into queries and gallery."""

from cosphere.embeddings.table import Embeddings as Embeddings
from cosphere.embeddings.table import Precision as Precision
from cosphere.embeddings.table import embed_catalogue as embed_catalogue
