"""Open-set identification among a million: real faces to find and to reject, surrounded by made-up embeddings.

    python benchmarks/open_set_million.py EMBEDDINGS.npz [--strangers 1000000]

EMBEDDINGS.npz holds `names` (N,) such as `Ann/Ann_0001.jpg` and `emb` (N, D), raw: LFW's faces by a public MobileFaceNet, for
example. Half of the people with two images are known: some images of each are in the gallery, the others are queries. All other people
are unknown: a third of them choose the threshold, the others test it. An unknown person asks with at most three images: LFW has 530 of
one person, and where all were queries, the five people with the most images decided whether both rates of false alarms agreed.

The strangers in the gallery are made up around the real people, two images each. A person's direction is drawn from a Gaussian with the
mean and the covariance of the real people's mean directions (less the part of that covariance that is due to a person's few images); an
image is that direction plus the residual of a real image, drawn with replacement from people with two images or more, at length 1. How
alike they are to real people is measured: the rate of pairs above a cosine among real people, and between real people and strangers.

The threshold comes from searches, not from pairs: with a million comparisons in a search, one false alarm in a hundred searches is a
false-accept rate of 1e-8, which no list of pairs shows. Floats and bits go through the same `Index.search`. Where several rows are
equally near, strangers come first, so ties count against the system.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cosphere.evaluate import bootstrap_classes, open_set_split
from cosphere.files import write_json
from cosphere.runs import provenance
from cosphere.search import Index

CLAIM = (
    "Among a million, a threshold that lets 1 % (10 %) of the searches of some unknown people raise an alarm does nearly the same for "
    "others: the 95 % intervals of its rate over the people who chose it and over the others overlap. For floats and for bits, through "
    "one search."
)
TARGETS = (0.1, 0.01)
COSINES = (0.3, 0.4, 0.5, 0.6)
IMAGES = 2
"""Images of a made-up person."""
ASKED = 3
"""Queries of an unknown person, at most."""
AT_ONCE = 65_536
"""Made-up images that are drawn at a time."""


class Faces(NamedTuple):
    """Unit embeddings and the person of each."""

    unit: np.ndarray
    people: np.ndarray
    """(N,) numbers from 0."""


class Parts(NamedTuple):
    """Rows of the real faces."""

    gallery: np.ndarray
    known: np.ndarray
    """Queries of people in the gallery."""
    choosing: np.ndarray
    """Queries of unknown people, who choose the threshold."""
    testing: np.ndarray
    """Queries of other unknown people."""


def read_faces(path: Path) -> Faces:
    with np.load(path, allow_pickle=False) as found:
        raw, names = found["emb"].astype(np.float64), found["names"].tolist()
    people = np.unique([str(name).split("/")[-2] for name in names], return_inverse=True)[1]
    return Faces((raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32), people)


def divided(people: np.ndarray, seed: int) -> Parts:
    split = open_set_split(people, known_share=0.5, gallery_share=0.5, seed=seed)
    inside = np.isin(people[split.queries], people[split.gallery])
    unknown = few_of_each(split.queries[~inside], people, seed)
    names = np.unique(people[unknown])
    choosing = np.random.default_rng([seed, 1]).permutation(names)[: len(names) // 3]
    chooses = np.isin(people[unknown], choosing)
    return Parts(split.gallery, split.queries[inside], unknown[chooses], unknown[~chooses])


def few_of_each(rows: np.ndarray, people: np.ndarray, seed: int) -> np.ndarray:
    """At most ``ASKED`` rows of each person, drawn."""
    drawn = np.random.default_rng([seed, 4]).permutation(rows)
    drawn = drawn[np.argsort(people[drawn], kind="stable")]
    names, first = np.unique(people[drawn], return_index=True)
    rank = np.arange(len(drawn)) - first[np.searchsorted(names, people[drawn])]
    return np.sort(drawn[rank < ASKED])


class Strangers:
    """Draws made-up people from the distribution of the real ones."""

    def __init__(self, faces: Faces) -> None:
        counts = np.bincount(faces.people)
        sums = np.zeros((len(counts), faces.unit.shape[1]))
        np.add.at(sums, faces.people, faces.unit.astype(np.float64))
        means = sums / counts[:, None]
        several = counts[faces.people] > 1
        residuals = faces.unit[several] - means[faces.people[several]]
        # A residual from the mean of n images is too short by sqrt((n - 1) / n).
        scale = np.sqrt(counts / np.maximum(counts - 1, 1))[faces.people[several]]
        self.residuals = (residuals * scale[:, None]).astype(np.float32)
        self.mean = means.mean(axis=0)
        within = self.residuals.T.astype(np.float64) @ self.residuals / len(self.residuals)
        between = np.cov(means.T) - within * (1 / counts).mean()
        values, vectors = np.linalg.eigh(between)
        self.root = (vectors * np.sqrt(np.clip(values, 0, None))).astype(np.float32)
        self.within, self.between = float(np.trace(within)), float(np.clip(values, 0, None).sum())

    def drawn(self, count: int, seed: int) -> np.ndarray:
        """(count, D) unit rows, ``IMAGES`` of each person one after another."""
        random = np.random.default_rng([seed, 2])
        rows = np.empty((count, len(self.mean)), dtype=np.float32)
        for start in range(0, count, AT_ONCE):
            some = min(AT_ONCE, count - start)
            people = -(-some // IMAGES)
            directions = self.mean + random.standard_normal((people, len(self.mean)), dtype=np.float32) @ self.root.T
            block = np.repeat(directions, IMAGES, axis=0)[:some]
            block = block + self.residuals[random.integers(0, len(self.residuals), some)]
            rows[start : start + some] = block / np.linalg.norm(block, axis=1, keepdims=True)
        return rows


def likeness(faces: Faces, strangers: np.ndarray, seed: int, pairs: int = 2**22) -> list[dict[str, float]]:
    """Rates of pairs above some cosines: of two real people, and of a real person and a stranger."""
    random = np.random.default_rng([seed, 3])
    left, right = random.integers(0, len(faces.unit), (2, pairs))
    two = faces.people[left] != faces.people[right]
    other = random.integers(0, len(strangers), pairs)
    cosines = {"real": [], "strangers": []}
    for start in range(0, pairs, 2**16):
        rows = slice(start, start + 2**16)
        keep = two[rows]
        one = faces.unit[left[rows]]
        cosines["real"].append(np.einsum("nd,nd->n", one, faces.unit[right[rows]])[keep])
        cosines["strangers"].append(np.einsum("nd,nd->n", one, strangers[other[rows]]))
    joined = {name: np.concatenate(parts) for name, parts in cosines.items()}
    return [
        {"cosine": cut, **{name: float((values > cut).mean()) for name, values in joined.items()}} for cut in COSINES
    ]


class Searched(NamedTuple):
    """The nearest gallery row of each query."""

    scores: np.ndarray
    right: np.ndarray
    """Whether it shows the query's person."""


