"""Put finished studies into docs/evidence.md: the tables are written by this script, so they say what the JSON says.

    python benchmarks/evidence.py add STUDY_FOLDER NAME     # copies results.json to benchmarks/results/studies/NAME.json, and figures to
                                                            # docs/figures/NAME/
    python benchmarks/evidence.py write                     # writes every table between its markers in docs/evidence.md
    python benchmarks/evidence.py check                     # exit status 1 if a table differs from its JSON

The markers are `<!-- study NAME -->` and `<!-- end -->`, each on a line of its own; what is written outside them stays as it is.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from cosphere.files import write_json

ROOT = Path(__file__).parents[1]
STUDIES = Path(__file__).parent / "results" / "studies"
FIGURES = ("differences", "convergence", "lengths", "ranks", "spreads", "variance")
"""Of a study, for the page; the others are tables there."""
PAGES = (ROOT / "docs" / "evidence.md", ROOT / "README.md")
MARKED = re.compile(r"(<!-- study (\S+?)(?: (\w+))? -->\n).*?(<!-- end -->)", re.DOTALL)
COLUMNS = (
    ("recall@1", "R@1"),
    ("map@r", "MAP@R"),
    ("recall@1/bits", "R@1 of bits"),
    ("lfw/view_1/auc", "View 1 AUC"),
    ("lfw/view_1/accuracy", "View 1 accuracy"),
    ("lfw/unseen/auc", "unseen AUC"),
    ("lfw/unseen/balanced_accuracy", "unseen accuracy"),
    ("linear/accuracy", "linear probe"),
    ("knn/accuracy", "kNN"),
)
"""Scores of a study in the order of its table; one that no arm has is left out."""
RANKED = ("losses",)
"""Studies that ask which arm is best: the best comes first, with the time of a step and the peak of memory."""


def percent(summary: dict[str, Any] | None) -> str:
    """Mean and standard deviation over seeds."""
    if summary is None:
        return ""
    spread = "" if summary["sd"] is None else f" ± {100 * summary['sd']:.1f}"
    return f"{100 * summary['mean']:.1f}{spread}"


def chosen(arm: dict[str, Any]) -> str:
    """The tuned values, shortly."""
    values = arm["chosen"] or {}
    return ", ".join(
        f"{name.split('.', 1)[-1].replace('_', ' ')} {value:.2g}"
        if isinstance(value, float)
        else f"{name.split('.', 1)[-1]} {value}"
        for name, value in values.items()
    )


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def arms(result: dict[str, Any]) -> list[str]:
    """One row for each arm."""
    columns = [(key, title) for key, title in COLUMNS if any(key in arm["scores"] for arm in result["arms"])]
    is_ranked, listed, rows = result["study"] in RANKED, list(result["arms"]), []
    if is_ranked:
        listed.sort(key=lambda arm: -arm["scores"][columns[0][0]]["mean"])
    for arm in listed:
        cv = arm["norms"].get("cv")
        failed = [f"{arm[kind]} {kind}" for kind in ("diverged", "collapsed") if arm[kind]]
        scores = [percent(arm["scores"].get(key)) for key, _ in columns]
        rows.append(
            [
                arm["name"].replace("+", ", "),
                *scores,
                "" if cv is None else f"{cv:.3f}",
                *(
                    [f"{1000 * arm['costs']['step_seconds']:.0f}", f"{arm['costs']['memory'] / 1e9:.2f}"]
                    if is_ranked
                    else []
                ),
                "; ".join([chosen(arm), *failed]),
            ]
        )
    costs = ["ms a step", "GB"] if is_ranked else []
    return table(["arm", *(title for _, title in columns), "length CV", *costs, "chosen"], rows)


def points(value: float | None) -> str:
    """A difference in points."""
    return "" if value is None else f"{100 * value:+.1f}"


def verdicts(result: dict[str, Any]) -> list[str]:
    """One row for each question."""
    rows = []
    for one in result["comparisons"]:
        if one["verdict"] is None:
            continue
        evidence, classes = one["verdict"]["evidence"], one["verdict"]["evidence"]["classes"]
        seeds = evidence["seeds"]
        # The p of each answer is of what it rules out: "yes" no difference, "no" a gain that matters.
        ruled_out = one["verdict"]["p_smallest_holm" if one["answer"] == "no" else "p_holm"]
        is_open = one["answer"] == "not decided"
        answer = f"**{one['answer']}**" + (f": {one['reason'].rstrip('.')}" if is_open else f", p {ruled_out:.2g}")
        rows.append(
            [
                one["question"],
                points(seeds["mean"]),
                "" if seeds["low"] is None else f"{points(seeds['low'])} to {points(seeds['high'])}",
                "" if classes is None else f"{points(classes['low'])} to {points(classes['high'])}",
                answer,
            ]
        )
    return table(["question", "points", "95 % over seeds", "95 % over seeds and classes", "answer"], rows)


def headline(result: dict[str, Any]) -> list[str]:
    """One row for each loss of a grid of losses and constraints: Recall@1 of each constraint, and SEC against none."""
    scores = {(arm["values"]["loss"], arm["values"]["constraint"]): arm["scores"]["recall@1"] for arm in result["arms"]}
    names = list(dict.fromkeys(loss for loss, _ in scores))
    columns = list(dict.fromkeys(constraint for _, constraint in scores))
    answers = {one["arm"]: one for one in result["comparisons"] if one["against"].endswith("+none")}
    rows = []
    for name in names:
        one = answers[f"{name}+sec"]
        seeds = one["verdict"]["evidence"]["seeds"]
        gain = f"{points(seeds['mean'])} ({points(seeds['low'])} to {points(seeds['high'])})"
        rows.append([name, *(percent(scores[name, column]) for column in columns), gain, one["answer"]])
    titles = {"none": "no constraint", "l2": "L2", "sec": "SEC"}
    return table(["loss", *(titles[column] for column in columns), "SEC minus none, 95 %", "does SEC help?"], rows)


def written(name: str, part: str | None) -> str:
    """The tables of a study, or one of them: `arms`, `verdicts` or `headline`."""
    result = json.loads((STUDIES / f"{name}.json").read_text(encoding="utf-8"))
    parts = {"arms": arms, "verdicts": verdicts, "headline": headline}
    blocks = [parts[part](result)] if part else [arms(result), verdicts(result)]
    return "\n" + "\n\n".join("\n".join(block) for block in blocks) + "\n\n"


def page(text: str) -> str:
    """A page with every marked table written anew."""
    return MARKED.sub(lambda match: match[1] + written(match[2], match[3]) + match[4], text)


def main() -> int:
    """Add, write or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["add", "write", "check"])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("name", nargs="?")
    options = parser.parse_args()
    if options.action == "add":
        if options.folder is None or not options.name:
            parser.error("add wants the folder of a study and a name")
        result = json.loads((options.folder / "results.json").read_text(encoding="utf-8"))
        if not result["complete"]:
            parser.error(f"{options.folder} is not complete: {result['missing']} runs are left")
        write_json(STUDIES / f"{options.name}.json", result)
        target = ROOT / "docs" / "figures" / options.name
        target.mkdir(parents=True, exist_ok=True)
        for file in (options.folder / "figures" / f"{figure}.svg" for figure in FIGURES):
            if file.exists():
                shutil.copy(file, target)
        return 0
    differing = []
    for file in PAGES:
        text = file.read_text(encoding="utf-8")
        if page(text) != text:
            differing.append(file.name)
            if options.action == "write":
                file.write_text(page(text), encoding="utf-8")
    if options.action == "check" and differing:
        print(f"{', '.join(differing)}: a table differs from its JSON. Run `python benchmarks/evidence.py write`.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
