# %% [markdown]
# # 08 · The set loss
#
# **What is a set of boxes punished for?**
#
# *About 65 minutes with the exercises. The cells run for about a minute on two cores, without a GPU.*
# *You need notebook 07: every object has one prediction, the other predictions have none.*
#
# After this notebook you can
#
# - write DETR's whole loss from memory, and check it to the last digit;
# - say why *no object* counts a tenth, and what the focal form does instead;
# - show what L1 and GIoU do alone, to small boxes, large ones and distant ones;
# - say what the auxiliary losses of the early layers are for.

# %%
import torch

import detr_mini as dm
from detr_mini.course import loss_plots
from detr_mini.course.notebook import check, plots, predict, quiz, reveal, where_we_are
from detr_mini.course.training_plots import show

dm.setup(seed=0)
where_we_are("loss")

# %% [markdown]
# ## Where we are
#
# Matching has decided who answers for what. Now each prediction is compared with its object, and the differences become
# one number, the **loss**. Training makes it smaller, and nothing else. So a detector learns what the loss asks for, and
# gets away with whatever it forgets.
#
# ## 1. A loss that forgets somebody
#
# Let us begin with a loss that looks sensible: take the matched pairs, and punish wrong classes and wrong boxes. Two
# detectors, 25 queries each, one scene with three things. Both find all three, with probability 0.9. The 22 other
# queries of the first detector are silent. Those of the second one all shout *cup*.

# %%
chances = torch.full((25, 11), 0.01)  # (Q, 10 classes + no object)
chances[range(3), [7, 0, 4]] = 0.9  # queries 0, 1, 2 find a cup, a fish, a balloon
silent, shouting = chances.clone(), chances.clone()
silent[3:, 10], shouting[3:, 7] = 0.9, 0.9  # the rest: no object, or cup

for name, said in (("silent", silent), ("shouting", shouting)):
    print(f"{name:9} loss over the matched pairs {-said[range(3), [7, 0, 4]].log().mean():.3f}, "
          f"cups in the picture: {int((said[:, 7] > 0.5).sum())}")

# %% [markdown]
# The same loss for one cup and for 23. Nobody is told to be silent, so nobody learns it. Every query must answer, the
# unmatched ones as well. So they need a right answer, too.
#
# ## 2. A class called no object
#
# DETR's first answer: one class more. With C classes, numbered 0 to C − 1, **no object** is number C. Each query takes a
# softmax over all C + 1, and its right answer is its object's class or *no object*.
#
# Take the three predictions of notebook 07: A owns the cup, C owns the fish, and B is left over.

# %%
names = ["A", "B", "C"]
chances = torch.tensor([[0.20, 0.70, 0.10],
                        [0.90, 0.05, 0.05], [0.10, 0.50, 0.40]])  # (3, 3) cup, fish, no object
pairs, labels = [(0, 0), (2, 1)], torch.tensor([0, 1])  # (query, object); cup is 0, fish 1

classes = torch.full((3,), 2)  # (Q,) everybody: no object
for query, thing in pairs:
    classes[query] = labels[thing]
print("right answers:", classes.tolist())

# %% [markdown]
# The loss of an answer is **cross-entropy**, −log p of the right class. Sure and right costs 0, sure and wrong costs much.

# %%
each = -chances[range(3), classes].log()  # (3,)
for name, right, loss in zip(names, classes, each):
    print(f"{name}: right answer {['cup', 'fish', 'no object'][right]:9}  -log p = {loss:.3f}")

# %% [markdown]
# B pays most. It shouts *cup*, and another query has the cup.
#
# ## 3. Why no object counts a tenth
#
# Here everybody is told something. But how often is it the same? DETR has 100 queries, and an image of COCO has about
# seven objects. So 93 of 100 answers are *no object*. Imagine a head that cannot see yet. All it has is a bias per
# class, the same for all queries.

# %%
predict("08.blind", "Trained on 7 objects and 93 times no object, all counting alike. How sure of no object "
                    "does a blind head become?", "0.5: it cannot know", "0.93", "almost 1")

# %%
import torch.nn.functional as F

right = torch.cat([torch.arange(7), torch.full((93,), 91)])  # (100,) seven different objects; 91 = no object

def pull(bias, weight):
    """Gradient of the class loss in the shared bias (92,), no object counting `weight`."""
    counts = torch.ones(92, dtype=torch.float64)
    counts[91] = weight
    bias = bias.clone().requires_grad_()
    loss = F.cross_entropy(bias.expand(100, -1), right, counts)
    return torch.autograd.grad(loss, bias)[0]

for weight in (1.0, 0.1):
    slope = -pull(torch.zeros(92, dtype=torch.float64), weight)  # downhill
    print(f"no object counts {weight}: pull on no object {slope[91]:.2f}, on the seven classes together "
          f"{slope[:7].sum():.2f}")

# %%
blind = {}
for weight in (1.0, 0.1):
    bias = torch.zeros(92, dtype=torch.float64)
    for _ in range(3000):
        bias -= 2.0 * pull(bias, weight)  # downhill
    blind[weight] = bias.softmax(dim=0)[91].item()
    print(f"no object counts {weight}: the blind head ends at p(no object) = {blind[weight]:.2f}")

