"""`zoo.show_diff`: base and variant side by side, complete, from the source itself."""

import ast
import inspect
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path

import pytest

from detr_mini import zoo
from detr_mini.decoder import Decoder
from detr_mini.detr import Detr
from detr_mini.encoder import Encoder
from detr_mini.side_by_side import Piece, fold

VARIANTS = [name for name in zoo.names() if zoo.entry(name).detector is not Detr]


def plain(thing: object) -> str:
    """Source at the left margin."""
    return textwrap.dedent(inspect.getsource(thing)).rstrip()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_overridden_method_stands_beside_the_one_it_replaces(name: str) -> None:
    detector = zoo.entry(name).detector
    pieces = {piece.title: piece for piece in zoo.show_diff(name).pieces}
    overridden = 0
    for own, base in ((detector, Detr), (detector.decoder_class, Decoder), (detector.encoder_class, Encoder)):
        for method, function in vars(own).items() if own is not base else ():
            if inspect.isfunction(function) and method in vars(base):
                piece = pieces[f"{own.__name__}.{method}"]
                assert piece.base_title.startswith(f"{base.__name__}.{method}")
                assert (piece.base, piece.variant) == (plain(getattr(base, method)), plain(function))
                overridden += 1
    assert overridden >= 3


@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_of_the_variants_file_is_left_out(name: str) -> None:
    """Every function and method of the file is on the right-hand side, line by line."""
    path = Path(sys.modules[zoo.entry(name).detector.__module__].__file__)
    shown = {line.strip() for piece in zoo.show_diff(name).pieces for line in piece.variant.splitlines()}
    text = path.read_text()
    written = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    lines = {line.strip() for node in written for line in text.splitlines()[node.lineno - 1:node.end_lineno]}
    assert written and lines <= shown


def test_what_a_variant_brings_along_is_shown() -> None:
    """Attention and fields that come from other files, and helpers beside the variant."""
    pieces = {piece.title: piece for piece in zoo.show_diff("dab").pieces}
    assert pieces["ContentPositionAttention.forward"].base_title == "MultiHeadAttention.forward"
    assert "queries: int = 100" in pieces["DabModel"].base and "patterns: int = 0" in pieces["DabModel"].variant
    assert "patterns" not in pieces["DabModel"].base
    assert pieces["DabDecoder.anchor"].base == "" and pieces["DabDecoder.anchor"].base_title == ""
    sam = {piece.title: piece for piece in zoo.show_diff("sam").pieces}
    assert "roi_align" in sam["crop"].variant and "tanh" in sam["AlignedAttention.salient"].variant


def test_titles_say_what_is_extended_and_not_replaced() -> None:
    titles = {piece.title: piece.base_title for piece in zoo.show_diff("conditional").pieces}
    assert titles["ConditionalDecoder.init_queries"] == "Decoder.init_queries (still called)"
    assert titles["ConditionalDecoder.decode_box"] == "Decoder.decode_box"


def test_rows_keep_equal_lines_on_the_same_height() -> None:
    piece = Piece("a", "b", "one\ntwo\nthree\nfour", "one\n2\n2.5\nthree")
    assert list(piece.rows()) == [
        ("one", " ", "one"), ("two", "|", "2"), ("", ">", "2.5"), ("three", " ", "three"), ("four", "<", ""),
    ]
    assert list(Piece("", "b", "", "new").rows()) == [("", ">", "new")]


@pytest.mark.parametrize("columns", [90, 160])
@pytest.mark.parametrize("name", VARIANTS)
def test_text_fits_the_terminal(name: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    diff = zoo.show_diff(name)
    card, tables = diff.card.strip(), str(diff)
    assert tables.startswith(card) and "Parameters added" in card
    assert max(len(line) for line in tables[len(card):].splitlines()) <= columns
    for piece in diff.pieces:
        assert piece.title in tables and piece.base_title in tables


def test_folding_keeps_the_indent_and_every_word() -> None:
    line = "        return attend(queries.content, memory, memory, queries.position, grid.position)"
    folded = fold(line, 40)
    assert folded[0].startswith("        return") and all(part.startswith(" " * 12) for part in folded[1:])
    assert " ".join(part.strip() for part in folded) == line.strip() and max(map(len, folded)) <= 40
    assert fold("", 40) == [""]


class Table(HTMLParser):
    """Reads the cells of a table, and checks that every tag that opens is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in {"div", "pre", "table", "thead", "tbody", "tr", "th", "td", "code"}
        self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open:
            self.cells[-1] += data


@pytest.mark.parametrize("name", VARIANTS)
def test_html_shows_the_same_rows(name: str) -> None:
    diff, table = zoo.show_diff(name), Table()
    table.feed(diff._repr_html_())
    assert table.open == []
    expected = [cell for piece in diff.pieces for row in piece.rows() for cell in row]
    assert table.cells == expected


def test_tints_go_with_marks() -> None:
    """Where a line is tinted, its row carries a mark: nothing is said by colour alone."""
    rows = zoo.show_diff("conditional")._repr_html_().split("<tr>")
    tinted = [row for row in rows if "background: rgba" in row]
    assert tinted and all(any(f">{sign}</code>" in row for sign in ("|", "&lt;", "&gt;")) for row in tinted)
    assert any("background: rgba" not in row and "<td" in row for row in rows)


def test_names_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="'detr' is the base itself.*choose one of .*dab"):
        zoo.show_diff("detr")
    with pytest.raises(ValueError, match="no detector 'yolo'"):
        zoo.show_diff("yolo")
