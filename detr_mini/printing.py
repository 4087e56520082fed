"""Text from strangers (names of files and classes, words inside weights), made safe to print on a terminal."""

import unicodedata

# Control codes (escape, newline, bell), invisible formatting (which can reverse what is read), line separators, halves
# of characters that no terminal can encode, and codes nobody has assigned.
UNSAFE = ("Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn")
JOINERS = "\u200c\u200d"  # needed inside words of some scripts, and harmless


def plain(text: object) -> str:
    """`text` on one line, without anything a terminal would obey: such characters are shown as Python writes them.

    plain("cat\\x1b[2J") is "cat\\\\x1b[2J"; letters of every script stay as they are.
    """
    return "".join(
        character if unicodedata.category(character) not in UNSAFE or character in JOINERS
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in str(text)
    )