reveal("08.blind", "b" if abs(blind[1.0] - 0.93) < 0.01 else "a",
       "93 of 100 votes. With a tenth it is 9.3 of 16.3.")

# %% [markdown]
# With equal votes, the first thing a detector learns is silence: the pull towards it is 0.92, and nothing pulls the
# seven classes up. With 0.1 both sides are pulled, and who sees an object is not shouted down.
#
# Now mind the fine print. The weights enter twice: each loss is multiplied by its weight, and the sum is divided by the
# **sum of the weights**. It is a weighted mean, not a mean.

# %%
counts = torch.tensor([1.0, 1.0, 0.1])[classes]  # (Q,) 1 for objects, 0.1 for no object
class_loss = (counts * each).sum() / counts.sum()

print(f"({each[0]:.3f} + 0.1 x {each[1]:.3f} + {each[2]:.3f}) / (1 + 0.1 + 1) = {class_loss:.4f}")
print(f"PyTorch says the same: {F.cross_entropy(chances.log(), classes, torch.tensor([1, 1, 0.1])):.4f}")

# %% [markdown]
# ## 4. The focal form: no class for nothing
#
# Later detectors, and ours on scenes, ask differently. Each query answers C yes-no questions: *a fish? a tree? ...* each
# with its own sigmoid. *No object* is ten times no, and needs no class. But now the silence is overwhelming, as
# in notebook 04:

# %%
queries, classes_in_all, objects = 25, 10, 3
print(f"{queries} queries x {classes_in_all} classes = {queries * classes_in_all} questions, {objects} times "
      "yes")

p_no, p_yes = torch.tensor(0.05), torch.tensor(0.30)  # a detector that is learning
easy = (queries * classes_in_all - objects) * -(1 - p_no).log()
print(f"cross-entropy: all the no {easy:.1f}, the three yes {objects * -p_yes.log():.1f}")

# %% [markdown]
# Most of the loss comes from easy answers that are right already. The **focal loss** turns these down. With p_t,
# the probability of the right answer (p for yes, 1 − p for no):
#
# > **focal = −α_t (1 − p_t)^γ log p_t** &nbsp;&nbsp; (Lin et al. 2017, equation 5)
#
# α_t is 0.25 for yes and 0.75 for no, and γ = 2. The important part is (1 − p_t)²: who is right and sure is hardly heard.

# %%
p_t = torch.tensor([0.05, 0.3, 0.5, 0.7, 0.95, 0.99])  # probability of the right answer
for p in p_t.tolist():
    plain = -torch.tensor(p).log().item()
    print(f"p_t {p:.2f}: cross-entropy {plain:.3f}, turned down by {(1 - p)**2:.4f} to "
          f"{(1 - p)**2 * plain:.5f}")

x = torch.linspace(0.02, 1, 99)
figure = plots.curves({"cross-entropy": -x.log(), "γ = 2": -(1 - x) ** 2 * x.log()}, x.tolist(),
                      xlabel="probability of the right answer", ylabel="loss")
for name, place in zip(figure.axes[0].texts, ((0.32, 1.35), (0.19, 0.55))):
    name.set_position(place)  # beside its curve: both end in one point
show(figure, alt="Loss against the probability of the right answer. Cross-entropy falls from 4 to 0 and is "
                 "still visible at 0.8. The focal form lies below it and is almost flat at 0 from 0.6 on.")
assert (-((1 - x) ** 2) * x.log())[x > 0.6].max() < 0.1 < -torch.tensor(0.8).log()  # flat here; the other is not

# %%
predict("08.easy", "The same learning detector, with the focal loss. Who weighs more now?",
        "the 247 times no",
        "the three times yes", "both alike")

# %%
def focal(p, yes, alpha=0.25, gamma=2.0):
    """Focal loss of each answer: p, probability of yes; yes, whether yes is right. Equation 5."""
    p_t, alpha_t = torch.where(yes, p, 1 - p), torch.where(yes, alpha, 1 - alpha)
    return -alpha_t * (1 - p_t) ** gamma * p_t.log()

all_no = 247 * focal(p_no, torch.tensor(False)).item()
all_yes = 3 * focal(p_yes, torch.tensor(True)).item()
print(f"focal: all the no {all_no:.3f}, the three yes {all_yes:.3f}")
reveal("08.easy", "b" if all_yes > 2 * all_no else "a", "(0.05)² takes nearly everything off the easy ones.")

# %% [markdown]
# The sum is divided by the number of **objects**, not by the number of answers. In the matching, focal detectors use the
# same formula, as the difference between a pair's loss as yes and its loss as no:

# %%
from detr_mini.matching import focal_cost

p = torch.tensor([0.05, 0.3, 0.9])
yes, no = focal(p, torch.tensor(True)), focal(p, torch.tensor(False))
cost = focal_cost(torch.logit(p), alpha=0.25, gamma=2.0)
for row in zip(p, yes, no, cost):
    print("p {:.2f}: as yes {:.3f}, as no {:.3f}, cost {:6.3f}".format(*row))
