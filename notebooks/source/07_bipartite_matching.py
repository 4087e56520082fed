# %% [markdown]
# # 07 · Bipartite matching
#
# **Which prediction answers for which object?**
#
# *About 60 minutes with the exercises; the cells themselves run in seconds, without a GPU.*
# *You need notebook 04 (boxes, IoU, GIoU) and notebook 06 (the decoder's queries).*
#
# After this notebook you can
#
# - compute the cost of a prediction and an object with a pencil;
# - find the cheapest matching by trying, and say why nobody does it that way;
# - show where greedy goes wrong, and what the Hungarian algorithm does instead;
# - look at a trained DETR and say which query owns what, and how firmly.

# %%
import detr_mini as dm
from detr_mini.course import matching_plots
from detr_mini.course.notebook import check, plots, predict, quiz, reveal, where_we_are
from detr_mini.course.training_plots import show

dm.setup(seed=0)
where_we_are("matching")

# %% [markdown]
# ## Where we are
#
# Boxes come out of the decoder, one per query. For training we have true boxes, too. Before anybody can say how wrong a
# prediction is, somebody must say what it should have been. This notebook is about that somebody.
#
# ## 1. A set has no order
#
# Two things are in the image, a cup and a fish. The detector finds both, perfectly. But it names the fish first. We
# compare first with first and second with second, by L1: the sum of the four differences.

# %%
import torch

wanted = torch.tensor([[0.30, 0.30, 0.20, 0.20],  # a cup: centre x, centre y, width, height
                       [0.70, 0.60, 0.40, 0.20]])  # a fish
said = wanted.flip(0)  # (2, 4) both perfect, the fish first

print("first with first, second with second:", round((said - wanted).abs().sum().item(), 2))
print("the other way round:                 ", round((said.flip(0) - wanted).abs().sum().item(), 2))

# %% [markdown]
# A perfect answer, and it is punished. The order of the queries means nothing, so it must not count.
#
# First cure: let every *prediction* compare itself with the object nearest to it.

# %%
lazy = wanted[[0, 0, 0]]  # (3, 4): three predictions, all on the cup
distance = torch.cdist(lazy, wanted, p=1)  # (3, 2) L1 of every prediction with every object

print(distance)
print("every prediction with its nearest object:", distance.min(dim=1).values.sum().item())

# %% [markdown]
# No punishment at all. Yet the cup was found three times, and the fish never. Second cure: let every *object* choose
# the prediction nearest to it.

# %%
clever = torch.tensor([[0.45, 0.40, 0.25, 0.20],
                       [0.90, 0.10, 0.10, 0.10], [0.10, 0.90, 0.10, 0.10]])  # (3, 4)
distance = torch.cdist(clever, wanted, p=1)  # (3, 2)

print(distance)
print("the cup chooses prediction", distance[:, 0].argmin().item(), "and the fish prediction",
      distance[:, 1].argmin().item())

# %% [markdown]
# Both choose prediction 0. It is told to be a cup *and* a fish. It cannot be both, and predictions 1 and 2 learn nothing.
#
# So there are two demands at once: **every object has a prediction, and no prediction has two objects.** Such a choice of
# pairs between two groups is a **bipartite matching**. Many matchings fulfil both demands. We want the one that fits
# best. For that, each possible pair gets a price.
#
# ## 2. The price of a pair
#
# Three predictions, A, B and C. Besides its box each gives probabilities: cup, fish, or *no object*.

# %%
names, things = ["A", "B", "C"], ["cup", "fish"]
labels = torch.tensor([0, 1])  # the cup is class 0, the fish class 1

boxes = torch.tensor([[0.30, 0.30, 0.20, 0.20],  # A: exactly on the cup
                      [0.35, 0.30, 0.20, 0.20],  # B: on the cup, a little to the right
                      [0.60, 0.60, 0.40, 0.20]])  # C: on the fish, a little to the left
chances = torch.tensor([[0.20, 0.70, 0.10],  # A says fish
                        [0.90, 0.05, 0.05],  # B says cup
                        [0.10, 0.50, 0.40]])  # C says fish, not quite sure

# %%
inks = [plots.BLUE, plots.ORANGE, plots.GREEN]  # a colour for each prediction
figure = matching_plots.ties(matching_plots.GROUND, boxes, wanted, [(0, 0), (1, 0), (2, 1)],
                             names=names, things=things, colour=inks)
show(figure, alt="Two dashed objects on grey ground: the cup, upper left, and the fish, lower right. "
                 "Prediction A lies exactly on the cup, B a little to its right. C lies on the fish, a little "
                 "to the left.")
