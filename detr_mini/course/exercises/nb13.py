"""Exercises and quiz of 13, Anchor DETR."""

import torch
from torch import Tensor

from detr_mini.course.exercises.core import Choice, Exercise, Open, Question, Tier, Wrong, ask, describe, judge

# ---------------------------------------------------------------- 13.tile


def check_tile(tile: object) -> None:
    """tile(points (N, 2), patterns (P, d)) -> content (P N, d), reference (P N, 2): all points of pattern 0 first."""
    points = torch.tensor([[0.1, 0.2], [0.5, 0.6], [0.9, 0.3]])
    patterns = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    content, reference = pair(ask(tile, points, patterns))
    right = patterns.repeat_interleave(3, dim=0), points.repeat(2, 1)
    judge(joined(content, reference), joined(*right), slips_of_tile(points, patterns))


def pair(answer: object) -> tuple[Tensor, Tensor]:
    """An answer as two tensors; Wrong when it is not two things."""
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        raise Wrong(f"Two things are wanted, content and reference, and this is {describe(answer)}.")
    if any(part is None or part is ... for part in answer):
        raise Open
    if any(not isinstance(part, Tensor) or part.ndim != 2 for part in answer):
        raise Wrong("Content is (P · N, d) and reference (P · N, 2): two tensors with two axes each.")
    return answer[0], answer[1]


def joined(content: Tensor, reference: Tensor) -> Tensor:
    """Both side by side, (Q, d + 2); Wrong when they are not equally many."""
    if len(content) != len(reference):
        raise Wrong(f"There are {len(content)} contents and {len(reference)} points. Every query has one of each: "
                    "P · N of both.")
    return torch.cat([content, reference], dim=1)


