"""Verification on Labeled Faces in the Wild, from ready-made embeddings: View 2, and thresholds chosen on View 1.

    python benchmarks/lfw.py EMBEDDINGS.npz LISTS

EMBEDDINGS.npz holds `names` (N,) such as `Ann/Ann_0001.jpg` and `emb` (N, D), raw. LISTS is a folder with LFW's own
`pairs.txt` (View 2: ten folds of 300 same and 300 different pairs) and, for the thresholds, `pairsDevTrain.txt`, `pairsDevTest.txt`
and `peopleDevTrain.txt` (View 1). The scores measure the embeddings, not this library's losses; what is
claimed here is that the protocol is computed as published.

Views share people: View 1 is for choosing, and its people come again in View 2. Pairs share people and images too, which the
intervals over pairs do not know; the true ones are somewhat wider.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest

from cosphere.codes import to_bits
from cosphere.data import find_pairs, read_lfw_pairs
from cosphere.evaluate import calibrate, convert_threshold, matched_hamming, open_set, rates_at, threshold_table
from cosphere.evaluate.verification import far_name
from cosphere.experiment.protocols.verifying import ScoredPairs, VerificationSettings, score_pairs, verification_part
from cosphere.files import write_json
from cosphere.runs import provenance

CLAIM = (
    "LFW's View 2 by its protocol; and where a threshold is chosen on View 1 for a false accept rate, the 95 % interval of "
    "its rate there and that of its rate on View 2 overlap."
)
FARS = (1e-2, 1e-3)
CHOSEN_FARS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)


class Faces(NamedTuple):
    """Raw embeddings of images named `Ann/Ann_0001.jpg`."""

    raw: np.ndarray
    rows: dict[str, int]

    def pairs(self, path: Path) -> ScoredPairs:
        """The pairs of one of LFW's lists, scored as `cosphere evaluate --protocol lfw` scores them."""
        pairs = find_pairs(read_lfw_pairs(path), list(self.rows))
        return score_pairs(self.raw[list(self.rows.values())], pairs)


def read_faces(path: Path) -> Faces:
    with np.load(path, allow_pickle=False) as found:
        raw, names = found["emb"].astype(np.float64), found["names"].tolist()
    # The last two parts, whatever folder the images lay in.
    return Faces(raw, {"/".join(str(name).split("/")[-2:]): row for row, name in enumerate(names)})


def view_2(pairs: ScoredPairs, samples: int) -> dict[str, Any]:
    """Every score of the protocol with its interval."""
    settings = VerificationSettings(flip="none", fars=FARS, samples=samples)
    exact = verification_part("", "View 2", pairs, settings)
    published = replace(settings, rule="insightface", far_rule="nearest", samples=0)
    insightface = verification_part("", "View 2", pairs, published)
    found: dict[str, Any] = {name: value.as_dict() for name, value in exact.values.items() if name != "accuracy"}
    for name, part in (("accuracy", exact), ("accuracy, InsightFace's grid", insightface)):
        folds = part.details["folds"]
        found[name] = {**part.values["accuracy"].as_dict(), "sd_over_folds": folds["accuracy_std"]}
        found[name]["folds"] = folds["accuracies"]
    for far in FARS:
        nearest = insightface.values[f"tar@far={far_name(far)}"].value
        found[f"tar@far={far:g}, nearest point"] = {"value": nearest, "low": None, "high": None}
    return found


def on_view_2(threshold: float, scores: np.ndarray, same: np.ndarray) -> dict[str, Any]:
    """Rates of a threshold that knew nothing of these pairs; so each is binomial, except that pairs share people."""
    rates = rates_at(scores, same, threshold)
    found: dict[str, Any] = {}
    for name, rate, count in (("far", rates.far, int((~same).sum())), ("tar", rates.tar, int(same.sum()))):
        ends = binomtest(round(rate * count), count).proportion_ci(0.95, "exact")
        found |= {f"view_2_{name}": rate, f"view_2_{name}_interval": [float(ends.low), float(ends.high)]}
    return found


def overlap(rows: list[dict[str, Any]]) -> bool:
    return all(
        row["far_interval"][0] <= row["view_2_far_interval"][1]
        and row["view_2_far_interval"][0] <= row["far_interval"][1]
        for row in rows
    )


def chosen_on_pairs(
    view_1: tuple[np.ndarray, np.ndarray], view_2: tuple[np.ndarray, np.ndarray]
) -> list[dict[str, Any]]:
    """Thresholds from View 1's list of pairs, and what they do on View 2's."""
    rows = []
    for row in threshold_table(*view_1, CHOSEN_FARS):
        rows.append({**row.as_dict(), **on_view_2(row.threshold, *view_2)})
    return rows


def chosen_on_people(
    faces: Faces, people: Path, view_2: tuple[np.ndarray, np.ndarray], samples: int
) -> list[dict[str, Any]]:
    """Thresholds from all pairs of images of View 1's people, and what they do on View 2's pairs."""
    names = {line.split("\t")[0] for line in people.read_text(encoding="utf-8").splitlines()[1:]}
    own = [(row, name.split("/")[0]) for name, row in faces.rows.items() if name.split("/")[0] in names]
    embeddings, labels = faces.raw[[row for row, _ in own]], [person for _, person in own]
    rows = []
    for far in (*CHOSEN_FARS[2:], 1e-4, 1e-5):
        start = time.perf_counter()
        found = calibrate(embeddings, labels, far, samples=samples)
        seconds = time.perf_counter() - start
        rows.append({**found.as_dict(), **on_view_2(found.threshold, *view_2), "seconds": seconds})
    return rows


