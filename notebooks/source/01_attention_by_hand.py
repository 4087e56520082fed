# %% [markdown]
# # 01 · Attention by hand
#
# **What does softmax(q kᵀ) v do?**
#
# *About 60 minutes with the exercises; the cells themselves run in seconds, without a GPU.*
# *You need Python, a little PyTorch, and notebook 00.*
#
# After this notebook you can
#
# - compute attention with a pencil, and in one line of PyTorch;
# - say what a query, a key and a value are, and why the scores are divided by √d;
# - hide a key correctly, and spot it when somebody does not;
# - see attention find a car in a picture.

# %%
import detr_mini as dm
from detr_mini.course.notebook import AttentionByHand, check, plots, predict, quiz, reveal, show
from detr_mini.course.notebook import where_we_are

dm.setup(seed=0)
where_we_are("attention")

# %% [markdown]
# ## Where we are
#
# This is the detector that the course builds. Two parts are lit. Deep inside both of them, the same small operation
# runs again and again: **attention**. In this notebook we take it apart, until nothing is left but
# multiplications and additions.
#
# ## 1. A question that no dictionary can answer
#
# You are looking for a flat. There are four adverts. Each advert describes its flat with two numbers, *quiet* and
# *central*. Zero is average, 2 is very much so, and negative means the opposite. Each flat has a rent, in hundreds a
# month.

# %%
import math

import torch

names = ["Attic", "Bridge", "Centre", "Depot"]
keys = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0], [-1.0, -1.0]])  # (4, 2): quiet, central
rents = torch.tensor([7.0, 9.0, 12.0, 4.0])  # (4,)

for name, key, rent in zip(names, keys, rents):
    print(f"{name:7} quiet {key[0]:4.0f}   central {key[1]:4.0f}   rent {rent:4.0f}")

# %% [markdown]
# Your ideal flat is very quiet (2) and rather central (1). What should it cost?
#
# In Python we look things up in a dictionary. Let us try.

# %%
rent_of = {tuple(key.tolist()): rent.item() for key, rent in zip(keys, rents)}
print("a known flat, (2, 0):", rent_of[2.0, 0.0])

try:
    rent_of[2.0, 1.0]
except KeyError as error:
    print("the ideal flat:       KeyError", error)

# %% [markdown]
# A dictionary knows exactly its own keys and nothing in between. So let us take the flat that fits the ideal **best**.
# How well a flat fits is measured by a dot product, which section 2 looks at closely.

# %%
def rent_of_best(ideal):
    """The rent of the one flat that fits best."""
    fit = keys @ ideal  # (4,)
    return rents[fit.argmax()]

print("ideal (1.01, 1.00):", rent_of_best(torch.tensor([1.01, 1.00])).item())
print("ideal (1.00, 1.01):", rent_of_best(torch.tensor([1.00, 1.01])).item())

# %% [markdown]
# Two ideals that nobody could tell apart, and the answer jumps from 7 to 12. That is the first trouble. Here is the
# second one. We ask PyTorch how the answer changes when the ideal changes a little, because that is what
# learning needs.

# %%
ideal = torch.tensor([2.0, 1.0], requires_grad=True)

try:
    rent_of_best(ideal).backward()
except RuntimeError as error:
    print("RuntimeError:", str(error)[:60])

# %% [markdown]
# There is no gradient. Picking a winner is a step, and a step has no slope to follow. A network with this inside
# could never learn what to ask.
#
# So we want a look-up that always has an answer, that changes smoothly, and that can learn. The idea: **take a little
# of every flat, and most of those that fit.** That takes three steps: score, weigh, average.
#
# ## 2. Score: how well does each flat fit?
#
# Multiply wish and advert, number by number, and add up. That is the **dot product**.

# %%
ideal = torch.tensor([2.0, 1.0])  # quiet, central

attic = keys[0]
print("Attic: 2*2 + 1*0 =", (ideal[0] * attic[0] + ideal[1] * attic[1]).item())