def slips_of_tile(points: Tensor, patterns: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    number, count = len(points), len(patterns)
    content, reference = patterns.repeat_interleave(number, dim=0), points.repeat(count, 1)
    return {
        "Every pattern is at every point, but the order is the other one: all patterns of point 0 come first. Here all "
        "points of pattern 0 do.": joined(patterns.repeat(number, 1), points.repeat_interleave(count, dim=0)),
        "Both are repeated as a whole, so they run in step. Here all pairs do occur, because 2 and 3 have no common "
        "factor; with 2 patterns and 4 points half of them would be missing. One of them needs repeat_interleave.":
            joined(patterns.repeat(number, 1), reference),
        "Both are repeated entry by entry, so some pairs come twice and others never. One of them needs repeat.":
            joined(content, points.repeat_interleave(count, dim=0)),
        "Content comes first, then the points: yours are the other way round.": joined(reference, content),
        "DETR starts with content 0. Here a query starts with its pattern.": joined(0 * content, reference),
    }


# ---------------------------------------------------------------- 13.row


def check_row(row_weights: object) -> None:
    """row_weights(query (Q, d), cells (H, W, d), columns (W, d)) -> (Q, W)."""
    torch.manual_seed(13)
    query, cells, columns = torch.randn(5, 4), torch.randn(2, 3, 4), torch.randn(3, 4)
    judge(ask(row_weights, query, cells, columns), along_x(query, cells.mean(0) + columns),
          slips_of_row(query, cells, columns))
    square, addresses = torch.randn(3, 3, 4), torch.randn(3, 4)
    judge(ask(row_weights, query, square, addresses), along_x(query, square.mean(0) + addresses), {
        "Right for the first map. On a square one your mean runs over x. A column is what lies below each other: the "
        "mean over y, axis 0.": along_x(query, square.mean(1) + addresses),
    })


def along_x(query: Tensor, keys: Tensor) -> Tensor:
    """Attention weights of queries over keys, (Q, d) and (K, d) -> (Q, K)."""
    return (query @ keys.T / query.shape[-1] ** 0.5).softmax(-1)


def slips_of_row(query: Tensor, cells: Tensor, columns: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    keys, root = cells.mean(0) + columns, query.shape[-1] ** 0.5
    scores = query @ keys.T
    every = torch.stack([along_x(query, row + columns) for row in cells]).mean(0)  # one softmax per row of the map
    whole = (torch.einsum("qd,ywd->qyw", query, cells + columns) / root).flatten(1).softmax(-1)
    return {
        "Your mean runs over x: that gives one key per row, the other half of RCDA. For weights along x, average over "
        "y.": along_x(query, cells.mean(1)),
        "The scaling is missing: divide the scores by the root of d.": scores.softmax(-1),
        "You divided by d. Divide by its root.": (scores / query.shape[-1]).softmax(-1),
        "The columns' addresses are not in it. A key is the mean of the cells plus its column's address.":
            along_x(query, cells.mean(0)),
        "That is the addresses alone: the cells are not in it.": along_x(query, columns),
        "You added up the cells of a column. Take their mean: a taller map must not have larger scores.":
            along_x(query, cells.sum(0) + columns),
        "You took the largest value of each column. RCDA takes the mean.": along_x(query, cells.amax(0) + columns),
        "You compared with every cell, took a softmax per row and averaged the weights. Average the keys first: that "
        "is where the saving lies.": every,
        "You compared with every cell, took one softmax over the map and added up its columns. That is dense "
        "attention, seen along x. Average the keys first.": whole.unflatten(1, cells.shape[:2]).sum(1),
        "These are scores. The softmax comes last.": scores / root,
        "Your softmax runs over the queries. The weights of one query sum to 1 over the columns: dim=-1.":
            (scores / root).softmax(0),
        "The result is turned: (Q, W) is wanted.": along_x(query, keys).T,
        "The addresses are added to the queries' scores after the softmax.": along_x(query, cells.mean(0)) + query
            @ columns.T,
    }


# ---------------------------------------------------------------- 13.collect


def check_collect(collect: object) -> None:
    """collect(rows (Q, W), columns (Q, H), value (H, W, c)) -> (Q, c)."""
    torch.manual_seed(13)
    for width, height in ((5, 3), (4, 4)):
        rows, columns = torch.randn(6, width).softmax(-1), torch.randn(6, height).softmax(-1)
        value = torch.randn(height, width, 2)
        given = rows, columns, value
        judge(ask(collect, *given), collected(*given), slips_of_collect(*given))


def collected(rows: Tensor, columns: Tensor, value: Tensor) -> Tensor:
    """The right answer, (Q, c)."""
    return torch.einsum("qw,qh,hwc->qc", rows, columns, value)


def slips_of_collect(rows: Tensor, columns: Tensor, value: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    along, down = torch.einsum("qw,hwc->qc", rows, value), torch.einsum("qh,hwc->qc", columns, value)
    height, width = value.shape[:2]
    product = columns[:, :, None] * rows[:, None]  # (Q, H, W)
    summed = (columns[:, :, None] + rows[:, None]) / (height + width)
    slips = {
        "You added the two kinds of weights. A cell's weight is the product of its row's and its column's.":
            torch.einsum("qhw,hwc->qc", summed, value),
        "You collected along x and along y apart, and added. Average over y what is left after x: one after the other.":
            along + down,
        "You collected along x and along y apart, each from the mean of the other axis, and averaged.":
            (along / height + down / width) / 2,
        "You collected along x and along y apart, and multiplied. The weights are multiplied, not the values.":
            along * down,
        "You multiplied the values of both averages: weights are multiplied, not values.":
            along * down / (height * width),
        "Only the weights along x are in it.": along,
        "Only the weights along x are in it; over y you took the plain mean.": along / height,
        "Only the weights along y are in it.": down,
        "Only the weights along y are in it; over x you took the plain mean.": down / width,
        "The product of two softmaxes sums to 1 already. You divided it once more, by the number of cells.":
            collected(rows, columns, value) / (height * width),
        "You took a softmax of the product. It sums to 1 as it is.":
            product.flatten(1).softmax(-1) @ value.flatten(0, 1),
        "That is the map, (Q, H, W). Collect the values with it: (Q, c).": product,
    }
    if height == width:
        swapped = "Rows and columns are swapped. The first axis of value is y, and `columns` holds the weights along y."
        slips[swapped] = collected(columns, rows, value)
    return slips


# ---------------------------------------------------------------- 13.padded


def check_padded(padded_rows: object) -> None:
    """padded_rows(query (Q, d), cells (H, W, d), columns (W, d), padding (H, W) bool) -> (Q, W)."""
    torch.manual_seed(13)
    query, cells, columns = torch.randn(4, 4), torch.randn(3, 5, 4), torch.randn(5, 4)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[2:], padding[:, 3:] = True, True
    cells[padding] *= 5
    judge(ask(padded_rows, query, cells, columns, padding), padded(query, cells, columns, padding),
          slips_of_padded(query, cells, columns, padding))


def padded(query: Tensor, cells: Tensor, columns: Tensor, padding: Tensor) -> Tensor:
    """The right answer, (Q, W)."""
    real = (~padding).unsqueeze(-1)  # (H, W, 1)
    mean = (cells * real).sum(0) / real.sum(0).clamp(min=1)  # (W, d)
    return hidden_softmax(query, mean + columns, padding[0])


def hidden_softmax(query: Tensor, keys: Tensor, hidden: Tensor) -> Tensor:
    """Weights over keys (K, d) of which some are hidden, (K,) bool: (Q, K)."""
    return (query @ keys.T / query.shape[-1] ** 0.5).masked_fill(hidden, float("-inf")).softmax(-1)


def slips_of_padded(query: Tensor, cells: Tensor, columns: Tensor, padding: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    real = (~padding).unsqueeze(-1)
    right, kept = padded(query, cells, columns, padding), (cells * real)
    mean, hidden = kept.sum(0) / real.sum(0).clamp(min=1), padding[0]
    late = along_x(query, mean + columns) * ~hidden
    return {
        "That is what the authors' code does: padded columns are hidden, but the means still take padded cells in. "
        "Divide the sum of the real cells by their number.": hidden_softmax(query, cells.mean(0) + columns, hidden),
        "You set padded cells to 0, and divided by all cells. Divide by the number of real ones.":
            hidden_softmax(query, kept.mean(0) + columns, hidden),
        "The means are right. But padded columns still get weight: hide them before the softmax.":
            along_x(query, mean + columns),
        "The padding is not in it: neither in the means nor in the softmax.": along_x(query, cells.mean(0) + columns),
        "You set the weights of padded columns to 0 after the softmax, so the rest does not sum to 1. Hide them "
        "before, with minus infinity.": late,
        "All weights are nan. Either every column is hidden: look at the last row, where everything is padding, so ask "
        "the first. Or a padded column, whose mean is 0 / 0, is not hidden.": torch.full_like(right, float("nan")),
        "Padded columns get score 0 instead of minus infinity, and exp(0) is 1.":
            (query @ (mean + columns).T / query.shape[-1] ** 0.5).masked_fill(hidden, 0.0).softmax(-1),
        "Your mask is turned round: True is padding. You averaged the padding, and hid the image.":
            padded(query, cells, columns, ~padding),
    }


# ---------------------------------------------------------------- all of them

EXERCISES = (
    Exercise(
        "13.tile", "Every pattern at every point", Tier.WARM_UP, 8, check_tile,
        ("There are two ways to repeat: as a whole (a b c a b c), and entry by entry (a a b b c c). Patterns need one, "
         "points the other.",
         "points.repeat(len(patterns), 1) and patterns.repeat_interleave(len(points), dim=0)."),
        "With 300 points and 3 patterns that is 900 queries, made of 303 learned things.",
    ),
    Exercise(
        "13.row", "Weights along x", Tier.CORE, 12, check_row,
        ("One key per column. What is it made of? The mean of its cells, over y, and its address.",
         "keys = cells.mean(dim=0) + columns; then the softmax of query @ keys.T / root of d, as in notebook 01."),
        "H cells became one key before anything was compared. That is all of the saving, and all of the loss.",
    ),
    Exercise(
        "13.collect", "Collect along both axes", Tier.CORE, 12, check_collect,
        ("Do it in two steps: first average over y with `columns`, then over x with `rows`. What shape is in between?",
         "part = torch.einsum(\"qh,hwc->qwc\", columns, value); then torch.einsum(\"qw,qwc->qc\", rows, part)."),
        "Between the steps every query holds W vectors. That is RCDA's hidden cost: Q · W · c numbers.",
    ),
    Exercise(
        "13.padded", "An honest mean", Tier.STRETCH, 20, check_padded,
        ("Two things must know of the padding: the mean (sum of real cells divided by their number), and the softmax "
         "(padded columns get minus infinity).",
         "real = (~padding)[..., None]; mean = (cells * real).sum(0) / real.sum(0).clamp(min=1). Then masked_fill with "
         "padding[0]."),
        "The published detector does without it, and was trained that way. Our package follows it.",
    ),
)

QUIZ = (
    Question("Where is it written that DETR's query 3 looks to the upper right?", (
        Choice("In its learned vector: its numbers are a place in code",
               "New vectors of the same kind do badly. And in our training the old ones hardly moved."),
        Choice("In the weights that learned this vector by rote",
               "Yes. An Anchor DETR's place is in the point itself, so a point that nobody trained works, too.", True),
        Choice("In the image's positions", "They are the same for all queries."),
    )),
    Question("One head of RCDA wants two cups, upper left and lower right. What does its map show?", (
        Choice("The two cups", "Two spots on a diagonal are no product of a row and a column map."),
        Choice("The two cups and two ghosts, at the other corners",
               "Yes. A product cannot do without them. Another head, or another query, can.", True),
        Choice("Nothing: the mean blurs both away", "Weights along x and along y both have two peaks."),
    )),
    Question("What did row-column attention save in our measurements of the encoder?", (
        Choice("Memory against all kinds of dense attention",
               "Against a stored matrix of weights, yes. A fused kernel stores none, and needs far less than RCDA."),
        Choice("Memory against attention that stores its weights; and time on large maps",
               "Yes. When the paper was written, storing them was what everyone did.", True),
        Choice("Nothing",
               "On 4,096 tokens it took about a third of the time and memory of attention with stored weights."),
    )),
)
