"""Exercises and quiz of 14, DAB-DETR with Conditional DETR as the bridge."""

import torch
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.course.exercises.core import Choice, Exercise, Question, Tier, ask, judge
from detr_mini.positions import SineGrid, sine

# ---------------------------------------------------------------- 14.joined


def check_joined(joined: object) -> None:
    """joined(content, position (Q, d), memory, place (K, d), heads) -> scores (heads, Q, K)."""
    torch.manual_seed(14)
    content, position, memory, place = *torch.randn(2, 3, 8), *torch.randn(2, 5, 8)
    parts = (content, position, memory, place)
    judge(ask(joined, *parts, 4), side_by_side(*parts, 4), slips_of_joined(*parts, 4))
    judge(ask(joined, *parts, 2), side_by_side(*parts, 2), {
        "Right for four heads. Here `heads` is 2, and yours still has four.": side_by_side(*parts, 4),
    })


def split(x: Tensor, heads: int) -> Tensor:
    """(N, d) -> (heads, N, d/heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(0, 1)


def side_by_side(content: Tensor, position: Tensor, memory: Tensor, place: Tensor, heads: int) -> Tensor:
    """The right scores, (heads, Q, K)."""
    q = torch.cat([split(content, heads), split(position, heads)], dim=-1)  # (heads, Q, 2 d/heads)
    k = torch.cat([split(memory, heads), split(place, heads)], dim=-1)
    return q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5


def slips_of_joined(content: Tensor, position: Tensor, memory: Tensor, place: Tensor, heads: int) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    right, width = side_by_side(content, position, memory, place, heads), content.shape[-1]
    q, k = torch.cat([content, position], dim=-1), torch.cat([memory, place], dim=-1)  # (N, 2d)
    whole = split(q, heads) @ split(k, heads).transpose(-2, -1) / (2 * width / heads) ** 0.5
    added = split(content + position, heads) @ split(memory + place, heads).transpose(-2, -1)
    crossed = torch.cat([place, memory], dim=-1)
    return {
        "You joined first and split into heads afterwards. Then the first heads have only content and the last ones "
        "only position. Split each of the four, and join inside the heads.": whole,
        "The scaling is missing: divide by the root of a head's width, which is now 2 d / heads.":
            right * (2 * width / heads) ** 0.5,
        "You divided by the root of d / heads. Joined, a head is twice as wide: 2 d / heads.": right * 2**0.5,
        "You divided by the root of 2 d. A head's own width counts: 2 d / heads.": right / heads**0.5,
        "You divided by the root of d. A head's own width counts, and it is 2 d / heads.":
            right * (2 / heads) ** 0.5,
        "You divided by the width of a head. Divide by its root.": right / (2 * width / heads) ** 0.5,
        "You added content and position, as DETR does: that has four terms. Put them side by side.":
            added / (2 * width / heads) ** 0.5,
        "That is DETR's score: content and position are added, and there are four terms. Put them side by side.":
            added / (width / heads) ** 0.5,
        "Content meets places, and position meets memory: one side is joined in the other order.":
            split_joined(q, crossed, heads),
        "You took the softmax already. Scores come before it.": right.softmax(-1),
        "The heads are added up. Keep them apart, (heads, Q, K).": right.sum(0),
        "You cut the numbers as they follow one another, (heads, N, d/heads), and a head gets pieces of several rows. "
        "Cut the width first, (N, heads, d/heads), and transpose then.":
            mixed_rows(content, position, memory, place, heads),
        "There is one map for all heads. Split each of the four into heads first.":
            (content @ memory.T + position @ place.T) / (2 * width) ** 0.5,
        "The scores are right, and queries and keys have changed places: (heads, Q, K) is asked for.": right.mT,
    }


def mixed_rows(content: Tensor, position: Tensor, memory: Tensor, place: Tensor, heads: int) -> Tensor:
    """What `view(heads, N, -1)` makes of the four, without a transposition: (heads, Q, K)."""
    content, position, memory, place = (x.reshape(heads, len(x), -1) for x in (content, position, memory, place))
    return (content @ memory.mT + position @ place.mT) / (2 * content.shape[-1]) ** 0.5


def split_joined(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """Scores of two (N, 2d) whose halves are joined inside the heads."""
    return side_by_side(*q.chunk(2, dim=-1), *k.chunk(2, dim=-1), heads)


# ---------------------------------------------------------------- 14.look

BOXES = torch.tensor([[0.40, 0.55, 0.20, 0.50], [0.70, 0.30, 0.60, 0.25], [0.25, 0.80, 0.30, 0.30]])  # cxcywh
EXPECTED = torch.tensor([[0.40, 0.35], [0.50, 0.80], [0.60, 0.20]])  # w_ref, h_ref
SCALES = "You turned the fraction round: w_ref / w, not w / w_ref. A wide box has to make the x part flatter."


def cells_of(height: int, width: int, d: int = 16) -> Tensor:
    """Codes of a grid's cells, (h, w, d), y half first."""
    return SineGrid(d)(torch.zeros(1, height, width, dtype=torch.bool))[0]