# %% [markdown]
# It is large when an advert is strong where you have wishes. It is negative when the advert is the opposite of what
# you want. Now all four, in a loop.

# %%
scores = []
for name, key in zip(names, keys):
    score = sum(wish * has for wish, has in zip(ideal.tolist(), key.tolist()))
    scores.append(score)
    print(f"{name:7} {score:5.1f}")

# %% [markdown]
# ## 3. Weigh: from scores to weights
#
# Weights should be positive and add up to 1. The **softmax** does that: take the exponential of each score, then
# divide by the sum of them all. Predict, before you compute:

# %%
predict("01.weights", "The scores are 4, 3, 2 and -3. Which weight will Attic get?",
        "0.44", "0.66", "0.97")

# %%
exponentials = [math.exp(score) for score in scores]
total = sum(exponentials)
weights = [value / total for value in exponentials]

for name, score, value, weight in zip(names, scores, exponentials, weights):
    print(f"{name:7} score {score:4.0f}   e^score {value:6.2f}   weight {weight:.3f}")
print("sum of the weights:", round(sum(weights), 6))

nearest = (torch.tensor([0.44, 0.66, 0.97]) - weights[0]).abs().argmin()
reveal("01.weights", "abc"[nearest],
       "One point more in the score makes a weight e = 2.72 times as large.")

# %% [markdown]
# Check that last sentence in the table: Attic is one point ahead of Bridge, and 54.60 / 20.09 = 2.72. So only the
# **gaps** between scores matter. Depot has a negative score and still gets a tiny weight: nobody is ever quite
# forgotten.

# %%
figure, (left, right) = plots.canvas(2, height=2.2)
plots.bars(scores, names, title="scores", digits=0, colours=plots.COLOURS[:4], axes=left)
plots.bars(weights, names, title="weights", limits=(0, 1), colours=plots.COLOURS[:4], axes=right)
show(figure, alt="""Two bar charts. Scores: Attic 4, Bridge 3, Centre 2, Depot -3. Weights: Attic 0.66,
     Bridge 0.24, Centre 0.09, Depot almost 0. Even steps between scores, uneven ones between weights.""")
assert scores[0] - scores[1] == scores[1] - scores[2]  # even steps between scores
assert weights[0] - weights[1] > 2 * (weights[1] - weights[2])  # uneven ones between weights

# %% [markdown]
# ## 4. Average: what do they offer?
#
# Each flat offers its rent. Take each rent as often as its weight says.

# %%
answer = 0.0
for name, weight, rent in zip(names, weights, rents.tolist()):
    answer += weight * rent
    print(f"{name:7} {weight:.3f} x {rent:4.0f} = {weight * rent:.3f}")
print(f"the ideal flat should cost {answer:.3f} hundred")

# %% [markdown]
# That is attention, all of it. Its three parts have names:
#
# | | here | in a dictionary | in words |
# |---|---|---|---|
# | **query** q | your ideal | what you look up | what do I want? |
# | **key** k | an advert | a key | how can I be found? |
# | **value** v | a rent | a value | what do I give, once found? |
#
# A dictionary returns one value, for a key that fits exactly. Attention returns a mixture of all values, each by how
# well its key fits. It is a *soft* dictionary.
#
# A key is for being found, a value is for being taken. They need not resemble each other. Let each flat offer two
# numbers now, rent and size: the weights stay, only the average changes.

# %%
values = torch.tensor([[7.0, 30.0], [9.0, 25.0], [12.0, 40.0], [4.0, 60.0]])  # (4, 2): rent, square metres

for column, meaning in enumerate(["rent", "size"]):
    mixed = sum(weight * value for weight, value in zip(weights, values[:, column].tolist()))
    print(f"{meaning}: {mixed:.3f}")

# %% [markdown]
# ### How strongly do you ask?
#
# A query has a direction: what you want. It also has a length.

# %%
predict("01.length", "We double the query, from (2, 1) to (4, 2). What happens to the weights?",
        "they become more even", "they stay as they are", "they become sharper: the best flat gains")

