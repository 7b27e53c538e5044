"""Filling and searching a gallery as one call each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from cosphere import data
from cosphere.checks import check_choice, check_switches, check_whole
from cosphere.codes import is_codes
from cosphere.embeddings import Precision, columns_of
from cosphere.embeddings.computing import AUTOCAST
from cosphere.errors import SettingsError, agreeing, counted
from cosphere.experiment.embedding import check_embedding, say_how, settings_of_model, tolerated
from cosphere.experiment.images import ALL, how_read, take_split
from cosphere.experiment.listener import SILENT, Listener
from cosphere.experiment.models import load_model
from cosphere.experiment.searching import is_gallery_file
from cosphere.files import path_of
from cosphere.gallery import Added, OnReceipt, Space, Where, is_gallery, open_store
from cosphere.gallery.adding import Existing
from cosphere.gallery.address import place_of
from cosphere.gallery.schema import HOLDS
from cosphere.models import Embedder
from cosphere.search.answer import unmarked
from cosphere.search.any_gallery import AnyGallery, GalleryHit
from cosphere.search.engines import COSINE, SIGNS
from cosphere.search.gallery_file import load_gallery, rows_to_keep
from cosphere.search.gallery_items import described
from cosphere.search.gallery_rows import space_of
from cosphere.search.index import Index
from cosphere.search.opening import create_gallery, open_gallery
from cosphere.search.own import Others, other_files, other_pictures

if TYPE_CHECKING:
    from cosphere.data import Catalogue, Classes


@dataclass(frozen=True)
class Filled:
    """What was added to a gallery."""

    added: Added
    items: int
    """Items that it now has."""
    unread: int
    """Images that could not be read, and were left out."""
    made: bool
    """Whether the gallery is new."""


def add_to_index(
    gallery: str | Path,
    source: str | Path,
    *,
    model: str | Path | None = None,
    holds: str | None = None,
    thumbnail: int | None = None,
    existing: Existing = "skip",
    split: str = ALL,
    layout: str = "auto",
    classes: Classes | None = None,
    device: str = "auto",
    batch_size: int = 64,
    workers: int = 0,
    max_unreadable: float | None = None,
    precision: Precision = "float32",
    on_receipt: OnReceipt | None = None,
    listener: Listener = SILENT,
) -> Filled:
    """Add the images of a source to a gallery, which is made if there is none. Each batch is a commit: a killed call goes on.

    The id of an image is its absolute path, with ``@left,top,right,bottom`` where it has a box. Its metadata are ``path``, ``label``
    and ``split`` where the source has them, and the box.

    Args:
        gallery: its folder, or its address on a server: ``postgresql://user@host/database#name``.
        source: image folder, table or benchmark root, with or without labels. Or an .npz file of :func:`embed_images`, of an export or
            of a saved index: its rows that are not deleted, as floats, or as codes of an index of signs.
        model: a run's folder or a model bundle; None takes the one that the gallery was filled with, from where it lay then.
        holds: ``floats``, ``codes`` or ``both``, of a gallery that is made; floats by default. Of one that is there, its own.
        thumbnail: longer side of thumbnails in pixels, of a gallery that is made; none by default. Of one that is there, its own.
        existing: what happens to an image that is there: ``skip``, ``replace``, or ``refuse`` all.
        split: split to add; ``all`` for every image.
        layout: how the source is laid out.
        classes: which of nested class folders is the class, "top" or "leaf"; None takes what the run was trained with.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: images that are read together and added in one commit.
        workers: does not matter here: threads decode.
        max_unreadable: tolerated share of unreadable images, in [0, 1]; None takes what the run was trained with, or 0.01.
        precision: ``bf16`` runs the network in bfloat16; rows are float32 either way, see :meth:`cosphere.models.Embedder.encode`.
        on_receipt: called with the receipt of what each commit replaces, before that commit; in a folder.
        listener: receives notes of the data, and progress.

    Raises:
        RunError, WeightsError: there is no model, or the gallery cannot be used.
        DataError: the gallery is of another model, there is no such split, or too many images cannot be read.
        SettingsError: a setting is out of range.
    """
    check_embedding(batch_size, workers, max_unreadable)
    check_choice("precision", precision, get_args(Precision))
    if holds is not None:
        check_choice("holds", holds, HOLDS)
    made = not is_gallery(gallery)
    if not made:
        _check_own(gallery, holds, thumbnail)
    if is_gallery_file(source):
        _check_file_options(
            source,
            {
                "--split": split != ALL,
                "--thumbnail": bool(thumbnail),
                "--layout": layout != "auto",
                "--classes": classes is not None,
                "--max_unreadable": max_unreadable is not None,
                "--precision": precision != "float32",
            },
        )
        return _add_file(gallery, path_of(source), made, model, holds, existing, on_receipt, listener)
    path = _model_path(gallery, model, made)
    settings = settings_of_model(path)
    read = how_read(source, layout, classes, settings)
    catalogue = data.read_catalogue(source, layout=read.layout, classes=read.classes, labels="optional")
    listener.listed(catalogue.remarks)
    chosen = take_split(catalogue, split, settings).images
    embedder = load_model(path, device)
    with _opened(gallery, made, embedder, path, holds, thumbnail) as opened:
        before = len(opened)
        ids, metadata = _described(chosen, listener)
        with listener.progress("adding images") as progress:
            added = opened.add(
                [one["path"] for one in metadata],
                ids,
                metadata,
                existing=existing,
                batch_size=batch_size,
                autocast=AUTOCAST[precision],
                max_unreadable=tolerated(max_unreadable, settings),
                progress=progress,
                on_receipt=on_receipt,
            )
        say_how(embedder, listener)
        return Filled(added, len(opened), len(ids) - sum(added), made and not before)


def _opened(
    gallery: str | Path, made: bool, embedder: Embedder, model: Path, holds: str | None, thumbnail: int | None
) -> AnyGallery:
    if made:
        space = space_of(embedder, holds or "floats", model.absolute())
        return create_gallery(gallery, space, embedder=embedder, thumbnail=thumbnail or 0)
    return open_gallery(gallery, embedder=embedder)


def _add_file(
    gallery: str | Path,
    source: Path,
    made: bool,
    model: str | Path | None,
    holds: str | None,
    existing: Existing,
    on_receipt: OnReceipt | None,
    listener: Listener,
) -> Filled:
    """Add saved embeddings, for which no model is needed."""
    file = load_gallery(source)
    table = rows_to_keep(file, source)
    own = "codes" if is_codes(table.embeddings) else "floats"
    if own == "codes" and holds not in (None, own):
        raise SettingsError(f"{source} holds codes only, so --holds {holds} does not apply. Leave it out.")
    where = "" if model is None else str(path_of(model).absolute())
    dim = table.embeddings.shape[1] if file.index is None else file.index.dim
    opened = (
        create_gallery(gallery, Space(dim=dim, holds=holds or own, model=where, model_id=table.model_id))
        if made
        else open_gallery(gallery)
    )
    with opened:
        added = opened.add(table, existing=existing, on_receipt=on_receipt)
        _note_same(len(table) - sum(added), listener)
        return Filled(added, len(opened), 0, made)


def _check_own(gallery: str | Path, holds: str | None, thumbnail: int | None) -> None:
    """Raise where what is asked of a new gallery is not what the gallery that is there has; the same command may come again.

    Raises:
        SettingsError: it is not.
    """
    if (holds, thumbnail) == (None, None):
        return
    with open_store(gallery) as store:
        own = {"--holds": (holds, store.space().holds), "--thumbnail": (thumbnail, store.thumbnail)}
    for option, (asked, there) in own.items():
        if asked not in (None, there):
            raise SettingsError(
                f"{place_of(gallery)} is there already, with {option} {there}, so {option} {asked} does not apply. Leave it out."
            )


def _check_file_options(source: str | Path, given: dict[str, bool]) -> None:
    """Raise where options of images are given for a file of embeddings.

    Raises:
        SettingsError: some are.
    """
    names = [option for option, is_given in given.items() if is_given]
    if names:
        raise SettingsError(
            f"{source} holds embeddings and no images, so {' and '.join(names)} {agreeing(len(names), 'do')} not apply. "
            f"Leave {'it' if len(names) == 1 else 'them'} out."
        )


def _model_path(gallery: str | Path, model: str | Path | None, made: bool) -> Path:
    """The model to load.

    Raises:
        SettingsError: none was given, and the gallery does not know where its own lies.
    """
    if model is not None:
        return path_of(model)
    if made:
        raise SettingsError(f"{place_of(gallery)} is not there yet. To make it, name the model: --model runs/first.")
    with open_store(gallery) as store:
        known = store.space().model
    if not known or not Path(known).exists():
        lost = f"its model is no longer at {known}" if known else "it does not know where its model lies"
        raise SettingsError(
            f"{place_of(gallery)} needs the model of its embeddings, but {lost}. Give it: --model runs/first."
        )
    return Path(known)


def _described(images: Catalogue, listener: Listener) -> tuple[list[str], list[dict[str, Any]]]:
    """Ids and metadata of a catalogue's images; of rows that show one picture, the first."""
    rows, ids, columns = described(columns_of(images))
    splits = images.splits.tolist()
    _note_same(len(images) - len(rows), listener)
    return ids, [
        one | ({} if splits[row] == ALL else {"split": splits[row]}) for row, one in zip(rows, columns, strict=True)
    ]