def modulated(boxes: Tensor, expected: Tensor, d: int) -> Tensor:
    """The code of the boxes' centres, each half scaled by its side, (Q, d)."""
    return sine(boxes[:, [1, 0]], d // 2) * halves((expected / boxes[:, 2:]).flip(-1), d)


def halves(pair: Tensor, d: int) -> Tensor:
    """(Q, 2) -> (Q, d): the first number for the first half, the second for the second."""
    return pair.repeat_interleave(d // 2, dim=-1)


def as_maps(scores: Tensor, cells: Tensor) -> Tensor:
    """(Q, h w) -> (Q, h, w)."""
    return scores.unflatten(-1, cells.shape[:2])


def check_look(look: object) -> None:
    """look(boxes (Q, 4), expected (Q, 2), cells (h, w, d)) -> maps (Q, h, w)."""
    cells = cells_of(5, 7)
    judge(ask(look, BOXES, EXPECTED, cells), right_look(modulated(BOXES, EXPECTED, 16), cells), slips_of_look(cells))


def right_look(code: Tensor, cells: Tensor) -> Tensor:
    """Softmax of the codes (Q, d) against the cells, (Q, h, w)."""
    return as_maps((code @ cells.flatten(0, 1).T / cells.shape[-1] ** 0.5).softmax(-1), cells)


def slips_of_look(cells: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    d, flat = cells.shape[-1], cells.flatten(0, 1)
    code, sides = sine(BOXES[:, [1, 0]], d // 2), (EXPECTED / BOXES[:, 2:]).flip(-1)  # (Q, d), (Q, 2) y, x
    good = code * halves(sides, d)
    scores = good @ flat.T  # (Q, h w)
    corners = cxcywh_to_xyxy(BOXES)
    area = (EXPECTED.prod(-1) / BOXES[:, 2:].prod(-1))[:, None]
    return {
        SCALES: right_look(code * halves(1 / sides, d), cells),
        "Width and height have changed places: the first half of a code is y's and goes with the height.":
            right_look(code * halves(sides.flip(-1), d), cells),
        "You coded x before y. In the cells' codes y comes first.":
            right_look(sine(BOXES[:, :2], d // 2) * halves(sides, d), cells),
        "You coded x before y, and scaled in that order, too. In the cells' codes y comes first.":
            right_look(sine(BOXES[:, :2], d // 2) * halves(sides.flip(-1), d), cells),
        "The boxes have no say in the width: that is Conditional DETR's map. Multiply each half by w_ref / w or "
        "h_ref / h.": right_look(code, cells),
        "You divided by the sides and forgot w_ref and h_ref.":
            right_look(code * halves(1 / BOXES[:, [3, 2]], d), cells),
        "You scaled both halves by the area. Width goes with x alone, height with y alone.":
            right_look(code * area, cells),
        "The root of d is missing: divide the scores by it.": as_maps(scores.softmax(-1), cells),
        "You divided by d. Divide by its root.": as_maps((scores / d).softmax(-1), cells),
        "These are scores. A softmax over all cells makes a map of them.": as_maps(scores / d**0.5, cells),
        "Every row of the map has a softmax of its own. Take one over all cells: flatten first.":
            as_maps(scores / d**0.5, cells).softmax(-1),
        "You took the softmax over the boxes. Each box has a map of its own that sums to 1 over all cells.":
            as_maps((scores / d**0.5).softmax(0), cells),
        "The numbers are right, but the cells lie in one row, (Q, h w). Give each map back its rows: (Q, h, w).":
            (scores / d**0.5).softmax(-1),
        "You took the box for corners. It is centre x, centre y, width, height.":
            right_look(modulated(torch.cat([(BOXES[:, :2] + BOXES[:, 2:]) / 2, BOXES[:, 2:] - BOXES[:, :2]], -1),
                                 EXPECTED, d), cells),
        "You took the upper left corner for the centre.":
            right_look(sine(corners[:, [1, 0]], d // 2) * halves(sides, d), cells),
        "Temperature 20 for the boxes, and 10,000 for the cells: two languages. Leave `sine` at its default.":
            right_look(sine(BOXES[:, [1, 0]], d // 2, 20) * halves(sides, d), cells),
    }


# ---------------------------------------------------------------- 14.score


def check_score(score: object) -> None:
    """score(content, memory, boxes, expected, scale, cells, matrices) -> scores (Q, K)."""
    torch.manual_seed(14)
    content, memory, scale = torch.randn(3, 16), torch.randn(12, 16), torch.randn(3, 16)
    cells = cells_of(3, 4).flatten(0, 1)  # (12, 16)
    matrices = {name: torch.randn(16, 16) / 4 for name in ("query", "key", "place", "key_position")}
    given = (content, memory, BOXES, EXPECTED, scale, cells, matrices)
    judge(ask(score, *given), two_parts(*given), slips_of_score(*given))


def two_parts(
    content: Tensor, memory: Tensor, boxes: Tensor, expected: Tensor, scale: Tensor, cells: Tensor,
    matrices: dict[str, Tensor], place: Tensor | None = None,
) -> Tensor:
    """The right scores; with another place (Q, d) where one is given."""
    d = content.shape[-1]
    place = modulated(boxes, expected, d) * scale if place is None else place
    q, k = content @ matrices["query"].T, memory @ matrices["key"].T
    return (q @ k.T + (place @ matrices["place"].T) @ (cells @ matrices["key_position"].T).T) / (2 * d) ** 0.5


def slips_of_score(
    content: Tensor, memory: Tensor, boxes: Tensor, expected: Tensor, scale: Tensor, cells: Tensor,
    matrices: dict[str, Tensor],
) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    given, d = (content, memory, boxes, expected, scale, cells, matrices), content.shape[-1]
    right, none, turned = two_parts(*given), torch.zeros_like(content), {k: m.T for k, m in matrices.items()}
    code, sides = sine(boxes[:, [1, 0]], d // 2), (expected / boxes[:, 2:]).flip(-1)
    late = (code * scale @ matrices["place"].T) * halves(sides, d)  # already projected
    q, p_q = content @ matrices["query"].T, modulated(boxes, expected, d) * scale @ matrices["place"].T
    k, p_k = memory @ matrices["key"].T, cells @ matrices["key_position"].T
    return {
        "T is missing: the code is multiplied by `scale`, number by number.":
            two_parts(*given, code * halves(sides, d)),
        "T is there, the box's sides are not: that is Conditional DETR. Multiply the halves by h_ref / h, w_ref / w.":
            two_parts(*given, code * scale),
        SCALES: two_parts(*given, code * scale * halves(1 / sides, d)),
        "Width and height have changed places: the first half of a code is y's and goes with the height.":
            two_parts(*given, code * scale * halves(sides.flip(-1), d)),
        "You projected first and modulated afterwards. After the projection the halves no longer belong to y and x.":
            (q @ k.T + late @ p_k.T) / (2 * d) ** 0.5,
        "You divided by the root of d. Content and place side by side are 2 d wide.": right * 2**0.5,
        "The scaling is missing: divide by the root of 2 d.": right * (2 * d) ** 0.5,
        "You added content and place, on both sides: that brings the mixed terms back.":
            (q + p_q) @ (k + p_k).T / (2 * d) ** 0.5,
        "You added content and place, on both sides, as DETR does: the mixed terms are back.":
            (q + p_q) @ (k + p_k).T / d**0.5,
        "The matrices are the wrong way round: x @ matrix.T.": two_parts(*given[:-1], turned),
        "You multiplied by T after the projection. Code, T and sides first, then the matrix.":
            (q @ k.T + (code * halves(sides, d) @ matrices["place"].T * scale) @ p_k.T) / (2 * d) ** 0.5,
        "The cells went through \"place\", which is for the query's side. Theirs is \"key_position\".":
            (q @ k.T + p_q @ (cells @ matrices["place"].T).T) / (2 * d) ** 0.5,
        "The cells have no projection yet: \"key_position\".": (q @ k.T + p_q @ cells.T) / (2 * d) ** 0.5,
        "The place has no projection yet: \"place\".":
            (q @ k.T + (code * scale * halves(sides, d)) @ p_k.T) / (2 * d) ** 0.5,
        "Temperature 20 for the boxes, and 10,000 for the cells: two languages. Leave `sine` at its default.":
            two_parts(*given, sine(boxes[:, [1, 0]], d // 2, 20) * scale * halves(sides, d)),
        "That is the position's part alone. Content meets content as well.": two_parts(none, *given[1:]),
        "That is the content's part alone. Place meets position as well.": two_parts(*given, none),
        "You took the softmax already. Scores come before it.": right.softmax(-1),
        "You coded x before y. In the cells' codes y comes first.":
            two_parts(*given, sine(boxes[:, :2], d // 2) * scale * halves(sides, d)),
    }


# ---------------------------------------------------------------- all of them

EXERCISES = (
    Exercise(
        "14.joined", "Side by side, in every head", Tier.WARM_UP, 10, check_joined,
        ("Split each of the four into heads first, (heads, N, d/heads). Then join content and position along the last "
         "axis, for the query's side and for the key's side.",
         "`x.unflatten(-1, (heads, -1)).transpose(0, 1)` splits, `torch.cat([..., ...], dim=-1)` joins. Divide by "
         "`q.shape[-1] ** 0.5` after joining."),
        "Two dot products under one root. Without its own place inside every head, position would belong to some heads "
        "only.",
    ),
    Exercise(
        "14.look", "Where boxes look", Tier.CORE, 15, check_look,
        ("The code of a centre is `sine(boxes[:, [1, 0]], d // 2)`: y first, as in the cells. Its first half wants "
         "h_ref / h, its second w_ref / w.",
         "`(expected / boxes[:, 2:]).flip(-1).repeat_interleave(d // 2, dim=-1)` is (Q, d). Multiply, take the product "
         "with all cells, divide by the root of d, one softmax over all cells, and only then back to (Q, h, w)."),
        "One division per axis, and a map gets the shape of its box. No parameter was needed for that.",
    ),
    Exercise(
        "14.score", "The whole score", Tier.STRETCH, 20, check_score,
        ("Make the place first: code of the centre, times T, times the two factors of the box, all (Q, d). Only then "
         "comes its matrix.",
         "Side by side means: add the two products, content with content and place with position, and divide the sum "
         "by the root of 2 d."),
        "That is all of DAB-DETR's cross-attention but the heads. Set `expected` to the boxes' own sides, and it is "
        "Conditional DETR's.",
    ),
)

QUIZ = (
    Question("What does Conditional DETR's concatenation do to a score's four terms?", (
        Choice("It keeps all four, and gives each its own weight",
               "No term is weighted. Write out [a, b] · [c, d]: what meets what?"),
        Choice("It keeps position with position only",
               "Content still meets content: it is the first half of the joined vectors."),
        Choice("It keeps content with content and position with position; the mixed ones are gone",
               "Yes. A dot product of two joined vectors is the sum of two dot products.", True),
    )),
    Question("An anchor box becomes half as wide, all else stays. Its positional attention ...", (
        Choice("becomes wider in x", "The x part is divided by the width. A small width makes it large, and steep."),
        Choice("becomes narrower in x",
               "Yes. The x part of the score is multiplied by w_ref / w, which has doubled: a steeper score.", True),
        Choice("becomes weaker everywhere", "A softmax always sums to 1. Only differences between places count."),
    )),
    Question("On our scenes DAB-DETR learns more slowly than Conditional DETR. What did the runs of section 13 show?", (
        Choice("Modulation and updates slow it down",
               "Without them it was slower: AP50 0.13 after 250 steps, against 0.24."),
        Choice("Its anchors start in worse places than Conditional DETR's points",
               "That was a control: anchors that start where those points do are no better, 0.29 against 0.30."),
        Choice("Its anchors are free numbers that hardly move in so few steps",
               "Yes. When the anchors alone learn twenty times as fast, the distance to Conditional DETR is gone.",
               True),
        Choice("The paper's claim is wrong",
               "Another data set, another schedule: on COCO anchors have some 370,000 steps in which to move."),
    )),
)