print("cost = loss as yes - loss as no:", torch.allclose(cost, yes - no, atol=1e-6))

# %% [markdown]
# So the class cost is what the class loss would gain or lose by this pair.
#
# ## 5. Boxes: L1 and GIoU
#
# For matched pairs two more losses: **L1**, the sum of four differences, and **1 − GIoU**, which is 0 for a perfect box.
# Why two? Take boxes of very different sizes, and give each the *same relative error*: moved by a tenth of its side to the
# right, and a tenth too wide.

# %%
predict("08.same", "A box is eight times as large as another, and its error is the same part of its side. "
                   "How do their losses compare?", "L1 eight times as large, GIoU alike",
        "both alike", "both eight times as large")

# %%
from detr_mini.boxes import cxcywh_to_xyxy, giou

side = torch.tensor([0.05, 0.10, 0.20, 0.40], dtype=torch.float64)
middle = torch.full_like(side, 0.5)
truth = torch.stack([middle, middle, side, side], dim=1)  # (4, 4)
off = torch.stack([middle + 0.1 * side, middle, 1.1 * side, side], dim=1)  # (4, 4)

l1 = (off - truth).abs().sum(dim=1)  # (4,)
far = 1 - giou(cxcywh_to_xyxy(off), cxcywh_to_xyxy(truth))  # (4,)
for row in zip(side, l1, far):
    print("side {:.2f}: L1 {:.4f}   1 - GIoU {:.4f}".format(*row))
alike = torch.allclose(far, far[0].expand(4))
reveal("08.same", "a" if alike and torch.isclose(l1[3], 8 * l1[0]) else "b",
       "GIoU is a ratio of areas, so size cancels.")

# %% [markdown]
# L1 measures in parts of the *image*, GIoU in parts of the *boxes*. What follows? Imagine a network with a single knob: a
# factor f for all widths and heights. Eight small things (side 0.08) want f = 1.25, and two large ones (0.5) want 0.8.

# %%
small_and_large = torch.tensor([0.08] * 8 + [0.5] * 2, dtype=torch.float64)
ideal = torch.tensor([1.25] * 8 + [0.8] * 2, dtype=torch.float64)

def at(factor):
    """The ten boxes of these sides, times `factor`, all centred: (10, 4)."""
    middle, sides = torch.full((10,), 0.5, dtype=torch.float64), small_and_large * factor
    return torch.stack([middle, middle, sides, sides], dim=1)

knob = torch.linspace(0.7, 1.5, 161, dtype=torch.float64)
l1 = torch.stack([(at(f) - at(ideal)).abs().sum() for f in knob])
far = torch.stack([(1 - giou(cxcywh_to_xyxy(at(f)), cxcywh_to_xyxy(at(ideal)))).sum() for f in knob])
print(f"best f for L1: {knob[l1.argmin()]:.2f}   best f for GIoU: {knob[far.argmin()]:.2f}")

# %%
figure = plots.curves({"L1": l1 / l1.min(), "1 − GIoU": far / far.min()}, knob.tolist(),
                      xlabel="the knob f", ylabel="loss, in parts of its least value")
show(figure, alt="Two losses against the knob f. L1 has its lowest point at 0.8, what the two large things "
                 "want. 1 minus GIoU has it at 1.25, what the eight small ones want.")
assert knob[l1.argmin()] < 0.9 and knob[far.argmin()] > 1.1  # L1 makes things smaller, GIoU makes them larger

# %% [markdown]
# **L1 listens to two large things, GIoU to eight small ones.** With L1 alone, small things would be nobody's concern.
# (Section 10 asks how much of this is left in a real head.)
#
# Then why not GIoU alone? Let a single box walk downhill by Adam, from a place where it does not touch its object.

# %%
start, wanted = [0.25, 0.30, 0.08, 0.08], [0.65, 0.60, 0.08, 0.08]

def l1_alone(box, goal):
    return 5 * (box - goal).abs().sum()

def giou_alone(box, goal):
    return 2 * (1 - giou(cxcywh_to_xyxy(box), cxcywh_to_xyxy(goal)))

def both(box, goal):
    return l1_alone(box, goal) + giou_alone(box, goal)

walks = {name: loss_plots.descend(start, wanted, loss, steps=160, lr=0.01)
         for name, loss in {"L1 alone": l1_alone, "GIoU alone": giou_alone, "both": both}.items()}

# %%
figure, panels = plots.canvas(3, height=2.9)
for axes, (name, walk) in zip(panels, walks.items()):
    loss_plots.way(walk[0][:81], wanted, every=8, axes=axes, title=name)
show(figure,
     alt="Three ways of a small box to a small dashed one, 80 steps each. L1 alone: it keeps its size, moves "
         "diagonally, then bends towards the goal and arrives. GIoU alone: it grows to several times its "
         "size, until it covers the goal. Both: it arrives with a mild swelling on the way.")
for name, (boxes, fit) in walks.items():
    first = int((fit > 0.5).nonzero()[0])
    print(f"{name:10} largest width on the way {boxes[:, 2].max():.2f}, IoU above one half from step {first}")

