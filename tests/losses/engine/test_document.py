"""docs/losses.md tells what the code does."""

from pathlib import Path

import pytest

from cosphere import losses
from cosphere.errors import DataError
from cosphere.losses.engine.document import BEGIN, END, loss_table_markdown, main, with_table

PAGE = Path(__file__).parents[3] / "docs" / "losses.md"


def rows_of(page):
    return [line for line in page.splitlines() if line.startswith("| `")]


def test_what_the_page_says_of_a_loss_is_what_the_code_says():
    """`make test` checks that no loss is missing from the page; a new one need not be there before `make docs` ran."""
    page = PAGE.read_text(encoding="utf-8")
    table = page[page.index(BEGIN) : page.index(END)]
    assert len(rows_of(table)) > 60
    assert set(rows_of(table)) <= set(rows_of(loss_table_markdown()))


def test_the_command_writes_the_table_or_says_that_it_is_out_of_date(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    assert main(["--check", str(page)]) == 1
    assert "page.md is out of date; run: make docs" in capsys.readouterr().err
    assert "old" in page.read_text(encoding="utf-8")
    assert main([str(page)]) == 0
    assert page.read_text(encoding="utf-8") == f"before\n{BEGIN}\n\n{loss_table_markdown()}\n\n{END}\nafter\n"
    assert main(["--check", str(page)]) == 0


def test_every_loss_is_told_in_full():
    rows = [line for line in loss_table_markdown().splitlines() if line.startswith("| `")]
    for entry in losses.table():
        found = [line for line in rows if line.startswith(f"| `{entry.name}` |")]
        assert len(found) == 2
        told = [
            entry.choose_when,
            entry.batch,
            entry.normalises,
            entry.cost,
            entry.defaults_source,
            entry.paper,
            entry.title,
        ]
        for text in [*told, *(f"{key}={value!r}" for key, value in entry.defaults.items())]:
            assert any(text.replace("|", "\\|") in line for line in found), text
    assert len(rows) == 2 * len(losses.table())


def test_losses_stand_in_their_group():
    pairs, weights = loss_table_markdown().split("### Losses with class weights\n")
    assert "`triplet`" in pairs
    assert "`triplet`" not in weights
    assert "`NormSoftmaxLoss(num_classes, embedding_dim, temperature=0.05" in weights
    assert "`norm_softmax`" not in pairs


def test_tables_are_well_formed():
    blocks = [block for block in loss_table_markdown().split("\n\n") if block.startswith("|")]
    assert len(blocks) == 4
    for block in blocks:
        widths = {line.replace("\\|", "").count("|") for line in block.splitlines()}
        assert len(widths) == 1


def test_only_what_is_between_the_markers_changes():
    page = with_table(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert page == f"before\n{BEGIN}\n\n{loss_table_markdown()}\n\n{END}\nafter\n"
    assert with_table(page) == page


@pytest.mark.parametrize("page", ["", BEGIN, f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}", f"{BEGIN} {END} {END}"])
def test_a_page_without_both_markers_is_refused(page):
    with pytest.raises(DataError, match="want one <!-- table --> and after it one <!-- /table -->"):
        with_table(page)