# %%
for factor in [0.0, 0.5, 1.0, 2.0, 5.0]:
    weights_now = (keys @ (factor * ideal)).softmax(dim=0)  # (4,)
    print(f"{factor} x the ideal: weights {[round(w, 3) for w in weights_now.tolist()]}, "
          f"rent {float(weights_now @ rents):.2f}")

single, double = ((keys @ (factor * ideal)).softmax(dim=0).max() for factor in (1, 2))
change = "b" if torch.isclose(single, double) else "c" if double > single else "a"
reveal("01.length", change, "Twice the query means twice the gaps between scores.")

# %% [markdown]
# Read the table from top to bottom. A query of zero wants nothing, so everybody counts the same. A long query makes
# the best key win alone. So attention runs all the way from a plain average to a hard look-up, and it gets there
# smoothly.
#
# ## 5. From loops to one line
#
# All dot products at once are a product of matrices. So are all weighted averages.

# %%
q = ideal[None]  # (1, 2) one query
k, v = keys, rents[:, None]  # (4, 2), (4, 1)

all_scores = q @ k.T  # (1, 2) @ (2, 4) -> (1, 4)
all_weights = all_scores.softmax(dim=-1)  # (1, 4)
all_answers = all_weights @ v  # (1, 4) @ (4, 1) -> (1, 1)

print("scores ", all_scores, "\nweights", all_weights, "\nanswer ", all_answers)
print("same as the loop:", math.isclose(all_answers.item(), answer, rel_tol=1e-5))

# %% [markdown]
# And several people can ask at once. Each is a row of q, and each gets a row of the answer.

# %%
people = ["you", "a sleeper", "a dancer"]
q = torch.tensor([[2.0, 1.0], [3.0, -1.0], [-1.0, 3.0]])  # (3, 2) quiet, central

weights_of = (q @ k.T).softmax(dim=-1)  # (3, 4)
answers = weights_of @ values  # (3, 4) @ (4, 2) -> (3, 2)

for person, (rent, size) in zip(people, answers.tolist()):
    print(f"{person:10} rent {rent:5.2f}, size {size:5.2f}")
print("each row adds up to 1:", torch.allclose(weights_of.sum(dim=-1), torch.ones(3)))
show(plots.matrix(weights_of, people, names, row_name="query", column_name="key", top=1.0),
     alt="""A matrix of weights: three rows, one per query, and four columns, one per flat.
     You: Attic 0.66, Bridge 0.24, Centre 0.09. The sleeper: nearly all on Attic.
     The dancer: nearly all on Centre.""")
assert weights_of.argmax(dim=1).tolist() == [0, 0, 2]  # you and the sleeper: Attic; the dancer: Centre

# %% [markdown]
# Such a matrix is called an **attention map**. Read it by rows: a row says where one query looks. In a detector, a row
# has hundreds of columns, one per place in the picture, and can be drawn as a picture itself. Section 10 does that.
#
# ## 6. It breaks when vectors get wide
#
# Our vectors have two numbers. Those inside a network have dozens or hundreds. Does the recipe survive? We draw random
# queries and ten random keys, wider and wider, and look at the largest weight. With nothing to prefer, it should not be
# near 1.

# %%
predict("01.wide",
        "Random vectors of width 256, ten keys. How large is the largest weight, on average?",
        "about 0.1: all ten alike", "about 0.3", "above 0.9: one key takes nearly all")

# %%
def random_scores(width):
    """Dot products of 1000 random queries with 10 random keys: (1000, 10)."""
    torch.manual_seed(0)
    return torch.randn(1000, width) @ torch.randn(10, width).T

for width in [2, 16, 64, 256, 1024]:
    scores_wide = random_scores(width)
    largest = scores_wide.softmax(dim=-1).amax(dim=-1).mean()
    print(f"width {width:5}: scores spread by {scores_wide.std():4.1f}, largest weight {largest:.2f}")

