"""Exercises and quiz of 12, SMCA-DETR."""

import torch
from torch import Tensor

from detr_mini.course.exercises.core import Choice, Exercise, Question, Tier, ask, judge

# ---------------------------------------------------------------- 12.gaussian

CENTRE, SCALE, SHAPE = torch.tensor([0.30, 0.70]), torch.tensor([1.5, 0.6]), (4, 6)


def check_gaussian(log_g_of: object) -> None:
    """log_g_of(centre (2,) 0 to 1, scale (2,), height, width) -> log G (height, width), finite for any scale."""
    judge(ask(log_g_of, CENTRE, SCALE, *SHAPE), log_g(CENTRE, SCALE, SHAPE), slips_of_gaussian())
    narrow = torch.tensor([20.0, 20.0])
    infinite = log_g(CENTRE, narrow, SHAPE).exp().log()
    judge(ask(log_g_of, CENTRE, narrow, *SHAPE), log_g(CENTRE, narrow, SHAPE), {
        "Right for wide Gaussians. For a narrow one exp gives 0 far away, and log 0 is minus infinity. Never take the "
        "exp: log G is the parabola inside it.": infinite,
    })


def log_g(
    centre: Tensor, scale: Tensor, shape: tuple[int, int], *, shift: float = 0.0, size: Tensor | None = None
) -> Tensor:
    """The right answer, (h, w). shift: of the cells' numbers. size: what the centre is multiplied by, (w, h)."""
    place = centre * (torch.tensor([shape[1], shape[0]]) if size is None else size)
    x, y = (s * (torch.arange(count) + shift - p) for s, count, p in zip(scale, shape[::-1], place, strict=True))
    return -(y.square()[:, None] + x.square()) / 8


def slips_of_gaussian() -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    right = log_g(CENTRE, SCALE, SHAPE)
    return {
        "That is G. Its logarithm is wanted: leave out the exp.": right.exp(),
        "The sign is missing: log G is 0 at the centre and negative elsewhere.": -right,
        "The scale is not squared. It multiplies the distance, and the whole is squared: s² d².":
            log_g(CENTRE, SCALE.sqrt(), SHAPE),
        "You divided by the scale, as the paper's formula does. In the code it multiplies: a larger scale is narrower.":
            log_g(CENTRE, 1 / SCALE, SHAPE),
        "You left out the division by 8.": right * 8,
        "You divided by 2 · 8, as for a variance of 8. It is 8.": right / 2,
        "Half a cell is added. The authors number the cells 0, 1, 2, ..., and so do we here (see Errata).":
            log_g(CENTRE, SCALE, SHAPE, shift=0.5),
        "The centre is a part of the map. Multiply x by the width and y by the height, to count in cells.":
            log_g(CENTRE, SCALE, SHAPE, size=torch.ones(2)),
        "The centre's sides are swapped: x goes with the width, y with the height.":
            log_g(CENTRE, SCALE, SHAPE, size=torch.tensor([4, 6])),
        "x and y are swapped in the centre: it comes as (x, y).": log_g(CENTRE.flip(0), SCALE, SHAPE),
        "x and y are swapped in the scale: it comes as (x, y), too.": log_g(CENTRE, SCALE.flip(0), SHAPE),
        "The map is turned: rows are y, columns are x, so its shape is (height, width).": right.T,
    }


# ---------------------------------------------------------------- 12.attend


def check_attend(modulated: object) -> None:
    """modulated(scores (Q, K), gaussian (Q, K) from 0 to 1, values (K, d)) -> (Q, d)."""
    torch.manual_seed(12)
    scores, gaussian, values = torch.randn(3, 5), torch.rand(3, 5), torch.randn(5, 4)
    judge(ask(modulated, scores, gaussian, values), collect(scores, gaussian, values),
          slips_of_attend(scores, gaussian, values))
    gaussian[0, :2], gaussian[2, 4] = 0.0, 0.0
    clamped = collect(scores, gaussian.clamp(min=0.01), values)
    judge(ask(modulated, scores, gaussian, values), collect(scores, gaussian, values), {
        "Right without zeros. Where G is 0 the weight must be 0; yours is small, for you keep G away from 0.": clamped,
    })


def collect(scores: Tensor, gaussian: Tensor, values: Tensor) -> Tensor:
    """The right answer, (Q, d)."""
    return (scores + gaussian.log()).softmax(-1) @ values