assert torch.equal(boxes[0], wanted[0]) and chances[0].argmax() == 1  # A: the cup's box, and the word fish
predict("07.owner",
        "A has the perfect box and says fish. B is a little off and says cup. Who will own the cup?",
        "A", "B", "both")

# %% [markdown]
# The price of a pair, its **matching cost**, has three parts.
#
# - **Class.** How likely does the prediction find the object's class? A high probability should be cheap, so take it
#   with a minus.
# - **L1.** The four differences of centre and size, added up. For B and the cup only the centre x differs, by 0.05.
# - **GIoU**, again with a minus. Notebook 04 built it: IoU, less the empty part of the box around both. It wants
#   corners. By hand, B and the cup share 0.15 x 0.20 = 0.03. Together they cover 0.04 + 0.04 − 0.03 = 0.05. The box
#   around both is just as large, so GIoU = IoU = 0.03 / 0.05 = 0.6.

# %%
from detr_mini.boxes import cxcywh_to_xyxy, giou

class_cost = -chances[:, labels]  # (3, 2): a column per object, with the probability of its class
l1_cost = (boxes[:, None] - wanted[None]).abs().sum(dim=-1)  # (3, 1, 4) - (1, 2, 4) -> (3, 2, 4) -> (3, 2)
corners, truth = cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(wanted)  # (3, 4), (2, 4)
giou_cost = -giou(corners[:, None], truth[None])  # (3, 2)

figure, panels = plots.canvas(3, height=2.1)
for axes, title, part in zip(panels, ("− probability", "L1", "− GIoU"), (class_cost, l1_cost, giou_cost)):
    plots.matrix(part, names, things, title=title, signed=True, top=1.0, axes=axes)
show(figure, alt="Costs of A, B, C with cup and fish. Minus probability: A -0.20, -0.70; B -0.90, -0.05; C "
                 "-0.10, -0.50. L1: A 0.00, 0.90; B 0.05, 0.85; C 0.80, 0.10. Minus GIoU: A -1.00, 0.66; B "
                 "-0.60, 0.63; C 0.60, -0.60.")

# %% [markdown]
# The sum, with DETR's weights: class 1, L1 5, GIoU 2.

# %%
cost = 1 * class_cost + 5 * l1_cost + 2 * giou_cost  # (3, 2)

for row, name in enumerate(names):
    parts = [f"{class_cost[row, k]:5.2f} + 5 x {l1_cost[row, k]:.2f} + 2 x {giou_cost[row, k]:5.2f} = "
             f"{cost[row, k]:5.2f}"
             for k in range(2)]
    print(f"{name} and cup: {parts[0]}     {name} and fish: {parts[1]}")

# %% [markdown]
# A cost may be negative. Only differences count: a matching looks for the smallest sum.
#
# ## 3. Try them all
#
# The cup takes one of three predictions, the fish one of the two that are left. That makes six matchings.

# %%
from itertools import permutations

totals = {}
for chosen in permutations(range(3), 2):  # which prediction the cup takes, which the fish takes
    totals[chosen] = sum(cost[query, thing].item() for thing, query in enumerate(chosen))
    print(f"cup {names[chosen[0]]}, fish {names[chosen[1]]}: {totals[chosen]:6.2f}")

best = min(totals, key=totals.get)
print("cheapest:", [f"{names[query]} owns the {things[thing]}" for thing, query in enumerate(best)])
reveal("07.owner",
       "ab"[best[0]], "B's better word is worth 0.70. A's better box is worth 5 x 0.05 + 2 x 0.4 = 1.05.")

# %% [markdown]
# So A answers for the cup, although it says *fish*: in training it will be told to say *cup*. C answers for the fish. B
# is left over and will be told to say *no object*, although it was nearly right. Hard on B, but there is only one cup.
#
# The weights decide such cases. Detectors after DETR often count the class twice:

# %%
heavier = 2 * class_cost + 5 * l1_cost + 2 * giou_cost  # (3, 2)
print("the cup's cost with A and with B, class counted once: ", [round(x, 2) for x in cost[:2, 0].tolist()])
print("the cup's cost with A and with B, class counted twice:",
      [round(x, 2) for x in heavier[:2, 0].tolist()])

# %% [markdown]
# Why −p, and not −log p, which the loss uses? Look at what a very unlikely class would cost:

# %%
for p in [0.9, 0.5, 0.1, 0.001]:
    print(f"p = {p:5}:  -p = {-p:6.3f}   -log p = {-torch.tensor(p).log():5.2f}")

# %% [markdown]
# −p stays between −1 and 0, so the class can never cost more than its weight. L1 and GIoU are bounded, too. (That is the
# original DETR. With a focal loss, as on our scenes, the class cost is a focal one, too, and that one has no bound.)
#
# ## 4. Too many to try
#
# Now a real case: DETR has 100 queries, and an image of COCO has about seven objects.