largest = random_scores(256).softmax(dim=-1).amax(dim=-1).mean()
reveal("01.wide", "c" if largest > 0.9 else "b" if largest > 0.2 else "a",
       "A dot product of wide vectors adds up many terms, so gaps between scores grow.")

# %% [markdown]
# At width 256 we are back at picking a winner, and here the winner is picked by chance. The slope is gone, too. We
# measure it: how much does the answer move when a score moves?

# %%
def mean_slope(scores):
    """How much the average answer changes with a score, as a mean over all scores."""
    scores = scores.clone().requires_grad_()
    torch.manual_seed(1)
    answers = scores.softmax(dim=-1) @ torch.randn(10)  # (1000,)
    answers.sum().backward()
    return scores.grad.abs().mean().item()

for width in [2, 16, 64, 256, 1024]:
    print(f"width {width:5}: slope {mean_slope(random_scores(width)):.3f}")

# %% [markdown]
# The slope shrinks with every row: the wider the vectors, the less there is to learn from.
#
# Look at the spread of the scores again: about 4 at width 16, 16 at width 256, 32 at width 1024. It is the **square
# root of the width**. A sum of d random products spreads like √d. So divide by √d, and the spread is about 1.

# %%
for width in [2, 16, 64, 256, 1024]:
    scaled = random_scores(width) / math.sqrt(width)
    largest = scaled.softmax(dim=-1).amax(dim=-1).mean()
    print(f"width {width:5}: spread {scaled.std():.1f}, largest weight {largest:.2f}, "
          f"slope {mean_slope(scaled):.3f}")

widths = [2**power for power in range(1, 11)]
raw = [random_scores(w).softmax(-1).amax(-1).mean() for w in widths]
scaled = [(random_scores(w) / math.sqrt(w)).softmax(-1).amax(-1).mean() for w in widths]
figure = plots.curves({"as they are": torch.stack(raw), "divided by √d": torch.stack(scaled)},
                      widths, log_x=True, xlabel="width d of queries and keys",
                      ylabel="mean largest weight of 10 keys")
show(figure, alt="""Largest weight against vector width. Unscaled scores: it climbs from 0.3 at width 2
     to 0.96 at 1024. Scores divided by the root of d: it stays at about 0.3.""")
assert raw[-1] > 0.9 and max(scaled) < 0.4  # one line climbs, the other one stays

# %% [markdown]
# Now the formula is complete. It is equation 1 of *Attention Is All You Need* (Vaswani et al. 2017), where d is the
# width of queries and keys:
#
# > **attention(q, k, v) = softmax(q kᵀ / √d) v**
#
# Our flats have d = 2. Scaling makes your question a little softer, and the other flats count a little more.

# %%
def attention(q, k, v):
    """q (Q, d), k (K, d), v (K, n) -> weights (Q, K), answers (Q, n)."""
    weights = (q @ k.T / math.sqrt(q.shape[-1])).softmax(dim=-1)  # (Q, K)
    return weights, weights @ v

weights, answer = attention(ideal[None], keys, rents[:, None])
print("weights", weights, "\nrent   ", answer)

# %% [markdown]
# ## 7. It can learn what to ask
#
# Now ask for gradients again, as we did in vain in section 1. This time there is a slope, and it reaches everything.

# %%
q, k, v = ideal[None].clone(), keys.clone(), rents[:, None].clone()
for tensor in (q, k, v):
    tensor.requires_grad_()

weights, answer = attention(q, k, v)
answer.sum().backward()
print("query :", q.grad)
print("keys  :", k.grad)
print("values:", v.grad.T)
print("gradient of the values = weights:", torch.allclose(v.grad.T, weights))

# %% [markdown]
# The values' gradient **is** the attention weights: raise Attic's rent by 1, and the answer rises by Attic's share.
# Among the keys, Depot's row is close to zero. What is hardly looked at hardly learns.
#
# Can the query learn? We tell it which answer we want, rent 11, and let it walk downhill. Nobody tells it where to
# look.