def slips_of_attend(scores: Tensor, gaussian: Tensor, values: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    plain, log = scores.softmax(-1), gaussian.log()
    return {
        "You multiplied after the softmax, and the weights no longer sum to 1. Divide by their sum; or add log G to "
        "the scores before.": (plain * gaussian) @ values,
        "You added G itself. It lies between 0 and 1, so it hardly changes a score. Its logarithm is wanted.":
            (scores + gaussian).softmax(-1) @ values,
        "You multiplied the scores by G. A negative score then becomes *better* far away. Add log G.":
            (scores * gaussian).softmax(-1) @ values,
        "The sign is wrong: you subtract log G, so far places win.": (scores - log).softmax(-1) @ values,
        "That is plain attention: the Gaussian is not in it.": plain @ values,
        "That is the Gaussian alone: the scores are not in it.": log.softmax(-1) @ values,
        "You took two softmaxes and averaged them. One softmax, over the sum.": (plain + log.softmax(-1)) / 2 @ values,
        "The softmax of G is not G. You took softmax(scores) + softmax(G), or their sum, as weights.":
            (plain + gaussian.softmax(-1)) @ values,
        "Your softmax runs over the queries. The weights of one query sum to 1 over the places: dim=-1.":
            (scores + log).softmax(0) @ values,
        "Those are the weights. Collect with them: weights @ values.": (scores + log).softmax(-1),
        "The softmax is missing.": (scores + log) @ values,
    }


# ---------------------------------------------------------------- 12.box


def check_box(around: object) -> None:
    """around(delta (Q, 4) logits, centre (Q, 2) 0 to 1) -> boxes (Q, 4)."""
    delta = torch.tensor([[0.0, 0.0, -1.0, -0.5], [0.4, -0.3, 0.2, -2.0], [2.0, -2.5, 0.0, 1.0]])
    centre = torch.tensor([[0.3, 0.6], [0.85, 0.15], [0.9, 0.2]])
    judge(ask(around, delta, centre), around_centre(delta, torch.logit(centre)), slips_of_box(delta, centre))


def around_centre(delta: Tensor, logits: Tensor) -> Tensor:
    """The right answer, (Q, 4). logits: of the centre, (Q, 2)."""
    return torch.cat([delta[:, :2] + logits, delta[:, 2:]], dim=1).sigmoid()


def slips_of_box(delta: Tensor, centre: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    plain, logits = delta.sigmoid(), torch.logit(centre)
    after, sizes = plain[:, :2] + centre, plain[:, 2:]
    twice = torch.cat([logits, logits], dim=1)
    return {
        "You added the centre after the sigmoid. Then a delta of 0 moves the box by a half, and boxes leave the image. "
        "Add logits to logits, then take the sigmoid.": torch.cat([after, sizes], dim=1),
        "Added after the sigmoid, and cut off at 1: a delta of 0 must leave the box on the centre.":
            torch.cat([after.clamp(0, 1), sizes], dim=1),
        "You moved the half away, but the box still leaves the image. Add before the sigmoid.":
            torch.cat([after - 0.5, sizes], dim=1),
        "The delta is added to the place without a sigmoid: nothing keeps it between 0 and 1.":
            torch.cat([centre + delta[:, :2], sizes], dim=1),
        "You added the centre itself to a logit. Bring it to logits first: torch.logit, the inverse of the sigmoid.":
            around_centre(delta, centre),
        "The centre went into the sizes, too. It is a place; width and height are left alone.":
            (delta + twice).sigmoid(),
        "The centre went into the sizes instead. Boxes are cxcywh: the first two numbers are the centre.":
            torch.cat([delta[:, :2], delta[:, 2:] + logits], dim=1).sigmoid(),
        "That is DETR's box: the centre is not in it.": plain,
        "These are logits. The sigmoid comes last.": torch.cat([delta[:, :2] + logits, delta[:, 2:]], dim=1),
        "The sizes have no sigmoid.": torch.cat([around_centre(delta, logits)[:, :2], delta[:, 2:]], dim=1),
        "x and y of the centre are swapped.": around_centre(delta, logits.flip(1)),
        "The sign is wrong: the centre's logits are added.": around_centre(delta, -logits),
    }


# ---------------------------------------------------------------- 12.maps


def check_maps(over_maps: object) -> None:
    """over_maps(scores, log_g, values: lists with an entry per map, choice (maps,)) -> (d,)."""
    torch.manual_seed(12)
    sizes = (8, 4, 2)
    scores, log_gs = [torch.randn(size) for size in sizes], [-3 * torch.rand(size) for size in sizes]
    values, choice = [torch.randn(size, 5) for size in sizes], torch.tensor([0.5, -1.0, 1.5])
    right = mixed([s + g for s, g in zip(scores, log_gs, strict=True)], values, choice.softmax(0))
    judge(ask(over_maps, scores, log_gs, values, choice), right, slips_of_maps(scores, log_gs, values, choice))


def mixed(scores: list[Tensor], values: list[Tensor], share: Tensor) -> Tensor:
    """One softmax per map, and the maps mixed by their shares: (d,)."""
    found = torch.stack([s.softmax(0) @ v for s, v in zip(scores, values, strict=True)])  # (maps, d)
    return share @ found


def slips_of_maps(
    scores: list[Tensor], log_gs: list[Tensor], values: list[Tensor], choice: Tensor
) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    both, share = [s + g for s, g in zip(scores, log_gs, strict=True)], choice.softmax(0)
    everything, told = torch.cat(values), torch.cat([s + c for s, c in zip(both, choice, strict=True)])
    weighed = torch.cat([a * s.softmax(0) for a, s in zip(share, scores, strict=True)])
    return {
        "You took one softmax over the places of all maps. Each map has its own; `choice` weighs the maps.":
            torch.cat(both).softmax(0) @ everything,
        "You added `choice` to the scores and took one softmax over everything. A map with more places then gets more. "
        "Each map has a softmax of its own.": told.softmax(0) @ everything,
        "The log-Gaussians are not in it.": mixed(scores, values, share),
        "You multiplied by log G after the softmax. It is added to the scores before.":
            weighed * torch.cat(log_gs) @ everything,
        "You multiplied by G after the softmax; the weights of a map no longer sum to 1. Add log G before.":
            weighed * torch.cat(log_gs).exp() @ everything,
        "You weighed the maps by `choice` as it is. Its softmax is wanted: parts that sum to 1.":
            mixed(both, values, choice),
        "All maps count alike: `choice` is not in it, and you took the mean.":
            mixed(both, values, torch.full((3,), 1 / 3)),
        "You added up the maps without weighing them.": mixed(both, values, torch.ones(3)),
        "You took only the map with the largest choice. All are mixed, by the softmax.":
            mixed(both, values, (choice == choice.max()).float()),
        "That is what each map gives. Mix them: one vector is wanted.":
            torch.stack([s.softmax(0) @ v for s, v in zip(both, values, strict=True)]),
    }


# ---------------------------------------------------------------- all of them

EXERCISES = (
    Exercise(
        "12.gaussian", "The log-Gaussian", Tier.WARM_UP, 10, check_gaussian,
        ("Section 3 did it with the centre in cells. Here it comes as a part of the map, so it has to be multiplied "
         "first.",
         "x = scale[0] * (torch.arange(width) - centre[0] * width), the same for y; then -(y² as a column + x² as a "
         "row) / 8."),
        "It is a sum of a row and a column, so a whole map costs h + w numbers.",
    ),
    Exercise(
        "12.attend", "Modulated attention", Tier.CORE, 10, check_attend,
        ("There are two right places for G: before the softmax as a logarithm, or after it with a division.",
         "(scores + gaussian.log()).softmax(dim=-1) @ values. The logarithm of 0 is -inf, and its softmax 0: that is "
         "what it should be."),
        "A mask is the same thing with a G of only zeros and ones.",
    ),
    Exercise(
        "12.box", "A box around its centre", Tier.CORE, 10, check_box,
        ("What must be added before the sigmoid so that a delta of 0 gives the centre? The inverse of the sigmoid, of "
         "the centre.",
         "torch.logit(centre) is added to the first two numbers of delta only; then one sigmoid over all four."),
        "Deformable DETR and DAB-DETR write their boxes in the same way, around a reference that moves.",
    ),
    Exercise(
        "12.maps", "One query, several maps", Tier.STRETCH, 20, check_maps,
        ("Treat every map alone, to the end: scores plus log G, softmax, times values. That gives one vector per map.",
         "Then choice.softmax(dim=0) says how much of each vector: a sum over the maps."),
        "With one softmax over all maps the finest one would win by its number of places. So every map has its own.",
    ),
)

QUIZ = (
    Question("In SMCA's code, a head's scale grows from 1 to 2. What happens to its Gaussian?", (
        Choice("It gets twice as wide",
               "In the paper's formula it would. In the code the scale multiplies the distance."),
        Choice("It gets half as wide",
               "Yes: the deviation is 2 / s cells. And with scale 0 there is no end to it.", True),
        Choice("It gets twice as high", "Its height is always 1, at the centre: log G is 0 there."),
    )),
    Question("What decides where a query's centre is?", (
        Choice("The image: the query finds the object first",
               "The centre is made of layer 1's query, and its content is 0. It is the same in every image."),
        Choice("Its learned vector alone, so it is the same in every image",
               "Yes. A home, not a search. Offsets and scales of later layers do follow the image a little.", True),
        Choice("The box of the layer before", "That is refinement, as in Deformable DETR and DAB-DETR. SMCA has none."),
    )),
    Question("In the trained toy, the dot product can be left out almost free of charge. What may you conclude?", (
        Choice("SMCA on COCO does not need it either",
               "Not from this. Objects here are about as large as the windows, and there are only 64 places."),
        Choice("On these scenes the windows do the looking, in this trained detector",
               "Yes. What retraining without it would give, or other data, was not measured.", True),
        Choice("Queries carry no information", "They do: centre, offsets and scales are all made of them."),
    )),
)