def _note_same(count: int, listener: Listener) -> None:
    if count:
        listener.note(
            f"{counted(count, 'row')} of the source {agreeing(count, 'show')} a picture that another row shows; each picture is added "
            "once"
        )


@dataclass(frozen=True)
class IndexAnswer:
    """The nearest items of one query."""

    query: Any
    hits: tuple[GalleryHit, ...]
    thumbnails: tuple[bytes | None, ...]
    """JPEG of each hit, where the gallery keeps one."""
    own: int
    """Items that show the query's own file; they are left out."""
    items: int
    """Items of the gallery."""
    measure: str
    """What the scores are."""
    notes: tuple[str, ...] = ()
    """What a reader of the answer should know, one sentence each."""


def search_index(
    gallery: str | Path,
    queries: Sequence[str | Path] = (),
    *,
    ids: Sequence[str] = (),
    model: str | Path | None = None,
    k: int = 8,
    where: Where | None = None,
    precision: Any = None,
    exact: bool = False,
    device: str = "auto",
) -> list[IndexAnswer]:
    """The items nearest to each query image, and to each item named by its id.

    A query that is a file of the gallery does not meet itself.

    Args:
        gallery: its folder or its address.
        queries: image files.
        ids: of items that are searched with; these need no model.
        model: a run's folder or a bundle; None takes the one that the gallery was filled with.
        k: items to find; fewer where the gallery or the filter has fewer.
        where: a filter of metadata, see :mod:`cosphere.gallery.where`.
        precision: ``floats`` or ``codes``, where the gallery holds both; None for floats.
        exact: compare all rows, also where the folder holds an index.
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        RunError, WeightsError: there is no gallery or no model, or it is damaged.
        DataError: the model is another one, an id is not there, or the filter is wrong.
        SettingsError: a setting is out of range.
    """
    check_switches(exact=exact)
    check_whole("k", k, least=1)
    if not queries and not ids:
        raise SettingsError("what should be searched for? Give an image, or the id of an item with --id.")
    embedder = load_model(_model_path(gallery, model, False), device) if queries else None
    with open_gallery(gallery, embedder=embedder) as opened:
        opened.exact = exact
        answers = []
        for query in queries:
            others = other_files(opened, query, k, where, precision=precision)
            answers.append(_answer(opened, query, others, precision))
        for id_ in ids:
            others = other_pictures(opened, id_, k, where, precision=precision)
            answers.append(_answer(opened, id_, others, precision))
        return answers