def nearest(index: Index, queries: np.ndarray, people: np.ndarray, owners: np.ndarray) -> Searched:
    found = index.search(queries, k=1)
    return Searched(found.scores[:, 0].numpy().astype(np.float64), owners[found.ids[:, 0].numpy()] == people)


def measured(
    kind: str, gallery: np.ndarray, owners: np.ndarray, faces: Faces, parts: Parts, samples: int
) -> dict[str, Any]:
    """Build an index of a kind, choose thresholds by the searches of some unknown people, and test them."""
    start = time.perf_counter()
    index = Index.build(gallery, kind=kind, check_queries=0)
    built = time.perf_counter() - start
    start = time.perf_counter()
    known, choosing, testing = (
        nearest(index, faces.unit[rows], faces.people[rows], owners)
        for rows in (parts.known, parts.choosing, parts.testing)
    )
    seconds = time.perf_counter() - start
    queries = sum(map(len, (parts.known, parts.choosing, parts.testing)))
    points = []
    for target in TARGETS:
        ordered = np.sort(choosing.scores)[::-1]
        threshold = float(ordered[int(target * len(ordered))])  # as many searches as the target allows lie above it
        point: dict[str, Any] = {"wanted_fpir": target, "threshold": threshold}
        shares = {
            "chosen_fpir": (choosing.scores > threshold, parts.choosing),
            "fpir": (testing.scores > threshold, parts.testing),
            "dir": (known.right & (known.scores > threshold), parts.known),
            "misnamed": (~known.right & (known.scores > threshold), parts.known),
        }
        for name, (hits, rows) in shares.items():
            ends = bootstrap_classes(hits.astype(float), faces.people[rows], samples=samples)
            point |= {name: float(hits.mean()), f"{name}_interval": [ends.low, ends.high]}
        points.append(point)
    return {
        "kind": kind,
        "bytes_per_image": index.bytes_per_image,
        "build_seconds": built,
        "search_seconds": seconds,
        "milliseconds_per_query": 1000 * seconds / queries,
        "rank_1": float(known.right.mean()),
        "points": points,
    }