# %% [markdown]
# GIoU alone knows a trick: a box that grows gets closer to everything. It swells first, and has to shrink again later.
# L1 moves each number at a constant pace, and it does not care for the size of the thing. So DETR adds them up, 5 x L1 + 2
# x (1 − GIoU). (In notebook 04 GIoU was there before L1: larger boxes, plain gradient steps instead of Adam's, and no
# factor of 5. Which one is quicker depends on such things.)
#
# ## 6. Divided by what?
#
# Sums over pairs must be divided by something, or else a scene with many things would shout. Two ways: the mean of each
# image, and then the mean of the images. Or all pairs together, divided by the **number of objects in the batch**.

# %%
predict("08.batch", "A batch of two images: one with 1 object, one with 4. Per image "
                    "first: how much more does the lonely object count than one of the "
                    "four?", "the same", "twice as much", "four times as much")

# %%
errors = torch.tensor([0.1, 0.1, 0.1, 0.1, 0.1], requires_grad=True)  # L1 of five pairs; image 1 has one

per_image = (errors[:1].mean() + errors[1:].mean()) / 2
together = errors.sum() / 5
shares = {}
for name, loss in (("per image", per_image), ("together", together)):
    shares[name] = torch.autograd.grad(loss, errors)[0].tolist()
    print(f"{name:9} each pair's share: {[round(x, 3) for x in shares[name]]}")
reveal("08.batch", "c" if shares["per image"][0] == 4 * shares["per image"][1] else "a",
       "1/2 of one against 1/2 of a quarter.")

# %% [markdown]
# Together, all objects are equal. That is DETR's way, for box losses and for the focal form. (With several GPUs:
# by the mean number per GPU.)
#
# And if a batch has no object at all? Then the number would be 0, so it is taken as 1 at least.

# %%
from detr_mini.decoder import DetectorOutput
from detr_mini.recipes import LossRecipe