# %%
predict("07.count",
        "Try all matchings of 7 objects with 100 queries, a million per second. How long does it take?",
        "about a minute", "about a day", "more than two years")

# %%
import math

matchings = math.perm(100, 7)  # 100 x 99 x 98 x 97 x 96 x 95 x 94
years = matchings / 1e6 / (60 * 60 * 24 * 365)
print(f"{matchings:,} matchings, {years:.1f} times 365 days")
reveal("07.count", "c" if years > 2 else "b", "Each object multiplies the count by nearly 100.")

# %% [markdown]
# And that is for one image, in one layer, at one step of training. We need something faster.
#
# ## 5. Greedy: the cheapest pair first
#
# The obvious way: take the cheapest pair of all, cross out its row and its column, and go on.

# %%
def greedy(cost):
    """cost (Q, M) -> pairs (query, object), the cheapest first."""
    left, pairs = cost.clone(), []
    for _ in range(min(cost.shape)):
        query, thing = divmod(left.argmin().item(), cost.shape[1])
        pairs.append((query, thing))
        left[query], left[:, thing] = math.inf, math.inf  # both are taken
    return pairs

print("our example:", sorted(greedy(cost)), " trying all:", sorted((q, t) for t, q in enumerate(best)))

# %% [markdown]
# Right, this time. Now a case that is not so kind: two things side by side, and two predictions. L1 alone is the price.

# %%
pair = torch.tensor([[0.30, 0.5, 0.1, 0.5], [0.60, 0.5, 0.1, 0.5]])  # (2, 4) left thing, right thing
two = torch.tensor([[0.42, 0.5, 0.1, 0.5], [0.15, 0.5, 0.1, 0.5]])  # (2, 4) A, between them; B, far left
far = torch.cdist(two, pair, p=1)  # (2, 2)

by_greedy, by_trying = greedy(far), [(0, 1), (1, 0)]
print(far)
for name, pairs in (("greedy", by_greedy), ("the other way", by_trying)):
    print(f"{name:14} {' + '.join(f'{far[p]:.2f}' for p in pairs)} = {sum(far[p] for p in pairs):.2f}")

figure, panels = plots.canvas(2, height=1.9)
for axes, name, pairs in zip(panels, ("greedy", "the other way"), (by_greedy, by_trying)):
    matching_plots.ties(matching_plots.GROUND[:, :56], two, pair, pairs, names="AB", axes=axes, title=name,
                        colour=[plots.BLUE, plots.ORANGE])
show(figure, alt="Two pictures of the same two things and two predictions. Greedy: A goes to the left thing, "
                 "and B, at the far left, is tied right across it to the right thing; 0.57. The other way: A "
                 "to the right thing, B to the left one; 0.33.")

# %% [markdown]
# Greedy gives the left thing to A, because 0.12 is the smallest number. Then B, far left, must take what remains. **One
# query steals an object, and another pays for it.** A pays little for stepping aside, and B wins a lot. Greedy cannot
# see that, for it never takes anything back.
#
# ## 6. Taking back: the Hungarian idea
#
# Bring in one object after the other. A new object may take a query that is taken. Then the query's old object moves on
# to another one, whose object moves on, and so on, until somebody finds a free query. Of all such **chains** take the
# cheapest.

# %%
def add(cost, owner, new):
    """Give object `new` a query by the cheapest chain. owner: query -> its object, changed in place."""
    price = [cost[query][new] for query in range(len(cost))]  # the cheapest chain to each query, so far
    came_from = [None] * len(cost)
    for _ in range(len(owner)):  # a chain has at most as many moves as there are owners
        for query, thing in owner.items():
            for other in range(len(cost)):  # `thing` gives up `query` and moves to `other`
                moved = price[query] - cost[query][thing] + cost[other][thing]
                if moved < price[other] - 1e-9:
                    price[other], came_from[other] = moved, query
    end = min((q for q in range(len(cost)) if q not in owner), key=lambda q: price[q])
    while came_from[end] is not None:  # walk the chain back; everybody moves up by one
        owner[end], end = owner[came_from[end]], came_from[end]
    owner[end] = new

# %%
owner = {}
for new, thing in enumerate(["left thing", "right thing"]):
    add(far.tolist(), owner, new)
    print(f"after the {thing:11}:", {"AB"[query]: ["left", "right"][t] for query, t in sorted(owner.items())})

# %% [markdown]
# The left thing first took A. When the right one came, it took A over, and the left one moved on to B. That is all there
# is to it. Each step ends in the cheapest matching of the objects so far, which one can prove. We test it instead: 300
# random cases, against trying them all, against greedy, and against **SciPy's** `linear_sum_assignment`.