def show(rows: list[dict[str, Any]]) -> None:
    print("rates in %, with 95 % intervals over people")
    head = f"{'':7}{'bytes':>6}{'ms/query':>9}{'rank 1':>8}{'wanted':>8}"
    print(f"{head}{'FPIR chosen on':>23}{'FPIR of others':>23}{'DIR':>24}{'misnamed':>10}")
    for row in rows:
        for point in row["points"]:
            chosen, fpir, found = (
                f"{100 * point[name]:.2f} ({100 * point[f'{name}_interval'][0]:.2f} to {100 * point[f'{name}_interval'][1]:.2f})"
                for name in ("chosen_fpir", "fpir", "dir")
            )
            print(
                f"{row['kind']:7}{row['bytes_per_image']:6.0f}{row['milliseconds_per_query']:9.2f}{100 * row['rank_1']:8.2f}"
                f"{100 * point['wanted_fpir']:8g}{chosen:>23}{fpir:>23}{found:>24}{100 * point['misnamed']:10.2f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", type=Path)
    parser.add_argument("--strangers", type=int, default=1_000_000, help="made-up images in the gallery")
    parser.add_argument("--samples", type=int, default=1000, help="resamples of people behind the intervals")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "open-set-million.json")
    options = parser.parse_args()
    faces = read_faces(options.embeddings)
    parts = divided(faces.people, options.seed)
    source = Strangers(faces)
    strangers = source.drawn(options.strangers, options.seed)
    alike = likeness(faces, strangers, options.seed)
    for row in alike:
        print(
            f"pairs above {row['cosine']}: real people {row['real']:.2e}, a real person and a stranger {row['strangers']:.2e}"
        )
    gallery = np.concatenate([strangers, faces.unit[parts.gallery]])
    owners = np.concatenate([np.full(len(strangers), -1), faces.people[parts.gallery]])
    print(
        f"gallery {len(gallery):,}, of them {len(parts.gallery):,} of {len(np.unique(faces.people[parts.gallery])):,} known people; "
        f"queries {len(parts.known):,} known, {len(parts.choosing):,} and {len(parts.testing):,} unknown"
    )
    rows = [measured(kind, gallery, owners, faces, parts, options.samples) for kind in ("exact", "bits")]
    show(rows)
    points = [point for row in rows for point in row["points"]]
    holds = all(
        point["fpir_interval"][0] <= point["chosen_fpir_interval"][1]
        and point["chosen_fpir_interval"][0] <= point["fpir_interval"][1]
        for point in points
    )
    print(f"the claim {'holds' if holds else 'DOES NOT HOLD'}")
    content = {
        "claim": CLAIM,
        "holds": holds,
        "embeddings": {
            "file": options.embeddings.name,
            "sha256": hashlib.sha256(options.embeddings.read_bytes()).hexdigest(),
            "images": len(faces.unit),
            "people": int(faces.people.max()) + 1,
            "dim": faces.unit.shape[1],
        },
        "runs": 1,
        "intervals": "95 %, bootstrap over people, with the gallery and the threshold as they are",
        "samples": options.samples,
        "seed": options.seed,
        "strangers": {
            "images": len(strangers),
            "images_of_each": IMAGES,
            "drawn": "direction from a Gaussian with mean and covariance of the real people's mean directions, plus a real residual",
            "variance_between": source.between,
            "variance_within": source.within,
            "pairs_above": alike,
        },
        "gallery": len(gallery),
        "queries_of_each_unknown_person": ASKED,
        "queries": {"known": len(parts.known), "choosing": len(parts.choosing), "testing": len(parts.testing)},
        "rows": rows,
    }
    write_json(options.out, {**content, "provenance": provenance()})
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