torch.manual_seed(0)
empty = [{"labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4)}]
output = DetectorOutput(torch.randn(1, 1, 5, 4), torch.rand(1, 1, 5, 4))  # one layer, one image, 5 queries

for weight in (0.1, 1.0):
    found = dm.SetCriterion(LossRecipe(no_object_weight=weight), classes=3, head="softmax")(output, empty)
    print(f"no object counts {weight}:",
          {name: round(found[name].item(), 3) for name in ("loss_ce", "loss_bbox", "loss_giou")})

# %% [markdown]
# No boxes, no box loss, and nothing is divided by 0. The class loss teaches silence. Look closely: here the weight 0.1 does
# nothing. Everybody has the same weight, and a weighted mean divides it out.
#
# ## 7. Every layer answers
#
# A decoder has several layers (DETR: 6, ours: 3). Its output is the last one's. But in training, **all** layers are asked:
# the same heads read each layer's content, each layer gets a matching and a loss of its own, and all are added up. These
# extra losses are called **auxiliary**, and the idea **deep supervision**. What do they change? We measure gradients.

# %%
from detr_mini import zoo
from detr_mini.data.scenes import CLASSES, Scenes
from detr_mini.data.transforms import build_transform, collate
from detr_mini.files import DATA

recipe, held_out = zoo.recipe("detr", "scenes"), Scenes(400, seed=1_000_003)
prepare = build_transform(recipe.data, train=False)
batch = collate([prepare(*held_out[i]) for i in range(16)])
criterion = dm.SetCriterion(recipe.loss, recipe.model.classes, recipe.model.head)

model = dm.load_weights(DATA / "weights/detr.safetensors").eval()
output = model(batch.images, batch.mask)
losses, matches = criterion(output, batch.targets), criterion.matches
print(*(f"{name:11} {value.item():.2f}" for name, value in losses.items() if name.startswith("loss")),
      sep="\n")
print("GIoU loss falls from layer to layer:",
      bool(losses["loss_giou_0"] > losses["loss_giou_1"] > losses["loss_giou"]))

# %% [markdown]
# `loss_bbox_0` is layer 1's, `loss_bbox_1` layer 2's, and the plain names are the last one's. Each layer fits a little
# better than the one before. Now: how long is the gradient that each layer's loss sends into each layer's weights?

# %%
predict("08.reach", "Loss of layer 1, weights of layer 3. How long is the gradient?",
        "exactly 0", "small", "as long as in "
        "layer 1")

# %%
def loss_of(layer):
    """The weighted loss of one decoder layer alone."""
    alone = output._replace(logits=output.logits[layer: layer + 1], boxes=output.boxes[layer: layer + 1])
    return criterion.total(criterion(alone, batch.targets))

layers = [list(layer.parameters()) for layer in model.decoder.layers]
reach = loss_plots.gradient_lengths([loss_of(layer) for layer in range(3)], layers)  # (losses, layers)
show(plots.matrix(reach, ["loss 1", "loss 2", "loss 3"], ["weights 1", "weights 2", "weights 3"], digits=1,
                  title="Length of the gradient"),
     alt="A matrix: each layer's loss against each layer's weights. Loss 1 reaches the weights of layer 1 "
         "only. Loss 2 reaches layers 1 and 2, loss 3 all three. Above the diagonal all is 0.")
assert reach[0, 1] == reach[0, 2] == reach[1, 2] == 0 < reach[2].min()  # loss 3 hears of all, loss 1 of itself
reveal("08.reach", "a" if reach[0, 2] == 0 else "b", "Layer 1 answers before layer 3 has done anything.")

# %% [markdown]
# Without auxiliary losses only the last row exists. With them, layer 1 hears the whole first column. How much more is that,
# all together? And for a fresh detector?

# %%
def gain(model):
    """How many times longer layer 1's gradient is with the auxiliary losses."""
    output = model(batch.images, batch.mask)
    last = output._replace(logits=output.logits[-1:], boxes=output.boxes[-1:])
    wholes = [criterion.total(criterion(some, batch.targets)) for some in (output, last)]
    with_all, with_last = loss_plots.gradient_lengths(wholes,
                                                      [list(model.decoder.layers[0].parameters())])[:, 0]
    return with_all / with_last

torch.manual_seed(0)
gains = {"fresh": gain(dm.build("detr").eval()), "trained": gain(model)}
for name, factor in gains.items():
    print(f"{name:8} layer 1's gradient is longer with auxiliary losses: {factor > 1},  more than twice as "
          f"long: {factor > 2}")

# %% [markdown]
# The early layer is taught by its own mistakes, and not only through two layers above it. What else does it bring? A
# detector after each layer. Switch the auxiliary losses off, and train twice for 75 steps from the same weights, on the
# same images. Three seeds.

# %%
train_set, augment = Scenes(4000, seed=0), build_transform(recipe.data, train=True)

def l1_by_layer(model):
    """L1 of each layer's answers on the 16 held-out scenes, (3,)."""
    with torch.no_grad():
        found = criterion(model.eval()(batch.images, batch.mask), batch.targets)
    return torch.stack([found[name] for name in ("loss_bbox_0", "loss_bbox_1", "loss_bbox")])

# %%
def short_run(auxiliary, seed=0):
    """Train a fresh DETR for 75 steps, with or without auxiliary losses; then its L1 by layer, (3,)."""
    torch.manual_seed(seed)
    model = dm.build("detr").train()
    model.backbone.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=recipe.train.lr / 2)
    for _ in range(75):
        some = collate([augment(*train_set[i]) for i in torch.randint(4000, (8,)).tolist()])
        output = model(some.images, some.mask)
        asked = output if auxiliary else output._replace(logits=output.logits[-1:], boxes=output.boxes[-1:])
        optimizer.zero_grad()
        criterion.total(criterion(asked, some.targets)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.train.clip)
        optimizer.step()
    return l1_by_layer(model)

# %% tags=["nbval-ignore-output"]
runs = {name: torch.stack([short_run(auxiliary, seed) for seed in range(3)])  # (3 seeds, 3 layers)
        for name, auxiliary in (("with", True), ("without", False))}
for name, l1 in runs.items():
    bands = [f"{low:.2f} to {high:.2f}" for low, high in zip(l1.amin(dim=0), l1.amax(dim=0))]
    print(f"{name:8} auxiliary losses, L1 of layers 1, 2, 3: {', '.join(bands)}")
assert runs["without"][:, 0].min() > 1.1 * runs["with"][:, 0].max()  # layer 1 was never asked

# %% [markdown]
# Layer 1 answers badly when it is never asked. The *last* layer, the one that counts, differs less, but even there the
# bands of three seeds lie apart: after 75 steps the detector with auxiliary losses is ahead. What 75 steps show is that
# early layers become detectors because they are asked. They do not show how training ends. For that one must train long,
# and more than once. DETR's authors report that auxiliary losses
# help above all to output the right number of objects of each class (section 3.2 of the paper). We have not repeated it.
#
# ## 8. The whole loss, by hand
#
# Now all of it for our scenes, in two small functions. First one layer, given its matching.

# %%
def by_hand(logits, boxes, matching, targets):
    """logits (B, Q, C), boxes (B, Q, 4), matching: (query, object) pairs per image -> three losses."""
    yes = torch.zeros_like(logits, dtype=torch.bool)  # (B, Q, C) nobody is anything
    l1 = far = 0.0
    for image, pairs in enumerate(matching):
        for query, thing in pairs:
            yes[image, query, targets[image]["labels"][thing]] = True
            box, wanted = boxes[image, query], targets[image]["boxes"][thing]  # (4,), (4,)
            l1 = l1 + (box - wanted).abs().sum()
            far = far + 1 - giou(cxcywh_to_xyxy(box), cxcywh_to_xyxy(wanted))
    objects = max(1, sum(len(target["labels"]) for target in targets))
    return focal(logits.sigmoid(), yes).sum() / objects, l1 / objects, far / objects

# %% [markdown]
# Then all layers, each with its own matching, and the sum: class x 2, L1 x 5, (1 − GIoU) x 2 on scenes. (DETR on COCO has
# the softmax form and class x 1.)

# %%
total, agree = 0.0, []
for layer in range(3):
    matching = [matches.pairs(layer, image) for image in range(16)]
    ce, l1, far = by_hand(output.logits[layer], output.boxes[layer], matching, batch.targets)
    end = f"_{layer}" if layer < 2 else ""
    for name, mine in (("loss_ce", ce), ("loss_bbox", l1), ("loss_giou", far)):
        agree.append(torch.isclose(mine, losses[name + end], rtol=1e-4).item())
    total = total + 2 * ce + 5 * l1 + 2 * far

print("entries that agree with SetCriterion:", sum(agree), "of", len(agree))
print("total agrees:", torch.isclose(total, criterion.total(losses), rtol=1e-4).item())

# %% [markdown]
# And the softmax form, on the three predictions of notebook 07, whose class loss we computed in section 3.

# %%
boxes = torch.tensor([[0.30, 0.30, 0.20, 0.20], [0.35, 0.30, 0.20, 0.20], [0.60, 0.60, 0.40, 0.20]])
targets = [{"labels": labels, "boxes": torch.tensor([[0.30, 0.30, 0.20, 0.20], [0.70, 0.60, 0.40, 0.20]])}]
softmax = dm.SetCriterion(LossRecipe(), classes=2, head="softmax")
found = softmax(DetectorOutput(chances.log()[None, None], boxes[None, None]), targets)

mine = {"loss_ce": class_loss, "loss_bbox": torch.tensor((0.0 + 0.1) / 2),
        "loss_giou": torch.tensor((0.0 + 0.4) / 2)}
for name, value in mine.items():
    print(f"{name:10} by hand {value:.4f}   package {found[name]:.4f}")
print(f"total      by hand {mine['loss_ce'] + 5 * mine['loss_bbox'] + 2 * mine['loss_giou']:.4f}   "
      f"package {softmax.total(found):.4f}")

# %% [markdown]
# `SetCriterion` gives two entries more, which are watched and not trained on.

# %%
for layer, end in enumerate(("_0", "_1", "")):
    wrong = counted = 0
    best = output.logits[layer].argmax(dim=-1)  # (B, Q)
    for image in range(16):
        for query, thing in matches.pairs(layer, image):
            wrong += int(best[image, query] != batch.targets[image]["labels"][thing])
            counted += 1
    said = (best != 9).sum(dim=1)  # (B,) queries whose best class is not the last one
    true = torch.tensor([len(target["labels"]) for target in batch.targets])
    mine = 100 * wrong / counted, (said - true).abs().float().mean().item()
    same = all(abs(a - losses[name + end].item()) < 1e-3
               for a, name in zip(mine, ("class_error", "cardinality_error")))
    print(f"layer {layer + 1}: class_error {mine[0]:.1f} %, cardinality_error {mine[1]:.1f}, as in the "
          f"package: {same}")

# %% [markdown]
# `class_error`: how many matched queries have a wrong best class. `cardinality_error`: by how much the number of queries
# whose best class is *not the last one* misses the number of objects. Under a softmax head the last one is *no object*,
# and that makes sense. Under a focal head the last one is just the umbrella, and the number means nothing.
#
# ## 9. Who pays?
#
# In one scene, what does each query pay, and what for?

# %%
image = 7
logits, boxes = output.logits[-1, image].detach(), output.boxes[-1, image].detach()  # (25, 10), (25, 4)
target = batch.targets[image]
owner = dict(matches.pairs(2, image))  # query -> object
yes = torch.zeros_like(logits, dtype=torch.bool)
bill = torch.zeros(25, 3)  # (Q, class, L1, GIoU)
for query, thing in owner.items():
    yes[query, target["labels"][thing]] = True
    wanted = target["boxes"][thing]
    bill[query, 1] = 5 * (boxes[query] - wanted).abs().sum()
    bill[query, 2] = 2 * (1 - giou(cxcywh_to_xyxy(boxes[query]), cxcywh_to_xyxy(wanted)))
bill[:, 0] = 2 * focal(logits.sigmoid(), yes).sum(dim=1)

# %%
order = bill.sum(dim=1).argsort(descending=True)[:9].tolist()
rows = [f"{q}: {CLASSES[target['labels'][owner[q]]] if q in owner else 'no object'}" for q in order]
show(plots.matrix(bill[order], rows, ["class x 2", "L1 x 5", "GIoU x 2"],
                  title="The nine dearest queries of one scene"),
     alt="A table of nine queries and what each pays for class, L1 and GIoU. The four that own a thing come "
         "first and pay in all three columns. The others own nothing and pay in the class column only.")
print(f"25 queries pay {bill.sum():.2f}; the {len(owner)} owners pay "
      f"{bill[list(owner)].sum() / bill.sum():.0%} of it")
print("no query without an object pays for its box:",
      not bill[[q for q in range(25) if q not in owner], 1:].any())

# %% [markdown]
# A query without an object pays for its words and never for its box. Its box may lie anywhere: on a thing that another
# query owns, or on nothing.
#
# ## 10. One box loss alone, in a real head
#
# The knob of section 5 was made up. Does it matter in our detector? The decoder stays as it is. We take the content of
# each matched query, and train a new box head on it: with L1 alone, with GIoU alone, and with both.

# %%
@torch.no_grad()
def contents(dataset, count):
    """Of all matched queries of the first scenes: their last content (N, 128), their true box (N, 4)."""
    known, true = [], []
    for start in range(0, count, 50):
        some = collate([prepare(*dataset[i]) for i in range(start, start + 50)])
        with dm.AttentionTrace(model) as trace:
            criterion(model(some.images, some.mask), some.targets)
        last = model.decoder.norm(trace["decoder"].content[-1])  # (50, 25, 128)
        for image, target in enumerate(some.targets):
            for query, thing in criterion.matches.pairs(2, image):
                known.append(last[image, query])
                true.append(target["boxes"][thing])
    return torch.stack(known), torch.stack(true)

# %%
known, true = contents(train_set, 300)

def box_head(l1_weight, giou_weight, seed):
    """A new box head, trained for 400 steps."""
    torch.manual_seed(seed)
    head = torch.nn.Sequential(torch.nn.Linear(128, 128), torch.nn.ReLU(), torch.nn.Linear(128, 4))
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.001)
    for _ in range(400):
        some = torch.randint(len(known), (64,))
        box, goal = head(known[some]).sigmoid(), true[some]  # (64, 4) each
        far = 1 - giou(cxcywh_to_xyxy(box), cxcywh_to_xyxy(goal))  # (64,)
        loss = (l1_weight * (box - goal).abs().sum(dim=1) + giou_weight * far).mean()
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    return head

