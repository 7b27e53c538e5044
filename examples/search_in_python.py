"""Search a folder of images from Python, with a model that was trained before.

    python examples/search_in_python.py runs/first photos/ query.jpg

Prints the five nearest images with their cosines, and keeps the index for the next time.
"""

import sys
from pathlib import Path

from cosphere import Embedder, Index, read_catalogue


def main(model: str, photos: str, query: str) -> None:
    embedder = Embedder.load(Path(model))
    catalogue = read_catalogue(photos)
    index = Index.build(embedder.encode(catalogue.paths, progress=True))
    index.save(Path("photos.index"))
    found = Index.load(Path("photos.index")).search(embedder.encode([query]), k=5)
    for row, cosine in zip(found.ids[0].tolist(), found.scores[0].tolist(), strict=True):
        print(f"{cosine:.3f}  {catalogue.paths[row]}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
