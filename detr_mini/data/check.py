"""Is this data set fit for training? Every fault of a folder at once, in words, numbers and pictures.

    report = check_folder("photos")
    print(report)
    report.save("runs/check")

A folder in any format that is read (layouts.py) goes in, with all its splits. Findings come in three levels. An *error*
would stop a training or spoil it or its figures, such as a broken picture, or the same picture to train and to
validate on. A *warning* is worth a look. A *note* is good to know.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from detr_mini.data import check_files
from detr_mini.data.check_boxes import check_annotations, describe_split, suspects
from detr_mini.data.check_files import Seen
from detr_mini.data.check_turns import turn_findings, turns_of
from detr_mini.data.contact_sheet import contact_sheet
from detr_mini.data.finding import Split
from detr_mini.data.findings import Finding, found, shorten
from detr_mini.data.labels import matching_rows
from detr_mini.data.layouts import find_splits
from detr_mini.data.raw import RawSplit, read_split
from detr_mini.files import atomic
from detr_mini.printing import plain

TRAINING_SIZE = 320  # pixels of the shorter side, where nothing else is said
USUAL_QUERIES = 100  # DETR's
LEVELS = ("error", "warning", "note")
PROBLEMS = {
    "missing": ("missing files", "pictures are listed and not there: restore them, or take them off the list"),
    "broken": ("broken files", "pictures cannot be decoded: replace them, or take them off the list"),
    "size": ("wrong sizes", "pictures have another size than their annotations say, so boxes lie elsewhere: annotate "
             "them anew, or correct width and height"),
}


@dataclass
class Report:
    """What `check_folder` found. splits: name -> figures, see `describe_split`. sheets: name -> a picture of a few."""

    folder: str
    training_size: int
    splits: dict[str, dict] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    sheets: dict = field(default_factory=dict, repr=False)

    @property
    def errors(self) -> list[Finding]:
        """The findings that would stop or spoil a training."""
        return [one for one in self.findings if one.level == "error"]

    def to_dict(self) -> dict:
        """Everything but the pictures, as plain values for JSON."""
        findings = [asdict(one) for one in self.findings]
        return {"folder": self.folder, "training_size": self.training_size, "fit_for_training": not self.errors,
                "splits": self.splits, "findings": findings}

    def save(self, folder: Path | str) -> list[Path]:
        """Write report.json and one contact sheet SPLIT.png for each split; returns the paths."""
        paths = [Path(folder) / "report.json", *(Path(folder) / f"{name}.png" for name in self.sheets)]
        with atomic(paths[0]) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        for path, sheet in zip(paths[1:], self.sheets.values(), strict=True):
            with atomic(path) as temporary:
                sheet.save(temporary, format="PNG")
        return paths

    def __str__(self) -> str:
        """Figures of every split, then the findings, worst first, then the verdict."""
        lines = [line for name, facts in self.splits.items() for line in (*split_lines(name, facts), "")]
        ordered = sorted(self.findings, key=lambda one: LEVELS.index(one.level))
        lines += [line for one in ordered for line in one.lines()]
        counts = Counter(one.level for one in self.findings)
        said = ", ".join(f"{counts[level]} {level}{'s' * (counts[level] != 1)}" for level in LEVELS)
        verdict = "mend the errors before you train" if self.errors else "fit for training"
        return "\n".join([*lines, "", f"{said}: {verdict}"])


def split_lines(name: str, facts: dict) -> list[str]:
    """The figures of a split as a terminal shows them."""
    per, sizes, size = facts["objects_per_image"], facts["box_sizes"], facts["training_size"]
    names = [plain(row["name"]) for row in facts["classes"]]
    width = max([len(name) for name in names] + [5])
    lines = [
        f"{plain(name)}: {facts['images']} images, {facts['objects']} objects, {facts['images_without_objects']} "
        f"images without objects, {facts['crowds']} crowds",
        f"  pictures, width x height: {', '.join(facts['picture_sizes'])}",
        f"  objects per image: median {per['median']:g}, most {per['most']}; pairs that overlap by half or more (IoU): "
        f"{facts['overlapping_pairs']}",
        f"  {'class':<{width}}  objects  images",
    ]
    lines += [f"  {called:<{width}}  {row['objects']:>7}  {row['images']:>6}"
              for called, row in zip(names, facts["classes"], strict=True)]
    shown = ", ".join(f"{kind} {sizes['trained'][kind]} ({sizes['stored'][kind]})" for kind in sizes["trained"])
    return [*lines, f"  box sizes by COCO's limits at {size} pixels (as stored): {shown}"]


def check_folder(
    folder: Path | str, size: int = TRAINING_SIZE, quick: bool = False, progress: bool = False, pictures: int = 12
) -> Report:
    """Check all splits of a folder in any format that is read.

    size: pixels of the shorter side in training, for box sizes. quick: see only whether picture files are there,
    without decoding them; broken ones and duplicates are not found then. pictures: on each contact sheet, 0 for none.
    Raises FileNotFoundError when the folder is missing or holds neither format; all other faults are in the report.
    """
    return check_splits(find_splits(folder), folder, size, quick, progress, pictures)


def check_splits(
    found_splits: list[Split], folder: Path | str, size: int = TRAINING_SIZE, quick: bool = False,
    progress: bool = False, pictures: int = 12,
) -> Report:
    """`check_folder` of splits that were found. folder: what the report calls them."""
    splits = [read_split(split) for split in found_splits]
    report = Report(str(folder), size)
    seen = {}
    for split in splits:
        report.findings += findings_without_pictures(split, size)
        if split.annotations is None:
            continue
        report.splits[split.name] = describe_split(split, size)
        turns = turns_of(split.annotations)
        seen[split.name] = check_files.look_at_all(split, quick, progress, turns.upright)
        report.findings += file_findings(split.name, seen[split.name])
        if pictures:
            first = [*suspects(split), *turns.stored, *turns.other]
            report.sheets[split.name] = contact_sheet(split, seen[split.name], pictures, first, turns.upright)
    whole = [split for split in splits if split.annotations is not None]
    report.findings += across(whole, seen) + unlisted_findings(whole, sum(len(split.missing) for split in whole))
    return report


def findings_without_pictures(split: RawSplit, size: int) -> list[Finding]:
    """All that can be said of a split without decoding a picture: `train` and `evaluate` ask for it, too."""
    findings = found("error", "broken entries", split.name, split.faults,
                     "entries cannot be read, and training stops at the first: mend or remove them")
    if split.annotations is None:
        return findings
    findings += found("error", "pictures not settled", split.name, split.lost,
                      "pictures have names that could mean several, or that lead out of the data folder")
    findings += [Finding("note", "read as", split.name, 0, note) for note in split.annotations.notes]
    if split.unannotated:
        return [*findings, Finding("note", "no annotations", split.name, 0, "the test split has pictures and no "
                                   "annotations: nothing can be measured on it")]
    turned = turn_findings(split.name, split.annotations)
    return [*findings, *check_annotations(split, size), *turned, *name_findings(split), *query_findings(split)]


def query_findings(split: RawSplit) -> list[Finding]:
    """Images with more objects than most detectors have queries."""
    per_image = np.bincount(split.annotations.rows[~split.annotations.crowd])
    if not len(per_image) or per_image.max() <= USUAL_QUERIES:
        return []
    said = (f"the fullest image has {per_image.max()} objects, and a detector with {USUAL_QUERIES} queries finds no "
            f"more than that: `train` chooses enough by itself, and with a preset give --queries {per_image.max()}")
    return [Finding("note", "queries", split.name, 0, said)]


def name_findings(split: RawSplit) -> list[Finding]:
    """Classes whose names differ in upper and lower case only."""
    names = {entry["name"] for entry in split.annotations.categories}
    groups = {form: sorted(name for name in names if name.strip().casefold() == form)
              for form in {name.strip().casefold() for name in names}}
    alike = [" and ".join(map(plain, group)) for _, group in sorted(groups.items()) if len(group) > 1]
    return found("warning", "nearly the same name", split.name, alike,
                 "groups of classes differ in upper and lower case only, and are kept apart: is it one class?")


def errors_of(splits: list[RawSplit], size: int = TRAINING_SIZE) -> list[Finding]:
    """What `check` would call an error and can be told without decoding a picture, over all these splits."""
    findings = [finding for split in splits for finding in findings_without_pictures(split, size)]
    for split in splits:
        findings += found("error", PROBLEMS["missing"][0], split.name, split.missing, PROBLEMS["missing"][1])
    whole = [split for split in splits if split.annotations is not None]
    return [one for one in [*findings, *category_findings(whole), *same_file_findings(whole)] if one.level == "error"]


def same_file_findings(splits: list[RawSplit]) -> list[Finding]:
    """Files that two splits list."""
    if len(splits) < 2:
        return []
    paths = [{split.path(row).resolve() for row in range(len(split.annotations.image_ids))} for split in splits]
    pairs = [(splits[b].name, splits[a].name, paths[a] & paths[b]) for a in range(len(splits)) for b in range(a)]
    return [one for first, second, both in pairs for one in found(
        leak_level(splits, first, second), "leakage", f"{first} and {second}", [shorten(path) for path in sorted(both)],
        "pictures are in both splits, so figures on one flatter: remove them from one")]


def leak_level(splits: list[RawSplit], *names: str) -> str:
    """How bad it is that two splits share pictures: only a note where one has no annotations, so no figures either."""
    return "note" if any(split.unannotated for split in splits if split.name in names) else "error"


def file_findings(name: str, seen: list[Seen]) -> list[Finding]:
    """Missing and broken files, wrong sizes, and pictures that a split has twice."""
    findings = []
    for key, (kind, words) in PROBLEMS.items():
        examples = [one.problem[1] for one in seen if one.problem and one.problem[0] == key]
        findings += found("error", kind, name, examples, words)
    groups = [" = ".join(map(shorten, paths)) for paths in check_files.groups_of_same(seen)]
    return findings + found("warning", "same picture twice", name, groups,
                            "pictures are listed more than once, perhaps with different boxes: keep one of each")


def unlisted_findings(splits: list[RawSplit], missing: int) -> list[Finding]:
    """Pictures that lie in a split's folder and are in no list; where others are missing, perhaps those."""
    paths = [plain(shorten(path)) for path in check_files.unlisted(splits)]
    if missing and paths:
        words = (f"pictures lie there and are in no list, while {missing} that are listed are missing: have they other "
                 "names now? Then correct the lists")
        return found("note", "unlisted files", "all", paths, words)
    return found("warning", "unlisted files", "all", paths,
                 "pictures are in the folder and in no split: are annotations missing?")