# %%
query = torch.tensor([[2.0, 1.0]], dtype=torch.float64, requires_grad=True)
for step in range(41):
    weights, answer = attention(query, keys.double(), rents[:, None].double())
    loss = ((answer - 11) ** 2).sum()
    if step % 10 == 0:
        asked = [round(x, 2) for x in query[0].tolist()]
        print(f"step {step:2}: query {asked}, rent {answer.item():.2f}")
    gradient, = torch.autograd.grad(loss, query)
    query = (query - 0.05 * gradient).detach().requires_grad_()

# %% [markdown]
# The query now asks for central above all, because that is where high rents are. In DETR, too, where to look is learned
# from the error of the answer alone. But here the query was all that could learn, since we held the keys constant. In
# DETR a query and the image's keys each pass through a matrix first, and all of these can learn. Which of them does?
# Notebook 06 measures it: in 2,500 steps of training our small DETR, queries stay nearly where they began, and it is
# the matrices that learn.
#
# ## 8. Hiding a key
#
# Bad news: Attic is gone. Its advert is still in the list, but it must not count. In a detector this happens all the
# time, for pictures of different sizes are padded to fit into one batch. The obvious idea: compute the weights, then
# set Attic's to 0.

# %%
predict("01.mask", "After that, what do the remaining weights add up to?",
        "exactly 1", "less than 1", "more than 1")

# %%
weights, _ = attention(ideal[None], keys, rents[:, None])
late = weights.clone()
late[0, 0] = 0  # Attic
print("weights", late, "sum", round(late.sum().item(), 3))
print("rent   ", round((late @ rents).item(), 2))

total = late.sum()
reveal("01.mask", "a" if torch.isclose(total, torch.tensor(1.0)) else "b" if total < 1 else "c",
       "Attic's share is missing, and nobody else received it.")

# %% [markdown]
# The rent comes out as 4.24. Yet the two flats that now carry nearly all the weight cost 9 and 12. No error, no
# warning: the answer is merely wrong. Remember this one, it is among the commonest mistakes with attention.
#
# Hide the key **before** the softmax instead. Which score gives the weight 0? Since e to the power of minus infinity is
# 0, it is minus infinity. A score of 0 would not do, because e⁰ = 1.

# %%
scores = ideal[None] @ keys.T / math.sqrt(2)  # (1, 4)
hidden = torch.tensor([True, False, False, False])

for name, filler in [("zero", 0.0), ("minus infinity", -math.inf)]:
    masked = scores.masked_fill(hidden, filler).softmax(dim=-1)  # (1, 4)
    print(f"score {name:15}: weights {masked[0].numpy()}, sum {masked.sum():.3f}, "
          f"rent {(masked @ rents).item():.2f}")

# %% [markdown]
# ## 9. As a class, and against the package
#
# Here is everything above in one small module. `bias` is added to the scores: 0 leaves a key alone, minus infinity
# hides it.

# %%
class HandAttention(torch.nn.Module):
    """softmax(q k^T / sqrt(d) + bias) v, and it remembers where it looked."""

    def forward(self, query, key, value, bias=0.0):
        """query (..., Q, d), key (..., K, d), value (..., K, n) -> (..., Q, n)."""
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (..., Q, K)
        self.weights = (scores + bias).softmax(dim=-1)  # (..., Q, K)
        return self.weights @ value

by_hand = HandAttention()
bias = torch.zeros(4).masked_fill(hidden, -math.inf)  # (4,)
print("rent without Attic:", round(by_hand(ideal[None], keys, rents[:, None], bias).item(), 2))

# %% [markdown]
# The package has the same thing, written for use. Do the two agree? Three comparisons, on random numbers: with the
# package's function, with PyTorch's own, and with the module that sits in our detector.

# %%
from detr_mini.attention import MultiHeadAttention, attention_weights