# %% tags=["nbval-ignore-output"]
from detr_mini.boxes import iou

known_test, true_test = contents(held_out, 200)
side, small = 128 * true_test[:, 2:].prod(dim=1).sqrt(), {}  # (N,) pixels
low, high = side.quantile(torch.tensor([1 / 3, 2 / 3])).tolist()
print(f"{len(side)} things, {side.min():.0f} to {side.max():.0f} pixels; the smaller third is below "
      f"{low:.0f}, the larger one above {high:.0f}")
for name, weights in {"L1 alone": (5, 0), "GIoU alone": (0, 2), "both": (5, 2)}.items():
    said = [box_head(*weights, seed)(known_test).sigmoid().detach() for seed in range(3)]  # 3 x (N, 4)
    fits = torch.stack([iou(cxcywh_to_xyxy(some), cxcywh_to_xyxy(true_test)) for some in said])  # (3, N)
    small[name], large = ([round(fit.item(), 3) for fit in fits[:, which].mean(dim=1)]
                          for which in (side < low, side > high))
    print(f"{name:10} IoU, three seeds: of small things {small[name]}, of large ones {large}")
assert max(map(max, small.values())) - min(map(min, small.values())) < 0.05  # on our scenes it hardly matters

# %% [markdown]
# For small things and for large ones the bands of the three losses overlap: here we see no difference. Perhaps our things
# are too alike in size. On COCO sizes differ far more, and there the authors trained whole detectors (table 4 of the paper):
#
# | box losses | AP | small objects | large objects |
# |---|---|---|---|
# | L1 alone | 35.8 | 13.7 | 57.9 |
# | GIoU alone | 39.9 | 19.9 | 57.9 |
# | both | 40.6 | 19.9 | 60.2 |
#
# L1 alone costs small objects 6.2 AP. GIoU alone costs them nothing, and large ones a little.
#
# ## 11. Explore
#
# Section 5 once more, with sliders. Mouse, or Tab and the arrow keys. Find out:
#
# 1. Set the weight of L1 to 0. How wide does the box become? And when it starts very near, at distance 0.04?
# 2. Which weight of GIoU beside 5 x L1 brings the small thing home first?
# 3. Make the thing 0.4 wide. Do the two weights still matter as much?

