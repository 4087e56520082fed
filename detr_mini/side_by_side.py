"""What a variant changes, beside what it replaces: made from the source itself, so it cannot go stale.

`zoo.show_diff("dab")` returns a SideBySide. A notebook shows it as a table, `print` as text.
"""

import ast
import difflib
import html
import inspect
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from types import ModuleType

from detr_mini import decoder, detr, encoder
from detr_mini.detr import Detr

BASE_MODULES = (detr, encoder, decoder)
SAME, CHANGED, ONLY_BASE, ONLY_VARIANT = " ", "|", "<", ">"
TINT = {ONLY_BASE: "rgba(213, 94, 0, 0.16)", ONLY_VARIANT: "rgba(0, 114, 178, 0.16)"}  # orange and blue of Okabe-Ito


@dataclass(frozen=True)
class Piece:
    """One method, function or list of fields: titles and source of both sides; an empty side has no counterpart."""

    base_title: str
    title: str
    base: str
    variant: str

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """(line of the base, mark, line of the variant), equal lines on the same height."""
        left, right = self.base.splitlines(), self.variant.splitlines()
        for _, a, b, c, d in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
            for before, after in zip_longest(left[a:b], right[c:d]):
                yield before or "", mark(before, after), after or ""


@dataclass(frozen=True)
class SideBySide:
    """A variant's diff card, and every piece of source that it changes or adds, with the base's on the left."""

    name: str
    card: str
    pieces: list[Piece]

    def __str__(self) -> str:
        """Two columns as wide as the terminal. Marks: | changed, < only in the base, > only in the variant."""
        column = max(40, (shutil.get_terminal_size((160, 24)).columns - 3) // 2)
        lines = [self.card.strip(), ""]
        for piece in self.pieces:
            lines += [text_row(piece.base_title, SAME, piece.title, column), "-" * (2 * column + 3)]
            for left, sign, right in piece.rows():
                folded = zip_longest(fold(left, column), fold(right, column), fillvalue="")
                lines += [text_row(a, sign, b, column) for a, b in folded]
            lines.append("")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The same as tables. Tints go with the marks, so that nothing is said by colour alone."""
        tables = "".join(self.table(piece) for piece in self.pieces)
        return f'<div><pre style="white-space: pre-wrap">{html.escape(self.card.strip())}</pre>{tables}</div>'

    def table(self, piece: Piece) -> str:
        """One piece as an HTML table of three columns: base, mark, variant."""
        rows = "".join(html_row(*row) for row in piece.rows())
        titles = "".join(
            f'<th scope="col" style="width: {width}; text-align: left">{html.escape(title)}</th>'
            for title, width in ((piece.base_title, "49%"), ("", "2%"), (piece.title, "49%"))
        )
        style = "width: 100%; table-layout: fixed; border-collapse: collapse; margin-bottom: 1em"
        return f'<table style="{style}"><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table>'


def mark(before: str | None, after: str | None) -> str:
    """How a line of the base relates to the one beside it; None where there is no line."""
    if before is None or after is None:
        return ONLY_VARIANT if before is None else ONLY_BASE
    return SAME if before == after else CHANGED


def text_row(left: str, sign: str, right: str, column: int) -> str:
    """One line of text: left column, mark, right column."""
    return f"{left:<{column}} {sign} {right}".rstrip()


def fold(line: str, column: int) -> list[str]:
    """A line in pieces that fit the column; what continues is indented by four more."""
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(line.strip(), column, initial_indent=indent, subsequent_indent=indent + "    ") or [""]


def html_row(left: str, sign: str, right: str) -> str:
    """One line as a row of a table."""
    cells = []
    for text, own in ((left, ONLY_BASE), (sign, SAME), (right, ONLY_VARIANT)):
        tint = f"background: {TINT[own]}; " if own in TINT and sign in (own, CHANGED) else ""
        hang = len(text) - len(text.lstrip()) + 4  # characters by which a wrapped line is indented
        style = f"{tint}text-align: left; vertical-align: top; padding: 0 4px; white-space: pre-wrap"
        code = f"display: block; background: none; padding: 0 0 0 {hang}ch; text-indent: -{hang}ch"
        cells.append(f'<td style="{style}"><code style="{code}">{html.escape(text)}</code></td>')
    return f"<tr>{''.join(cells)}</tr>"


def compare(name: str, detector: type[Detr]) -> SideBySide:
    """Everything in which a detector differs from what it was derived from."""
    module = sys.modules[detector.__module__]
    pieces = [piece for thing in things(module) for piece in pieces_of(thing)]
    return SideBySide(name, module.__doc__ or "", pieces)


def things(module: ModuleType) -> list[type | Callable]:
    """Classes and functions of a variant: those of its own file in their order, then those it brought along.

    Brought along is what comes from a module beside it, or is a class that the base does not use itself.
    """
    known = {id(thing) for base in BASE_MODULES for thing in vars(base).values()}
    found = [thing for thing in vars(module).values() if inspect.isclass(thing) or inspect.isfunction(thing)]
    own = [thing for thing in found if thing.__module__ == module.__name__]
    brought = [
        thing for thing in found
        if thing not in own and id(thing) not in known and thing.__module__.startswith("detr_mini.")
        and (inspect.isclass(thing) or thing.__module__.startswith(module.__package__))
    ]
    return sorted(own, key=line_number) + sorted(brought, key=lambda thing: thing.__name__)


def line_number(thing: type | Callable) -> int:
    """The line where a class or function begins."""
    return inspect.getsourcelines(thing)[1]


def pieces_of(thing: type | Callable) -> list[Piece]:
    """The pieces of one class (its fields, then its methods), or of one function."""
    if not inspect.isclass(thing) or not thing.__bases__[0].__module__.startswith("detr_mini."):
        return [Piece("", thing.__name__, "", source(thing))]
    parent = thing.__bases__[0]
    methods = [(name, function) for name, function in vars(thing).items() if is_written_in(function, thing)]
    return fields_of(thing, parent) + [method_of(name, function, thing, parent) for name, function in methods]


def is_written_in(function: object, thing: type) -> bool:
    """Whether something is a method with source of its own; those that a dataclass makes up have none."""
    if not inspect.isfunction(function):
        return False
    return inspect.unwrap(function).__code__.co_filename == sys.modules[thing.__module__].__file__


def method_of(name: str, function: Callable, thing: type, parent: type) -> Piece:
    """One method beside the parent's, where the parent has one in its own source."""
    before = getattr(parent, name, None)
    if not inspect.isfunction(before) or not before.__module__.startswith("detr_mini."):
        return Piece("", f"{thing.__name__}.{name}", "", source(function))
    kept = " (still called)" if f"super().{name}(" in source(function) else ""
    return Piece(before.__qualname__ + kept, f"{thing.__name__}.{name}", source(before), source(function))


def fields_of(thing: type, parent: type) -> list[Piece]:
    """The assignments in a class body beside the parent's of the same names; no piece where there are none."""
    ours, theirs = assignments(thing), assignments(parent)
    if not ours:
        return []
    before = "\n".join(theirs[name] for name in ours if name in theirs)
    return [Piece(parent.__name__ if before else "", thing.__name__, before, "\n".join(ours.values()))]


def assignments(thing: type) -> dict[str, str]:
    """Name and source of every plain assignment in a class body."""
    text = source(thing)
    found = {}
    for node in ast.parse(text).body[0].body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            found[ast.unparse(target)] = ast.get_source_segment(text, node) or ""
    return found


def source(thing: type | Callable) -> str:
    """The source of a class or function, as if it stood at the left margin."""
    return textwrap.dedent(inspect.getsource(thing)).rstrip()