# %%
from scipy.optimize import linear_sum_assignment

def by_chains(cost):
    """cost (Q, M), M <= Q -> pairs (query, object) of the smallest total."""
    owner = {}
    for new in range(cost.shape[1]):
        add(cost.tolist(), owner, new)
    return sorted(owner.items())

def total(cost, pairs):
    """The sum over the pairs."""
    return sum(cost[query, thing].item() for query, thing in pairs)

# %%
draw, worse, more = torch.Generator().manual_seed(0), 0, 0.0
for _ in range(300):
    queries = torch.randint(4, 7, (1,), generator=draw).item()
    objects = torch.randint(2, 5, (1,), generator=draw).item()
    random = torch.rand(queries, objects, generator=draw, dtype=torch.float64)  # (Q, M)
    least = min(total(random, [(q, t) for t, q in enumerate(chosen)])
                for chosen in permutations(range(queries), objects))
    scipy_pairs = list(zip(*linear_sum_assignment(random)))
    for pairs in (scipy_pairs, by_chains(random)):
        assert abs(total(random, pairs) - least) < 1e-9
    extra = total(random, greedy(random)) - least
    worse, more = worse + (extra > 1e-9), max(more, extra)
print("chains and SciPy found the smallest total in all 300 cases")
print(f"greedy missed it in {worse} of 300, at worst by {more:.2f}")

# %% [markdown]
# From here on we use SciPy's version, which is compiled. The case that would take years:

# %%
import time

large = torch.rand(100, 7, generator=draw, dtype=torch.float64)
start = time.perf_counter()
query, thing = linear_sum_assignment(large)
print("100 queries, 7 objects: solved in less than a tenth of a second:", time.perf_counter() - start < 0.1)
print("each object has a query of its own:",
      sorted(thing.tolist()) == list(range(7)) and len(set(query)) == 7)

# %% [markdown]
# ## 7. Ties
#
# What if two matchings cost the same? Let all costs be equal.

# %%
equal = torch.ones(4, 2)
print("all equal: ", list(zip(*(x.tolist() for x in linear_sum_assignment(equal)))))

nearly = equal.clone()
nearly[3, 0] -= 1e-6  # a millionth cheaper
nearly[2, 1] -= 1e-6
print("nearly so: ", list(zip(*(x.tolist() for x in linear_sum_assignment(nearly)))))

# %% [markdown]
# SciPy takes the first ones, always the same. The second line is trouble: **a millionth decides who learns
# what.** The matching jumps, while the cost hardly changes.
#
# When do queries nearly tie? When they all say nearly the same. Remember how a fresh DETR begins: content 0 for all. We
# load 64 scenes and ask a trained detector and three fresh ones. (What *focal* means in the code, section 9 says.)

# %%
from detr_mini import zoo
from detr_mini.data.scenes import CLASSES, Scenes
from detr_mini.data.transforms import build_transform, collate
from detr_mini.files import DATA

recipe, held_out = zoo.recipe("detr", "scenes"), Scenes(400, seed=1_000_003)
prepare = build_transform(recipe.data, train=False)
batch = collate([prepare(*held_out[i]) for i in range(64)])
objects = sum(len(target["labels"]) for target in batch.targets)

# %%
models = {"trained": dm.load_weights(DATA / "weights/detr.safetensors").eval()}
for seed, name in enumerate(("fresh", "fresh, seed 1", "fresh, seed 2")):
    torch.manual_seed(seed)
    models[name] = dm.build("detr").eval()
with torch.no_grad():
    output = {name: model(batch.images, batch.mask) for name, model in models.items()}
print("boxes", tuple(output["trained"].boxes.shape),
      "= layers, images, queries, 4;  objects in all:", objects)

# %%
predict("07.ties", "We jitter all predicted boxes by about a quarter of a pixel. How many objects of a fresh "
                   "DETR get another query?", "hardly any", "about a tenth", "more than half")

# %%
matcher = dm.HungarianMatcher(recipe.loss, head="focal")
jitter = 0.002 * torch.randn(output["fresh"].boxes.shape, generator=draw)  # 128 pixels x 0.002 = 0.26 pixels

share = {}
for name, (logits, said, _) in output.items():
    before, after = matcher(logits, said, batch.targets), matcher(logits, said + jitter, batch.targets)
    kept = sum(len({*before.pairs(2, i)} & {*after.pairs(2, i)}) for i in range(64))
    share[name] = 1 - kept / objects
    print(f"{name:14} {share[name]:.1f} of the objects get another owner")