# %%
from detr_mini.course.loss_walk import LossWalk

LossWalk()

# %% [markdown]
# ## 12. Exercises
#
# Fill in a cell, run it, then run the check below it. For a hint: `dm.hint("08.labels")` in a new cell, with the
# exercise's name.
#
# ### The weighted mean (`08.pencil`)
#
# *Warm-up, 6 minutes.* Five queries, two objects, softmax head, *no object* counts 0.1. The two matched queries give their
# right classes the probabilities 0.5 and 0.25. The three others give *no object* 0.8, 0.8 and 0.1. What is the class loss? A
# calculator helps.

# %% tags=["exercise"]
my_loss = None  # your number; two decimals will do

# %% tags=["solution"]
import math

paid = [(1.0, 0.5), (1.0, 0.25), (0.1, 0.8), (0.1, 0.8), (0.1, 0.1)]  # weight, probability
my_loss = sum(-weight * math.log(p) for weight, p in paid) / sum(weight for weight, _ in paid)

# %%
check("08.pencil", my_loss)

# %% [markdown]
# ### Everybody's right answer (`08.labels`)
#
# *Core, 8 minutes.* Write the class that each query of an image should say, for a softmax head.

# %% tags=["exercise"]
def right_classes(pairs, labels, queries, classes):
    """The right class of every query.

    pairs: list of (query, object); labels (M,): the objects' classes, 0 to classes - 1
    queries, classes: how many there are
    -> (queries,) long
    """
    return None  # your lines

