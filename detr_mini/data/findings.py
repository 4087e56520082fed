"""One finding of the check of a data set."""

from dataclasses import dataclass, field
from pathlib import Path

from detr_mini.printing import plain

MOST_EXAMPLES = 20  # in the report; a terminal shows three


@dataclass(frozen=True)
class Finding:
    """level: "error", "warning" or "note". kind: short name. split: where. count: how many. message: what, and the
    cure. examples: some of them."""

    level: str
    kind: str
    split: str
    count: int
    message: str
    examples: list[str] = field(default_factory=list)

    def lines(self, shown: int = 3) -> list[str]:
        """As a terminal shows it: one line, and a few examples below."""
        more = [f"         ... and {self.count - shown} more"] if len(self.examples) > shown else []
        amount = f"{self.count} " if self.count else ""
        head = f"{self.level.upper():<8} {self.split}: {self.kind}: {amount}{self.message}"
        return [plain(head), *(f"         {plain(example)}" for example in self.examples[:shown]), *more]


def found(level: str, kind: str, split: str, examples: list[str], message: str) -> list[Finding]:
    """A list with one finding, or an empty one when there is no example."""
    return [Finding(level, kind, split, len(examples), message, examples[:MOST_EXAMPLES])] if examples else []


def shorten(path: Path) -> str:
    """A file with the folder it is in."""
    return "/".join(Path(path).parts[-2:])