assert min(part for name, part in share.items() if "fresh" in name) > 0.5
reveal("07.ties", "c" if share["fresh"] > 0.5 else "b" if share["fresh"] > 0.05 else "a",
       "All 25 queries say nearly the same box, so a hair decides.")

# %% [markdown]
# So at the beginning the matching is a lottery. Should one step of training move the boxes as much, query 3 would be
# told to be the cup now, and query 17 at the next step. Keep this in mind for notebook 10, which measures it over a
# whole training.
#
# ## 8. Too few, too many, none
#
# The package's matcher, in a few odd cases. First, the everyday one: **more queries than objects**. Who has no object
# is told *no object*; how, is notebook 08.

# %%
matches = matcher(*output["trained"][:2], batch.targets)
print(f"last layer: {64 * 25} predictions, {int((matches.layer == 2).sum())} with an object, "
      f"{64 * 25 - int((matches.layer == 2).sum())} without")

# %% [markdown]
# **More objects than queries**, and **no object at all**: we take two queries out of the 25, and give them a scene with
# four objects and one with none. At last, **something that is not a number**.

# %%
four = batch.targets[1]
none = {"labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4), "image_id": 0}
logits, said = (part[2:, 1:2, :2] for part in output["trained"][:2])  # last layer, one image, two queries

print("4 objects, 2 queries:", matcher(logits, said, [four]).pairs(0, 0))
print("0 objects, 2 queries:", matcher(logits, said, [none]).pairs(0, 0))

broken = said.clone()
broken[0, 0, 1, 2] = float("nan")  # one width
try:
    matcher(logits, broken, [four])
except ValueError as error:
    print(error)

# %% [markdown]
# Two queries, so two pairs, and the two objects that would make the matching dearer go without. Nothing complains! A
# detector with 25 queries can never learn to find 30 things in one image. So there must be more queries than any image
# has objects. An empty image gives no pairs. And with a nan no matching makes
# sense, so the matcher stops and says where (it counts layers from 0).
#
# ## 9. By hand, and by the package
#
# `HungarianMatcher` does what we did, for all layers and images of a batch at once. Do the two agree? First our three
# predictions. The package takes logits; logarithms of probabilities are fitting ones.

# %%
from detr_mini.recipes import LossRecipe

package = dm.HungarianMatcher(LossRecipe(), head="softmax")  # 1, 5, 2
theirs = package.costs(chances.log()[None, None], boxes[None, None],
                       labels[None], wanted[None])[0, 0]  # (3, 2)
pairs = package(chances.log()[None, None], boxes[None, None],
                [{"labels": labels, "boxes": wanted}]).pairs(0, 0)

print("costs agree:   ", torch.allclose(theirs, cost, atol=1e-6))
print("matching agrees:", pairs == sorted((query, thing) for thing, query in enumerate(best)))

# %% [markdown]
# Now the trained DETR: 3 layers, 64 scenes. Its class head is of the focal kind, which has no *no object* class. So its
# class cost is another function of the probability. Like −p, it is low where the class is likely; notebook 08 has
# the formula. The rest is as above.

# %%
from detr_mini.matching import focal_cost

def price(logits, boxes, labels, wanted):
    """Every pair's cost in one image: logits (Q, C), boxes (Q, 4), labels (M,), wanted (M, 4) -> (Q, M)."""
    cls = focal_cost(logits, alpha=0.25, gamma=2.0)[:, labels]  # (Q, M)
    l1 = (boxes[:, None] - wanted[None]).abs().sum(dim=-1)  # (Q, M)
    far = -giou(cxcywh_to_xyxy(boxes)[:, None], cxcywh_to_xyxy(wanted)[None])  # (Q, M)
    return 2 * cls + 5 * l1 + 2 * far

agree = 0
for layer in range(3):
    for image, target in enumerate(batch.targets):
        mine = price(*(part[layer, image] for part in output["trained"][:2]),
                     target["labels"], target["boxes"])
        pairs = list(zip(*(x.tolist() for x in linear_sum_assignment(mine))))
        agree += pairs == matches.pairs(layer, image)
print(f"by hand and package agree in {agree} of {3 * 64} matchings")

# %% [markdown]
# ## 10. Who owns whom
#
# One scene, and the owner of each thing after each of the three decoder layers.

# %%
image = 7
figure, panels = plots.canvas(3, height=2.9)
for layer, axes in enumerate(panels):
    matching_plots.ties(held_out[image][0], output["trained"].boxes[layer, image],
                        batch.targets[image]["boxes"],
                        matches.pairs(layer, image), title=f"layer {layer + 1}", axes=axes)
show(figure, alt="The same scene three times, with a cup, a tree, a cat and a fish, each tied to the query "
                 "that owns it. In layer 1: queries 3, 13, 21 and 4. Layer 2: the cat goes to 20. Layer 3: "
                 "the tree goes to 12. All other predictions are grey.")
for layer in range(3):
    print(f"layer {layer + 1}:",
          {CLASSES[batch.targets[image]["labels"][t]]: q for q, t in matches.pairs(layer, image)})

# %% [markdown]
# Each layer is matched on its own, so owners may change on the way. Grey boxes are queries without an object. Some of
# them lie on things just as well as the owners do! How often do owners change? And then: does the Hungarian algorithm gain
# anything over greedy here?

# %%
for layer in (0, 1):
    same = sum(len({*matches.pairs(layer, i)} & {*matches.pairs(2, i)}) for i in range(64))
    print(f"layer {layer + 1} has the owner of layer 3 for {same / objects:.0%} of the things")

def differs(model, scenes):
    """In how many of these scenes greedy's pairs are not Hungarian's, after the last layer."""
    some = collate([prepare(*scene) for scene in scenes])
    with torch.no_grad():
        logits, said, _ = model(some.images, some.mask)
    costs = [price(logits[-1, i], said[-1, i], t["labels"], t["boxes"]) for i, t in enumerate(some.targets)]
    return sum(sorted(greedy(c)) != list(zip(*(x.tolist() for x in linear_sum_assignment(c)))) for c in costs)

# %%
predict("07.greedy",
        "64 scenes, the trained DETR. In how many of them does greedy choose other pairs than Hungarian?",
        "in more than half", "in about a tenth", "in hardly any")

# %%
count = {}
for name, preset, model in (("trained", "few", "trained"),
                            ("fresh", "few", "fresh"), ("trained", "many", "trained")):
    scenes = Scenes(64, seed=1_000_003, preset=preset)
    count[name, preset] = differs(models[model], [scenes[i] for i in range(64)])
    print(f"{name:8} DETR, {preset:4} things: greedy differs in {count[name, preset]} of 64 scenes")
few = count["trained", "few"]
reveal("07.greedy", "a" if few > 32 else "b" if few > 3 else "c",
       "A trained query is far cheaper for its own thing than for any other, so nobody steals.")

# %% [markdown]
# That may disappoint. With a trained detector and a few things, greedy would do. With many small things close together it
# would not, and at the start of a training it would not either.
#
# So on easy scenes like ours it gains nothing over greedy. What matters there is the rule that both obey, **one to one**; section 12
# shows what happens without it. The Hungarian algorithm obeys it, too, is never dearer, and takes next to no time.
#
# ## 11. What each term is for
#
# Leave out one term of the cost, and match the same predictions again.

# %%
predict("07.terms", "Leaving out which term changes most owners?", "class", "L1", "GIoU")

# %%
from dataclasses import replace
from detr_mini.boxes import iou

def owners(**weights):
    """Image, query, object of the last layer's pairs, some weights of the cost changed: three (pairs,)."""
    changed = dm.HungarianMatcher(replace(recipe.loss, **weights), "focal")
    found = changed(*output["trained"][:2], batch.targets)
    last = found.layer == 2
    return found.image[last], found.query[last], found.target[last]

# %%
logits, said = output["trained"].logits[2], output["trained"].boxes[2]  # (64, 25, 10), (64, 25, 4)
usual, changed = {*zip(*map(torch.Tensor.tolist, owners()))}, {}
for name, weights in {"all terms": {}, "no class": {"class_cost": 0.0}, "no L1": {"l1_cost": 0.0},
                      "no GIoU": {"giou_cost": 0.0},
                      "class alone": {"l1_cost": 0.0, "giou_cost": 0.0}}.items():
    i, q, t = owners(**weights)
    label, box = (torch.stack([batch.targets[a][key][b] for a, b in zip(i, t)])
                  for key in ("labels", "boxes"))
    chance, fit = logits[i, q, label].sigmoid(), iou(cxcywh_to_xyxy(said[i, q]), cxcywh_to_xyxy(box))
    changed[name] = len(usual - {*zip(*map(torch.Tensor.tolist, (i, q, t)))}) / objects
    print(f"{name:12} other owners {changed[name]:4.0%}   mean probability {chance.mean():.2f}   mean IoU "
          f"{fit.mean():.2f}")
most = max(["no class", "no L1", "no GIoU"], key=changed.get)
reveal("07.terms", {"no class": "a", "no L1": "b", "no GIoU": "c"}[most],
       "L1 and GIoU can stand in for each other; nothing stands in for the class.")

# %% [markdown]
# - **Without the class** the best box wins, whatever it says. Owners are less sure of their class.
# - **Without L1 or without GIoU** little changes here, since the two agree about most boxes.
# - **With the class alone** whoever says *cup* most loudly owns the cup, wherever its box lies. IoU drops.
#
# Why then both box terms? They measure differently: L1 in parts of the image, GIoU in parts of the boxes. Notebook 08
# shows what that means for small and large things.
#
# ## 12. One to one against one to many
#
# Before DETR, detectors were taught *one to many* (notebook 04): every prediction, anchor or place that overlaps an object
# enough is told to find it. Here are both rules on the same 25 predictions of one scene.

# %%
from detr_mini.boxes import pairwise_iou

image = 6
overlap = [pairwise_iou(cxcywh_to_xyxy(said[i]), cxcywh_to_xyxy(t["boxes"]))
           for i, t in enumerate(batch.targets)]
many = [(fits >= 0.5).nonzero().tolist() for fits in overlap]  # pairs (query, object), IoU of 1/2 or more

figure, panels = plots.canvas(2, height=3.6)
for axes, pairs, title in zip(panels, (many[image], matches.pairs(2, image)),
                              ("IoU of one half or more", "Hungarian")):
    matching_plots.ties(held_out[image][0], said[image], batch.targets[image]["boxes"], pairs,
                        title=f"{title}: {len(pairs)} pairs", axes=axes)
taught, alone = sum(len(pairs) for pairs in many), sum(int((fits < 0.5).all(dim=0).sum()) for fits in overlap)
show(figure, alt="The same scene twice, two umbrellas, two mushrooms. Left, by overlap: fourteen predictions "
                 "are tied to them, six to one mushroom. Right, Hungarian: one prediction for each thing.")
print(f"64 scenes, {objects} objects. By overlap: {taught} pairs, and {alone} objects have none.")
print(f"One to one:  {objects} pairs, and 0 objects have none.")

# %% [markdown]
# On the left, all predictions near a thing are praised for it. So all of them will say it again, and somebody must
# clear up afterwards: NMS. On the right one is praised, and the others hear *no object*, although their boxes fit. To
# obey it helps to know that somebody has the thing already. That is why queries talk to each other, and why DETR,
# once it has learned to obey, needs no NMS. (Ours has not yet: notebook 06.)
#
# The price is on the right, too: one lesson per object and layer, where the left has three or four. Notebook 18 will return
# to that.
#
# ## 13. Explore
#
# Drag a prediction. Or choose one, and use the sliders with Tab and the arrow keys. Find out:
#
# 1. Greedy pays 2.73 more at the start. Move A so that both agree.
# 2. Put D exactly on the boat and let it go on saying *nothing*. Does it get the boat?
# 3. Leave only the class cost on. Who gets the mushroom when C moves far away from it?

# %%
from detr_mini.course.matching_playground import MatchingPlayground

MatchingPlayground()

# %% [markdown]
# ## 14. Exercises
#
# Fill in a cell, run it, then run the check below it. For a hint: `dm.hint("07.cost")` in a new cell, with the
# exercise's name.
#
# ### Match with a pencil (`07.by_hand`)
#
# *Warm-up, 6 minutes.* Four predictions, three objects. Which prediction does each object get in the cheapest matching?
# Write three numbers: the prediction of object 0, of object 1, of object 2.
#
# | | object 0 | object 1 | object 2 |
# |---|---|---|---|
# | prediction 0 | 1 | 2 | 9 |
# | prediction 1 | 2 | 8 | 7 |
# | prediction 2 | 6 | 5 | 4 |
# | prediction 3 | 7 | 9 | 3 |

# %% tags=["exercise"]
my_matching = None  # [..., ..., ...]

# %% tags=["solution"]
my_matching = [1, 0, 3]  # 2 + 2 + 3 = 7; greedy takes the 1 first and ends at 1 + 5 + 3 = 9

# %%
check("07.by_hand", my_matching)

# %% [markdown]
# ### Write the cost (`07.cost`)
#
# *Core, 12 minutes.* All three terms for one image, with DETR's weights 1, 5 and 2. `giou` and `cxcywh_to_xyxy` from
# above may be used, the package's matcher may not. There may be no objects.

# %% tags=["exercise"]
def matching_cost(logits, boxes, labels, wanted):
    """The cost of every pair, for a softmax head.

    logits (Q, C + 1), boxes (Q, 4), labels (M,), wanted (M, 4), boxes as centre and size -> (Q, M)
    """
    return None  # your lines

# %% tags=["solution"]
from detr_mini.boxes import cxcywh_to_xyxy, giou

def matching_cost(logits, boxes, labels, wanted):
    """The cost of every pair, for a softmax head.

    logits (Q, C + 1), boxes (Q, 4), labels (M,), wanted (M, 4), boxes as centre and size -> (Q, M)
    """
    chance = logits.softmax(dim=-1)[:, labels]  # (Q, M)
    l1 = (boxes[:, None] - wanted[None]).abs().sum(dim=-1)  # (Q, M): of centre and size
    fit = giou(cxcywh_to_xyxy(boxes)[:, None], cxcywh_to_xyxy(wanted)[None])  # (Q, M): of corners
    return -chance + 5 * l1 - 2 * fit

# %%
check("07.cost", matching_cost)

# %% [markdown]
# ### Match by trying (`07.brute`)
#
# *Core, 15 minutes.* Find the cheapest matching of any small cost matrix, without SciPy. There may be more predictions
# than objects, or fewer, or no objects at all.

# %% tags=["exercise"]
def cheapest(cost):
    """cost (Q, M) -> a list of min(Q, M) pairs (query, object) with the smallest total."""
    return None  # your lines

# %% tags=["solution"]
from itertools import permutations

def cheapest(cost):
    """cost (Q, M) -> a list of min(Q, M) pairs (query, object) with the smallest total."""
    queries, objects = cost.shape
    if queries < objects:
        return [(query, thing) for thing, query in cheapest(cost.T)]  # the smaller group chooses
    every = permutations(range(queries), objects)
    best = min(every, key=lambda chosen: sum(cost[query, thing].item() for thing, query in enumerate(chosen)))
    return [(query, thing) for thing, query in enumerate(best)]

# %%
check("07.brute", cheapest)

# %% [markdown]
# ### How firm is a pair? (`07.margin`)
#
# *Stretch, 20 minutes.* Section 7 saw matchings that hang by a hair. Measure it. For each object: how much more would
# the cheapest matching cost, if this object could not have the query it got? All else may change. SciPy is allowed; no
# cost in the check is above 100.

# %% tags=["exercise"]
def margins(cost):
    """cost (Q, M), M < Q -> (M,): what it costs each object to lose its query."""
    return None  # your lines

# %% tags=["solution"]
from scipy.optimize import linear_sum_assignment

def margins(cost):
    """cost (Q, M), M < Q -> (M,): what it costs each object to lose its query."""
    query, thing = linear_sum_assignment(cost)
    least, extra = cost[query, thing].sum(), torch.zeros(cost.shape[1], dtype=cost.dtype)
    for q, t in zip(query.tolist(), thing.tolist()):
        barred = cost.clone()
        barred[q, t] = 1e6  # this one pair is out; the query may still serve another object
        extra[t] = barred[linear_sum_assignment(barred)].sum() - least
    return extra

# %%
check("07.margin", margins)

# %% [markdown]
# ## 15. Limits, and errata
#
# - **The name.** Everybody says *Hungarian*, after Kuhn's method of 1955. SciPy uses a later one for the same problem,
#   a variant of Jonker and Volgenant's: cheapest chains, as in section 6.
# - **No gradient goes through the matching.** It is a decision. The loss then punishes the chosen pairs as if they had
#   always been fixed.
# - **It sees one image at a time.** Nothing keeps a query from owning the cup today and the fish tomorrow.
# - **It runs on the CPU** in most codes, ours included, while a GPU waits. With 100 queries that is bearable.
# - **Paper and code.** Equation 1 of the paper sums over all queries, with objects padded by *no object*, which has
#   cost 0 there. The code simply leaves those columns out; the matching is the same.
# - **The measured shares** of this notebook are those of one small detector on generated scenes. On COCO they will differ.
#
# ## Recap
#
# - A set has no order, so predictions and objects must be matched before anything can be compared.
# - Cost of a pair: −p of the class, 5 x L1, −2 x GIoU. Softmax heads use −p, focal heads a focal cost.
# - One to one: every object has a query, no query has two. The rest hear *no object*.
# - Greedy never takes back. Chains do, and find the smallest total.
# - Near ties make the matching jump. A fresh DETR is full of them.

# %%
quiz("07")

# %% [markdown]
# **Next:** [08, the set loss](08_set_loss.ipynb): everybody has a partner now, or none. What is everybody punished for?
#
# **References**
#
# - N. Carion et al., *End-to-End Object Detection with Transformers*, 2020. Section 3.1, equation 1; the weights are in
#   appendix A.4.
# - H. W. Kuhn, *The Hungarian Method for the Assignment Problem*, 1955.
# - D. F. Crouse, *On Implementing 2D Rectangular Assignment Algorithms*, 2016: what SciPy's documentation names as its
#   source.
# - H. Rezatofighi et al., *Generalized Intersection over Union*, 2019.
# - R. Stewart, M. Andriluka, A. Ng, *End-to-End People Detection in Crowded Scenes*, 2016: matching for detection, before
#   Transformers.