# %% tags=["solution"]
def right_classes(pairs, labels, queries, classes):
    """The right class of every query.

    pairs: list of (query, object); labels (M,): the objects' classes, 0 to classes - 1
    queries, classes: how many there are
    -> (queries,) long
    """
    right = torch.full((queries,), classes)  # no object comes after the last class
    for query, thing in pairs:
        right[query] = labels[thing]
    return right

# %%
check("08.labels", right_classes)

# %% [markdown]
# ### The box losses (`08.boxes`)
#
# *Core, 12 minutes.* L1 and GIoU of one image's matched pairs, divided by `count`, the objects of the whole batch.

# %% tags=["exercise"]
def box_losses(boxes, wanted, pairs, count):
    """L1 and GIoU loss, not weighted.

    boxes (Q, 4), wanted (M, 4), both centre and size; pairs: list of (query, object); count: a number
    -> tensor of two: L1, 1 - GIoU
    """
    return None  # your lines

# %% tags=["solution"]
from detr_mini.boxes import cxcywh_to_xyxy, giou

def box_losses(boxes, wanted, pairs, count):
    """L1 and GIoU loss, not weighted.

    boxes (Q, 4), wanted (M, 4), both centre and size; pairs: list of (query, object); count: a number
    -> tensor of two: L1, 1 - GIoU
    """
    mine = boxes[[query for query, _ in pairs]]  # (pairs, 4)
    theirs = wanted[[thing for _, thing in pairs]]  # (pairs, 4)
    l1 = (mine - theirs).abs().sum()
    far = (1 - giou(cxcywh_to_xyxy(mine), cxcywh_to_xyxy(theirs))).sum()
    return torch.stack([l1, far]) / count

# %%
check("08.boxes", box_losses)

# %% [markdown]
# ### The focal loss, for real (`08.focal`)
#
# *Stretch, 20 minutes.* Section 4 took probabilities and logarithms. With a logit of 200 it gives inf or nan. Write it
# on logits, without a ready-made focal loss, so that it stays finite, and return the sum.
# `torch.nn.functional.softplus(x)` is log(1 + eˣ), and safe.

# %% tags=["exercise"]
def safe_focal(logits, yes, alpha, gamma):
    """Focal loss, summed. logits (Q, C); yes (Q, C) bool, is yes right?; alpha for yes, 1 - alpha for no."""
    return None  # your lines

# %% tags=["solution"]
def safe_focal(logits, yes, alpha, gamma):
    """Focal loss, summed. logits (Q, C); yes (Q, C) bool, is yes right?; alpha for yes, 1 - alpha for no."""
    signed = torch.where(yes, logits, -logits)  # the logit of the right answer
    alpha_t = torch.where(yes, alpha, 1 - alpha)
    wrong = torch.sigmoid(-signed)  # 1 - p_t
    return (alpha_t * wrong**gamma * torch.nn.functional.softplus(-signed)).sum()  # softplus: -log p_t

# %%
check("08.focal", safe_focal)

# %% [markdown]
# ## 13. Limits, and errata
#
# - **Paper against code.** The paper's equation 2 writes the class loss as a sum over queries. The code takes the
#   weighted mean of section 3, and published figures come from the code.
# - **The tenth** was chosen by hand: the paper calls it a down-weighting by a factor of 10 against class imbalance. With
#   other numbers of queries and objects the balance is another.
# - **`cardinality_error`** means nothing under a focal head (section 8), and many logs print it all the same.
# - **Nobody pays for a careless box without an object**, so a box alone says nothing; look at its score.
# - **The score is not a judge of the box.** It is trained to be high for the owner, however well or badly its box fits.
# - **Gradients in section 7 are lengths.** They say how loudly a loss speaks, not whether it is right.
#
# ## Recap
#
# - Every query answers. Without an object, the right answer is *no object*, class number C, or C times no.
# - Softmax form: a mean weighted with 0.1 for *no object*. Focal form: a sum of turned-down answers per object.
# - L1 is loud for large things and walks steadily; GIoU hears all sizes alike, and swells when boxes do not touch.
# - Box losses are divided by the objects of the batch, at least 1.
# - Every decoder layer has its own matching and its own loss, and all are added up.

# %%
quiz("08")

# %% [markdown]
# **Next:** [09, train DETR](09_train_detr.ipynb): all parts together, on your own machine.
#
# **References**
#
# - N. Carion et al., *End-to-End Object Detection with Transformers*, 2020. Section 3.1 and equation 2; section 3.2 for the
#   auxiliary losses.
# - T.-Y. Lin et al., *Focal Loss for Dense Object Detection*, 2017. Equation 5.
# - X. Zhu et al., *Deformable DETR*, 2021: the focal form in a DETR, and in its matcher.
# - H. Rezatofighi et al., *Generalized Intersection over Union*, 2019.
# - C.-Y. Lee et al., *Deeply-Supervised Nets*, 2015: losses for early layers, before Transformers.