def used(faces: Faces, chosen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Open-set rates of each threshold over all people, and how many differing bits are as strict."""
    people = np.unique([name.split("/")[0] for name in faces.rows], return_inverse=True)[1]
    rows = np.array(list(faces.rows.values()))
    unit = (faces.raw / np.linalg.norm(faces.raw, axis=1, keepdims=True))[rows].astype(np.float32)
    codes = to_bits(faces.raw[rows])
    found = []
    for row in chosen:
        cosine = row["threshold"]
        scores, bits = open_set(unit, people, threshold=cosine), matched_hamming(cosine, unit, codes, labels=people)
        expected = convert_threshold(cosine, to="hamming", bits=unit.shape[1])
        found.append(
            {
                "wanted_far": row["wanted_far"],
                "cosine": cosine,
                "open_set": {**scores.as_dict(), "intervals": dict(scores.intervals)},
                "hamming": {
                    "expected": expected,
                    "accepted_at_expected": within(codes, people, expected),
                    **bits._asdict(),
                },
            }
        )
        print(
            f"cosine {cosine:.3f}: DIR {100 * scores.dir:.1f} %, false alarms {100 * scores.false_alarms:.1f} %, AUROC "
            f"{100 * scores.auroc:.2f} %; {expected:.1f} bits expected, {bits.threshold} as strict "
            f"({100 * bits.accepted_by_cosine:.4f} % by cosine, {100 * bits.accepted:.4f} % by bits, "
            f"{100 * found[-1]['hamming']['accepted_at_expected']:.4f} % by the expected bits)",
            flush=True,
        )
    return found


def within(codes: np.ndarray, people: np.ndarray, bits: float) -> float:
    """The share of a million drawn pairs of two people that differ in fewer bits than this."""
    random = np.random.default_rng(0)
    left, right = random.integers(0, len(codes), (2, 2**20))
    two = people[left] != people[right]
    return float((np.bitwise_count(codes[left[two]] ^ codes[right[two]]).sum(axis=1) < bits).mean())


def show(title: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{title}; rates in %, with 95 % intervals")
    print(
        f"{'FAR wanted':>11}{'cosine':>8}{'':>16}{'degrees':>9}{'FAR there':>11}{'':>16}{'on View 2':>11}{'':>16}{'TAR there':>11}"
    )
    for row in rows:
        cosine = "{:.3f} to {:.3f}".format(*row["threshold_interval"])
        there, new = (
            f"{100 * low:.3f} to {100 * high:.3f}" for low, high in (row["far_interval"], row["view_2_far_interval"])
        )
        degrees = convert_threshold(row["threshold"], to="degrees")
        print(
            f"{100 * row['wanted_far']:11g}{row['threshold']:8.3f}{cosine:>16}{degrees:9.1f}{100 * row['far']:11.3f}{there:>16}"
            f"{100 * row['view_2_far']:11.3f}{new:>16}{100 * row['view_2_tar']:11.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", type=Path)
    parser.add_argument("lists", type=Path)
    parser.add_argument("--samples", type=int, default=1000, help="resamples behind the intervals")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "lfw.json")
    options = parser.parse_args()
    faces = read_faces(options.embeddings)
    whole = faces.pairs(options.lists / "pairs.txt")
    last, same = (whole.cosines, whole.same), whole.same
    scores = view_2(whole, options.samples)
    print(f"View 2: {int(same.sum())} same and {int((~same).sum())} different pairs")
    for name, found in scores.items():
        interval = "" if found["low"] is None else f"   95 %: {100 * found['low']:.2f} to {100 * found['high']:.2f}"
        sd = f"   sd over folds {100 * found['sd_over_folds']:.2f}" if "folds" in found else ""
        print(f"{name:32}{100 * found['value']:9.3f} %{interval}{sd}")
    content = {
        "claim": CLAIM,
        "embeddings": {
            "file": options.embeddings.name,
            "sha256": hashlib.sha256(options.embeddings.read_bytes()).hexdigest(),
            "images": len(faces.raw),
            "dim": faces.raw.shape[1],
        },
        "runs": 1,
        "intervals": "95 %: Student's t over the ten folds for the accuracies, bootstrap over pairs for the rest of View 2 and for "
        "the thresholds from pairs, bootstrap over people for the thresholds from all pairs of people",
        "samples": options.samples,
        "view_2": scores,
    }
    lists = [options.lists / name for name in ("pairsDevTrain.txt", "pairsDevTest.txt")]
    if all(path.exists() for path in lists):
        both = [faces.pairs(path) for path in lists]
        first = np.concatenate([one.cosines for one in both]), np.concatenate([one.same for one in both])
        content["chosen_on_view_1_pairs"] = chosen_on_pairs(first, last)
        content["view_1_pairs"] = {"same": int(first[1].sum()), "different": int((~first[1]).sum())}
        show("chosen on View 1's pairs (pairsDevTrain and pairsDevTest)", content["chosen_on_view_1_pairs"])
    people = options.lists / "peopleDevTrain.txt"
    if people.exists():
        content["chosen_on_view_1_people"] = chosen_on_people(faces, people, last, options.samples)
        show("chosen on all pairs of View 1's people (peopleDevTrain)", content["chosen_on_view_1_people"])
        content["used"] = used(faces, content["chosen_on_view_1_people"])
    chosen = [row for name in ("chosen_on_view_1_pairs", "chosen_on_view_1_people") for row in content.get(name, [])]
    content["holds"] = overlap(chosen) if chosen else None
    print(
        f"\nthe claim {'holds' if content['holds'] else 'DOES NOT HOLD'}" if chosen else "\nno View 1 lists, no claim"
    )
    write_json(options.out, {**content, "provenance": provenance()})
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
