"""The commands: where each is, and what it does in one line."""

from __future__ import annotations

from pathlib import Path

from cosphere.errors import did_you_mean, one_of

COMMANDS = {
    "demo": ("cosphere.cli.demo", "draw stamps, train on them, show the improvement and search; needs no data"),
    "data check": ("cosphere.cli.data_check", "check a folder, table or benchmark before training"),
    "data align": (
        "cosphere.cli.data_align",
        "find faces with a detector of yours, align them and write them as images",
    ),
    "data convert": ("cosphere.cli.data_convert", "copy images into another form: folder, RecordIO, zip or table"),
    "data audit": (
        "cosphere.cli.data_audit",
        "rank wrong labels, near duplicates, odd classes and outliers, with pictures and a patch",
    ),
    "data patch": ("cosphere.cli.data_patch", "apply the changes of a patch to the labels, or undo them"),
    "plan": ("cosphere.cli.plan", "propose runs for your images, with time and memory on this machine; can race them"),
    "train": ("cosphere.cli.train", "train an embedding from a folder, a table, a benchmark or a recipe"),
    "evaluate": (
        "cosphere.cli.evaluate",
        "score a run: Recall@K, MAP@R, NMI and F1 with intervals, or a protocol such as LFW's",
    ),
    "calibrate": (
        "cosphere.cli.calibrate",
        "choose a match threshold for a target false-accept rate and store it in the model",
    ),
    "reproduce": ("cosphere.cli.reproduce", "train and score a published row, and say whether its scores were reached"),
    "compare": ("cosphere.cli.compare", "compare runs: differences with intervals and p-values, and who wins where"),
    "embed": ("cosphere.cli.embed", "write the embeddings of images to a file"),
    "search": ("cosphere.cli.search", "find the images nearest to one image"),
    "index add": ("cosphere.cli.index.add", "add images to a gallery, which is made if there is none"),
    "index search": ("cosphere.cli.index.search", "find the items of a gallery nearest to one image"),
    "index build": ("cosphere.cli.index.build", "make an approximate index, for searches of large galleries"),
    "index delete": ("cosphere.cli.index.delete", "delete items by id or by their metadata"),
    "index info": ("cosphere.cli.index.info", "show what a gallery holds, and check it"),
    "index export": ("cosphere.cli.index.export", "write a gallery as .parquet, .npz or .faiss"),
    "index compact": ("cosphere.cli.index.compact", "take deleted items out of a gallery's file"),
    "index migrate": ("cosphere.cli.index.migrate", "embed the images of a gallery again, with another model"),
    "index prove-deleted": (
        "cosphere.cli.index.prove_deleted",
        "read every byte of a gallery's folder for what was deleted",
    ),
    "study": (
        "cosphere.cli.study",
        "answer a question about methods: equal tuning, paired seeds, a verdict with intervals",
    ),
    "report": ("cosphere.cli.report", "write one page with curves, lengths and a gallery of right and wrong answers"),
    "losses": ("cosphere.cli.losses", "list the losses, what they need and when to choose which"),
}
"""Name -> module with `run(arguments) -> exit status`, and one line of help. A new command is one file and one line here.

A name of two words, such as `data check`, is a verb of the group of commands that its first word names.
"""

_SEARCH = "Use `cosphere search`, or `cosphere index search` for a gallery"
_SERVE = "There is no server: `cosphere.Gallery` searches in a process of yours, or keep the gallery in PostgreSQL (docs/gallery.md)"
_ENCODE = "Use `cosphere search` for the nearest images and `cosphere embed` for embeddings"
_REPORT = "`cosphere report` draws curves, lengths and neighbours"
_DUPLICATES = "`cosphere data audit` finds near duplicates and wrong labels"