torch.manual_seed(0)
q, k, v = torch.randn(2, 5, 8), torch.randn(2, 7, 8), torch.randn(2, 7, 8)  # a batch of 2
bias = torch.zeros(7).masked_fill(torch.arange(7) == 3, -math.inf)  # (7,): key 3 is hidden
mine = by_hand(q, k, v, bias)  # (2, 5, 8)

theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, bias.expand(5, 7))
print("weights agree with the package:", torch.allclose(by_hand.weights, attention_weights(q, k, bias)))
print("answers agree with PyTorch:    ", torch.allclose(mine, theirs, atol=1e-6))

# %% [markdown]
# `MultiHeadAttention` does one thing more: it first sends query, key and value through a matrix each, and the answer
# through a fourth. Notebook 02 is about them. Set all four to the identity, use one head, and our numbers must come
# out. An `AttentionTrace` records where it looked, during that very pass.

# %%
package = MultiHeadAttention(d_model=8, heads=1)
for matrix in (package.query, package.key, package.value, package.output):
    torch.nn.init.eye_(matrix.weight)

with dm.AttentionTrace(package) as trace:
    theirs = package(q, k, v, bias=bias)  # (2, 5, 8)

print("answers agree:         ", torch.allclose(mine, theirs, atol=1e-6))
print("recorded weights agree:", torch.allclose(by_hand.weights[:, None], trace[""].weights, atol=1e-6))

# %% [markdown]
# ## 10. The same formula asks a picture
#
# Flats were only a warm-up. Here is a picture of 128 x 128 pixels. We cut it into 16 x 16 places. Each **key** is a
# place's mean colour, compared with the whole picture's. Each **value** is where that place is.

# %%
from detr_mini.data.scenes import CLASSES, draw_scene

picture, labels, boxes = draw_scene(seed=0, index=12)  # (128, 128, 3), boxes: left, top, width, height
blocks = torch.tensor(picture / 255).float().reshape(16, 8, 16, 8, 3)  # 16 x 16 blocks of 8 x 8 pixels
places = blocks.mean(dim=(1, 3))  # (16, 16, 3), each block's mean colour
colours = places.flatten(0, 1)  # (256, 3) red, green, blue
keys_of_picture = colours - colours.mean(dim=0)  # (256, 3)

middle = torch.arange(16) * 8 + 4.0  # pixels
across, down = torch.meshgrid(middle, middle, indexing="xy")  # (16, 16) each
spots = torch.stack([across.flatten(), down.flatten()], dim=1)  # (256, 2) x, y
print("keys", tuple(keys_of_picture.shape), "  values", tuple(spots.shape))

# %% [markdown]
# The first query wants *more blue and less red than usual*. The second one wants *more green, less red, less blue*.
# We write them by hand, and long enough to be sharp.

# %%
queries = 20 * torch.tensor([[-1.0, 0.0, 1.0], [-1.0, 1.0, -1.0]])  # (2, 3)
maps, found = attention(queries, keys_of_picture, spots)  # (2, 256), (2, 2)

for query, place, thing in zip(["blue", "green"], found.tolist(), [0, 1]):
    left, top, width, height = boxes[thing]
    print(f"{query:5} found x = {place[0]:.0f}, y = {place[1]:.0f};  the {CLASSES[labels[thing]]} "
          f"is centred at x = {left + width / 2:.0f}, y = {top + height / 2:.0f}")

# %%
figure, (left, middle, right) = plots.canvas(3, height=2.8)
corners = [[x, y, x + w, y + h] for x, y, w, h in boxes]
plots.scene(picture, corners, [CLASSES[label] for label in labels], title="the picture", axes=left)
for axes, colour, weights, place in zip((middle, right), ("blue", "green"), maps, found):
    plots.attention_map(picture, weights.reshape(16, 16), title=f"where {colour} looks", axes=axes)
    axes.plot(*place, "+", color="white", markersize=14, markeredgewidth=2)
show(figure, alt="""Left: a scene with boxes around a blue car, a green tree and a grey cat.
     Middle: the blue query's attention glows on the car alone, a cross marks its middle.
     Right: the green query's attention glows on the tree.""")
