"""A deletion that is committed has its receipt, and what is written is committed when the call returns."""

from __future__ import annotations

import resource

import pytest
from making_gallery import rows_of

from cosphere.errors import RunError
from cosphere.gallery import Receipt, Store, prove_deleted


def test_a_deletion_that_cannot_rewrite_the_file_gives_its_receipt(
    empty: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size of files is limited while the file is rewritten, as on a full disk."""
    rows, codes = rows_of(3000)
    empty.add([str(place) for place in range(3000)], rows, codes)
    vacuum = Store.vacuum

    def limited(store: Store) -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        try:
            vacuum(store)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(Store, "vacuum", limited)
    monkeypatch.setattr("cosphere.gallery.store.left_over", lambda *_: True)
    deleted = empty.delete(["7", "2999"])
    assert (deleted.ids, deleted.receipt.items, deleted.flushed) == (("7", "2999"), 2, False)
    for words in (
        "the items are deleted, but copies of them may be left in the file: ",
        "in the folder of temporary files (SQLITE_TMPDIR, TMPDIR or /var/tmp), and as many in ",
        "Then run `cosphere index compact`.",
    ):
        assert words in deleted.problem
    assert len(empty) == 2998
    monkeypatch.undo()
    assert empty.delete(["8"])[2:] == (True, "")
    empty.close()
    assert prove_deleted(empty.folder, ["2999"], [deleted.receipt]).unknown == ()


def test_a_receipt_is_given_before_the_commit(empty: Store) -> None:
    empty.add(["a", "b"], *rows_of(2))
    seen = []

    def full(receipt: Receipt) -> None:
        seen.append(receipt)
        raise RunError("no space left")

    with pytest.raises(RunError, match="no space left"):
        empty.delete(["a"], on_receipt=full)
    assert "a" in empty
    assert empty.delete(["a"], on_receipt=seen.append).receipt is seen[1]
    assert [one.items for one in seen] == [1, 1]


def test_what_would_be_written_in_the_middle_of_reading_is_refused(empty: Store) -> None:
    """Its commit would come with the end of the reading, after the call has returned."""
    for close in (True, False):
        empty.add([f"{close}"], *rows_of(1))
        if close:
            empty.close()
        with empty.reading(), pytest.raises(RunError, match="is being read by the call that would write it"):
            empty.add(["b"], *rows_of(1))
        assert "b" not in empty