def _answer(gallery: AnyGallery, query: Any, others: Others, precision: Any) -> IndexAnswer:
    hits = others.hits
    pictures = tuple(gallery.get(hit.id).thumbnail if hit.id in gallery else None for hit in hits)
    of_codes = precision == "codes" or not gallery.space.has_floats
    measure = hits[0].measure if hits else SIGNS if of_codes else COSINE
    marks = gallery.embedder is not None and gallery.embedder.calibration is not None
    notes = (unmarked(f"scores that are {measure}"),) if marks and measure != COSINE else ()
    return IndexAnswer(query, tuple(hits), pictures, others.own, len(gallery), measure, notes)


def build_index(
    gallery: str | Path,
    *,
    kind: str = "auto",
    precision: Literal["floats", "codes"] | None = None,
    wanted_recall: float | None = None,
    most_bytes: float | None = None,
    seed: int = 0,
) -> Index | None:
    """Make an approximate index over a gallery's rows and keep it where the gallery lies; see :meth:`Gallery.build_index`.

    Args:
        gallery: its folder, or its address on a server, where the index is HNSW of every column and takes no other setting.
        kind: one of :data:`cosphere.search.KINDS` except ``exact``, or ``auto``, which measures and chooses.
        precision: ``floats`` or ``codes``, where the gallery holds both; None for floats.
        wanted_recall: in [0, 1], of exact search; an index that finds less is an error. Kind ``auto`` takes 0.95.
        most_bytes: of kind ``auto``: bound of the index in memory.
        seed: of what is drawn or trained.

    Returns:
        the index, with its measured recall in ``check`` and why it was chosen in ``reason``; None where a server keeps it.

    Raises:
        SettingsError: a setting is out of range or does not apply, the gallery does not hold such rows, or too little is found.
        SizeError: the kind compares floats, and the rows are codes.
        RunError: there is no gallery, another process writes, or there are fewer than 1000 items.
    """
    options = {"precision": precision, "wanted_recall": wanted_recall, "most_bytes": most_bytes, "seed": seed or None}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    with open_gallery(gallery) as opened:
        return opened.build_index(kind, **given)