inside = [((spots > torch.tensor(box[:2])) & (spots < torch.tensor(box[2:]))).all(dim=1) for box in corners]  # (256,)
assert maps[0, inside[0]].sum() > 0.75 and maps[1, inside[1]].sum() > 0.75  # most of it on the car, on the tree

# %% [markdown]
# Stop here for a moment. A question went in, *where is blue?*, and a place came out, within a few pixels of the car's
# centre. No search, no sliding window: one softmax and one average. This is the heart of DETR's decoder. DETR's
# queries are not written by hand, though. They have to be learned.
#
# ### Where learning starts
#
# What does a query find that knows nothing yet?

# %%
maps, found = attention(torch.zeros(1, 3), keys_of_picture, spots)
print("every weight is 1/256:", torch.allclose(maps, torch.tensor(1 / 256)))
print("it finds x, y =", found[0].tolist())

# %% [markdown]
# Everything alike, so the answer is the middle of the picture. Now a real DETR, small, freshly built, only its backbone
# trained. We record how its queries look at the picture, which notebook 02 calls *cross-attention*, and measure how
# even that is: 1 means perfectly even, 0 means one place only. (The measure is entropy; notebook 10 explains it.) It
# begins with random weights, so we build it three times.

# %%
image = torch.tensor(picture).permute(2, 0, 1)[None] / 255  # (1, 3, 128, 128)
name = "decoder.layers.0.cross_attention"
for seed in range(3):
    torch.manual_seed(seed)
    model = dm.build("detr").eval()
    with dm.AttentionTrace(model) as trace, torch.no_grad():
        model(image, torch.zeros(1, 128, 128, dtype=torch.bool))
    keys_seen = trace[name].weights.shape[-1]
    evenness = trace.entropy(name).mean() / math.log(keys_seen)
    print(f"seed {seed}: places {keys_seen}, evenness {evenness:.3f}")
    assert evenness > 0.95

# %% [markdown]
# Almost perfectly even, three times: an untrained DETR looks everywhere at once. Put that beside section 7: *what is
# hardly looked at hardly learns*. With even attention over many places, each place gets a small lesson. It is our first
# clue to the question of this course, **why did DETR need 500 epochs?** A clue is not a proof: a good optimizer can
# make up for small lessons. Notebook 10 measures it.
#
# ## 11. Explore
#
# Move the sliders, with the mouse or with Tab and the arrow keys. Find out:
#
# 1. Where must the query point so that Depot wins?
# 2. Scores are also divided by a *temperature*. What does one of 4 do? And 0.25? Which of them is like a longer query?
# 3. Can you make Bridge win, clearly and alone?

# %%
AttentionByHand(names, keys, rents, axes=("quiet", "central"), value="rent, in hundreds a month")

# %% [markdown]
# ## 12. Exercises
#
# Fill in a cell, run it, then run the check below it. The check tells you what is wrong. For a hint, run
# `dm.hint("01.mask")` with the exercise's name in a new cell; run it again for the second one.
#
# ### With pencil and paper (`01.by_hand`)
#
# *Warm-up, 5 minutes.* The query is (2, 1, 0, 1). There are two keys, (1, 0, 3, 0) and (1, 2, 0, 0), with the values
# 10 and 20. What is the answer of attention, with scaling? A calculator is allowed for the exponentials.

# %% tags=["exercise"]
my_answer = None  # your number; two decimals will do

# %% tags=["solution"]
score_1, score_2 = 2 / 2, 4 / 2  # dot products 2 and 4, divided by √4
weight_2 = math.exp(score_2) / (math.exp(score_1) + math.exp(score_2))  # 0.73
my_answer = (1 - weight_2) * 10 + weight_2 * 20

# %%
check("01.by_hand", my_answer)

# %% [markdown]
# ### Write the query (`01.query`)
#
# *Core, 10 minutes.* The four flats again, with scaling. Write three queries, one per row: one that likes all flats
# alike, one that gives Centre at least 0.9, and one that gives Depot at least 0.9. The explorer helps.

