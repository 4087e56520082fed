"""What strangers wrote reaches a terminal as letters only."""

import pytest

from detr_mini.printing import plain


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("cat", "cat"),
        ("\x1b[2Jcat", "\\x1b[2Jcat"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\u202egpj.tac", "\\u202egpj.tac"),  # would be read as cat.jpg
        ("\u2028", "\\u2028"),
        ("half \ud800", "half \\ud800"),
        ("\x9b31m", "\\x9b31m"),  # an escape in one byte
        ("Straße 猫 кошка café", "Straße 猫 кошка café"),
        ("نمی\u200cخواهم", "نمی\u200cخواهم"),
        (3, "3"),
    ],
)
def test_plain(given, shown):
    assert plain(given) == shown
    plain(given).encode("utf-8")