ADVICE = {
    **dict.fromkeys(("eval", "score", "val", "validate"), "Use `cosphere evaluate`"),
    **dict.fromkeys(("find", "match", "query", "retrieve", "similar"), _SEARCH),
    **dict.fromkeys(("gui", "ui", "web"), _SERVE),
    **dict.fromkeys(("infer", "inference"), _ENCODE),
    **dict.fromkeys(("plot", "tsne", "umap", "visualise", "visualize"), _REPORT),
    **dict.fromkeys(("clean", "data clean", "data dedup", "dedup", "dedupe", "duplicates"), _DUPLICATES),
    **dict.fromkeys(("fit", "run"), "Use `cosphere train`"),
    **dict.fromkeys(("fine-tune", "finetune"), "Use `cosphere train DATA --model.weights RUN`"),
    **dict.fromkeys(
        ("index create", "index init", "index new", "index update"),
        "Use `cosphere index add`, which makes a new gallery too",
    ),
    **dict.fromkeys(("index find", "index query"), "Use `cosphere index search`"),
    **dict.fromkeys(("index drop", "index remove", "index rm"), "Use `cosphere index delete`"),
    **dict.fromkeys(("index list", "index ls", "index stats", "index verify"), "Use `cosphere index info`"),
    **dict.fromkeys(("data info", "data stats", "data validate"), "Use `cosphere data check`"),
    "benchmark": "Use `cosphere losses --time` for the losses and `cosphere plan` for a whole training",
    "encode": "Use `cosphere embed`",
    "export": "Use `cosphere index export` for a gallery and `cosphere embed --out` for embeddings; docs/path.md, section 5, has ONNX",
    "list-models": "`python -c 'import timm; print(timm.list_models())'` names the backbones, and `--model.backbone NAME` trains one",
    "models": "`python -c 'import timm; print(timm.list_models())'` names the backbones, and `--model.backbone NAME` trains one",
    "onnx": "docs/path.md, section 5, has ONNX",
    "predict": _ENCODE,
    "quantize": "`cosphere evaluate RUN --codes` shows what bits and int8 keep, and `cosphere search --kind bits` uses them",
    "recipes": "docs/recipes.md lists them, and `cosphere train --config NAME` trains one",
    "resume": "Use `cosphere train --resume runs/NAME`",
    "serve": _SERVE,
    "sweep": "Use `cosphere study`, which tunes every arm equally, or `cosphere plan --race true`",
    "test": "Use `cosphere evaluate`",
    "threshold": "Use `cosphere calibrate`",
    "tune": "Use `cosphere study`, which tunes every arm equally, or `cosphere plan --race true`",
}
"""Commands of other tools that people try first, and what to use."""


def instead(name: str) -> str:
    """The tail of the error about a command that does not exist: what to use, or the nearest command.

    >>> instead("audit"), instead("serach")
    ('Use `cosphere data audit`.', "Did you mean 'search'?")
    """
    group, _, word = name.partition(" ")
    meant = name.replace("_", "-")
    if meant in ADVICE:
        return f"{ADVICE[meant]}."
    if word and ("/" in word or Path(word).exists()):  # images where a verb is wanted
        return f"To {_OF_IMAGES[group]}."
    if word:
        return did_you_mean(word, verbs(group), cutoff=0.7)
    own = [command for command in COMMANDS if command.endswith(f" {meant}")]
    return f"Use {one_of(f'`cosphere {one}`' for one in own)}." if own else did_you_mean(name, _FIRST_WORDS, cutoff=0.7)


_FIRST_WORDS = [command.split()[0] for command in COMMANDS]
_OF_IMAGES = {
    "data": "check images before training: cosphere data check IMAGES",
    "index": "add images to a gallery: cosphere index add GALLERY IMAGES --model RUN",
}


def verbs(group: str) -> list[str]:
    """The verbs of a group of commands; empty for a command and for anything else.

    >>> "check" in verbs("data"), verbs("train")
    (True, [])
    """
    return [name.removeprefix(f"{group} ") for name in COMMANDS if name.startswith(f"{group} ")]