# %% tags=["exercise"]
my_queries = None  # torch.tensor([[..., ...], [..., ...], [..., ...]])

# %% tags=["solution"]
my_queries = torch.tensor([
    [0.0, 0.0],  # no wish: all keys score 0
    [-3.0, 3.0],  # central, and away from quiet, where Attic and Bridge are
    [-2.0, -2.0],  # the direction in which only Depot lies
])

# %%
check("01.query", my_queries)

# %% [markdown]
# ### Hide the padding (`01.mask`)
#
# *Core, 12 minutes.* Write attention for a batch, in which some keys of each picture are padding. You may use
# everything but the package's own attention. (Some code adds -1e9 to a score instead of minus infinity. That passes,
# too; the check's answer says in which case the two differ.)

# %% tags=["exercise"]
def attend(query, key, value, hidden):
    """Attention that never looks at hidden keys.

    query (B, Q, d), key (B, K, d), value (B, K, n), hidden (B, K) True where a key is padding -> (B, Q, n)
    """
    return None  # your lines

# %% tags=["solution"]
def attend(query, key, value, hidden):
    """Attention that never looks at hidden keys.

    query (B, Q, d), key (B, K, d), value (B, K, n), hidden (B, K) True where a key is padding -> (B, Q, n)
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (B, Q, K)
    scores = scores.masked_fill(hidden[:, None, :], -math.inf)  # (B, 1, K): the same for all queries
    return scores.softmax(dim=-1) @ value  # (B, Q, n)

# %%
check("01.mask", attend)

# %% [markdown]
# ### What a score learns (`01.gradient`)
#
# *Stretch, 20 minutes.* The average is a = Σ wᵢ vᵢ with w = softmax(s). How does a change when one score sᵢ changes?
# Find a formula for all of them, with pencil and paper, and write it down without `backward` or anything else of
# `torch.autograd`.

# %% tags=["exercise"]
def score_gradient(scores, values):
    """scores (K,), values (K,) -> (K,): the slope of the weighted average in each score."""
    return None  # your lines

# %% tags=["solution"]
def score_gradient(scores, values):
    """scores (K,), values (K,) -> (K,): the slope of the weighted average in each score."""
    weights = scores.softmax(dim=0)  # (K,)
    average = weights @ values
    return weights * (values - average)  # a key pulls by its weight, towards its own value

# %%
check("01.gradient", score_gradient)

# %% [markdown]
# ## 13. Limits
#
# - **Attention has no idea of order or place.** We had to give it places as values. Notebook 03 gives them to the keys.
# - **A weight is no explanation.** It says what was mixed, not why the network wanted it.
# - **It costs queries times keys.** For all places of a picture asking each other, that grows with the square of their
#   number.
# - Papers write Q, K, V for the whole matrices and d_k for the width d. Bahdanau et al. (2015), who brought attention
#   into translation, scored with a small network instead of a dot product.
#
# ## Recap
#
# - **Score** each key against the query with a dot product, and divide by √d.
# - **Weigh** with a softmax: positive, adding up to 1, decided by the gaps.
# - **Average** the values with these weights.
# - A longer query asks more sharply. A zero query takes everything alike.
# - Hide a key with minus infinity, before the softmax.
# - Gradients reach query, keys and values. A place that is hardly looked at hardly learns.

# %%
quiz("01")

# %% [markdown]
# **Next:** [02, self- and cross-attention](02_self_and_cross_attention.ipynb): where queries, keys and values come from.
#
# **References**
#
# - A. Vaswani et al., *Attention Is All You Need*, 2017. Equation 1; section 3.2.1 argues for √d.
# - D. Bahdanau, K. Cho, Y. Bengio, *Neural Machine Translation by Jointly Learning to Align and Translate*, 2015.
# - N. Carion et al., *End-to-End Object Detection with Transformers*, 2020: DETR.