def across(splits: list[RawSplit], seen: dict[str, list[Seen]]) -> list[Finding]:
    """What two splits should not have in common, and what they should."""
    findings = []
    for first, second in check_files.pairs_of(seen):
        pair = f"{first} and {second}"
        same = check_files.shared(seen[first], seen[second])
        findings += found(leak_level(splits, first, second), "leakage", pair,
                          [f"{shorten(a)} = {shorten(b)}" for a, b in same],
                          "pictures are in both splits, so figures on one flatter: remove them from one")
        alike = check_files.alike(seen[first], seen[second])
        findings += found("warning", "look-alikes", pair, [f"{shorten(a)} ~ {shorten(b)}" for a, b in alike or []],
                          "pictures look alike (copies, or frames of one film?): keep such in one split")
        if alike is None:
            findings.append(Finding("note", "look-alikes", pair, 0, "too many pictures to compare for look-alikes"))
    if splits and not {"val"} & {split.name for split in splits}:
        words = ("split to train on, and none to validate on: `train` asks for one, and --val-fraction 0.2 sets "
                 "a fifth of the pictures aside")
        findings += found("warning", "no validation", splits[0].name, [splits[0].name], words)
    return findings + category_findings(splits)


def category_findings(splits: list[RawSplit]) -> list[Finding]:
    """Classes that differ between splits by name, and those that are validated without having been trained."""
    splits = [split for split in splits if not split.unannotated]
    if len(splits) < 2:
        return []
    train, findings = splits[0], []
    listed = [entry["name"] for entry in train.annotations.categories]
    ids = [entry["id"] for entry in train.annotations.categories]
    trained = set(np.unique(train.annotations.category_ids[~train.annotations.crowd]).tolist())
    for split in splits[1:]:
        pair, entries = f"{train.name} and {split.name}", split.annotations.categories
        same = {here: there for there, here in matching_rows(listed, [entry["name"] for entry in entries])}
        used = set(np.unique(split.annotations.category_ids).tolist())
        strange = [entry for row, entry in enumerate(entries) if row not in same]
        findings += found("error", "categories differ", pair, [plain(e["name"]) for e in strange if e["id"] in used],
                          f"classes have objects in {split.name} and are not listed in {train.name} by that name: give "
                          "both the same names")
        never = [entry for row, entry in enumerate(entries) if row in same and entry["id"] in used
                 and ids[same[row]] not in trained]
        findings += found("error", "never trained", pair, [plain(entry["name"]) for entry in never],
                          f"classes have objects in {split.name} and none in {train.name}: they cannot be learned")
        moved = [plain(entry["name"]) for row, entry in enumerate(entries) if row in same
                 and ids[same[row]] != entry["id"]]
        findings += found("note", "other numbers", pair, moved,
                          "classes are numbered differently in the two splits: they are matched by name")
        alone = [name for row, name in enumerate(listed) if row not in same.values()] + [
            entry["name"] for entry in strange if entry["id"] not in used]
        findings += found("note", "listed in one split", pair, list(map(plain, alone)),
                          "classes are listed in one of the two splits only, and have no object in the other")
    return findings
