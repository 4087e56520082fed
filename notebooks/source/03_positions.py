# %% [markdown]
# # 03 · Positions
#
# **Why does a set need addresses?**
#
# *About 85 minutes with the exercises; the cells themselves run in about a minute, without a GPU.*
# *You need notebooks 01 and 02.*
#
# After this notebook you can
#
# - show that attention does not know where anything is;
# - build sine addresses from clock hands, and say why sines come in pairs with cosines;
# - say what such addresses are good for, by a test that random addresses fail;
# - write DETR's 2-D code, number by number, and say what its temperature does;
# - say where DETR adds its addresses, and what a measurement says of adding them elsewhere.

# %%
import detr_mini as dm
from detr_mini.course.notebook import check, plots, predict, quiz, reveal, show, where_we_are
from detr_mini.course.position_explorer import PositionExplorer

dm.setup(seed=0)
where_we_are("positions")

# %% [markdown]
# ## Where we are
#
# Tokens and their positions are lit. In the drawing, the positions are an extra that is added to the tokens from below.
# This notebook takes them away first, and looks at what is left.
#
# ## 1. Shuffle, and see nothing change
#
# Take a scene, cut it into 8 x 8 places, and shuffle the places like cards. To us it is another picture.

# %%
import math

import torch
from detr_mini.data.scenes import draw_scene

torch.set_num_threads(1)  # all here is small: a second thread would only wait for the first
picture = torch.tensor(draw_scene(seed=0, index=12)[0])  # (128, 128, 3)
cards = picture.reshape(8, 16, 8, 16, 3).transpose(1, 2).flatten(0, 1)  # (64, 16, 16, 3)
order = torch.randperm(64)

shuffled = cards[order].reshape(8, 8, 16, 16, 3).transpose(1, 2).reshape(128, 128, 3)
figure, (left, right) = plots.canvas(2, height=2.8)
plots.scene(picture.numpy(), title="64 places", axes=left)
plots.scene(shuffled.numpy(), title="the same 64 places, shuffled", axes=right)
show(figure, alt="""Left: a scene with a car, a tree and a cat. Right: its 64 square pieces in random order;
     here and there an ear or a wheel.""")
assert torch.equal(shuffled.flatten().sort().values, picture.flatten().sort().values)  # nothing is added, nothing lost

# %% [markdown]
# And to an encoder? We take the package's, with all addresses set to **zero**. It has two layers of self-attention,
# each followed by a small network that treats every token alone (notebook 05). It is not trained, so that it has no
# reason to be kind. Each place is a token of 128 numbers. What comes out is called the **memory**.

# %%
from detr_mini import zoo
from detr_mini.encoder import Encoder
from detr_mini.positions import Grid

recipe = zoo.recipe("detr", "scenes").model
encoder = Encoder(recipe).eval()
d = recipe.d_model

def encode(tokens, position):
    """tokens (64, d), position (64, d) -> memory (64, d)."""
    grid = Grid(position[None], torch.zeros(1, 64, dtype=torch.bool), [(8, 8)])  # nothing is padding
    with torch.no_grad():
        return encoder(tokens[None], grid)[0]

tokens = cards.float().flatten(1)[:, :: 768 // d][:, :d] / 255  # (64, d): some of each place's pixels
print("tokens", tuple(tokens.shape), " memory", tuple(encode(tokens, torch.zeros(64, d)).shape))

# %%
predict("03.shuffle", "Shuffle the 64 tokens. What happens to the 64 vectors that come out?",
        "all of them change: it is another picture", "they are the same vectors, in the shuffled order",
        "they stay where they are")

# %%
nowhere = torch.zeros(64, d)
memory = encode(tokens, nowhere)  # (64, d)
memory_of_shuffled = encode(tokens[order], nowhere)  # (64, d)

print("stays where it is:         ", torch.allclose(memory_of_shuffled, memory, atol=1e-4))
print("the same, shuffled:        ", torch.allclose(memory_of_shuffled, memory[order], atol=1e-4))
same = torch.allclose(memory_of_shuffled, memory[order], atol=1e-4)
reveal("03.shuffle", "b" if same else "a", "A score compares two tokens. It never asks where they are.")

# %% [markdown]
# Every place comes out with exactly the numbers that it had before. The cat's ear does not know that it has lost the
# cat. (One says: self-attention is *permutation equivariant*.)
#
# For cross-attention it is stricter still. A query's answer is a sum over keys, and a sum has no order:

# %%
from detr_mini.attention import attention_weights

query = torch.randn(3, d)  # three questions to the memory
answers = attention_weights(query, memory) @ memory  # (3, d)
of_shuffled = attention_weights(query, memory[order]) @ memory[order]  # (3, d)
print("three answers, unchanged by the shuffle:", torch.allclose(answers, of_shuffled, atol=1e-5))

# %% [markdown]
# So whoever asks *where is the car?* cannot be told. To attention, a picture is a **bag** of places.
#
# ## 2. A task that needs addresses
#
# Eight lamps stand in a row, each with a brightness between -1 and 1. Every lamp must report the brightness of the lamp
# to its **left**. (Lamp 0 looks at lamp 7: the row is a ring.) A child can do that. Can one layer of attention do it?

# %%
def learn(addresses, steps=150, seed=0, asked=slice(None)):
    """Train one attention layer on N lamps, of which those `asked` count. (N, d) -> errors (N,), weights (N, N)."""
    torch.manual_seed(seed)
    N, d = addresses.shape
    layers = torch.nn.ModuleList(torch.nn.Linear(*size).double() for size in [(1, d), *[(d, d)] * 3, (d, 1)])
    embed, W_q, W_k, W_v, read = layers
    learned = [addresses] if addresses.requires_grad else []
    optimizer = torch.optim.Adam([*layers.parameters(), *learned], lr=0.02)
    for _ in range(steps):
        lamps = 2 * torch.rand(64, N, 1).double() - 1  # (64, N, 1)
        x = embed(lamps)  # (64, N, d)
        weights = attention_weights(W_q(x + addresses), W_k(x + addresses))  # (64, N, N)
        errors = ((read(weights @ W_v(x)) - lamps.roll(1, dims=1)) ** 2).mean(dim=(0, 2))  # (N,)
        optimizer.zero_grad(), errors[asked].mean().backward(), optimizer.step()
    return errors.detach(), weights[0].detach()

# %%
predict("03.lamps", "No addresses. Which error will it reach? (Always saying 0 gives 0.33.)",
        "about 0: the task is easy", "about 0.29: hardly better than saying 0")

# %%
errors, weights_without = learn(torch.zeros(8, 16).double())
error_without = errors.mean().item()
print(f"error {error_without:.2f}")
print(f"the mean of the seven others, as a guess: {1 / 3 * (1 - 1 / 7):.2f}")
reveal("03.lamps", "a" if error_without < 0.1 else "b",
       "All places look alike from here. The best guess is an average.")

# %% [markdown]
# It does not fail for lack of training. A lamp cannot say *left*, since nothing that it sees depends on left. The best
# it can do is to guess the average of the others, and that is what it does.
#
# Now give each lamp an **address**, a vector of its own that is added to its token before it asks and is asked. For the
# moment, any eight different vectors will do: random ones.

# %%
def random_code(N, seed, width=16):
    """N addresses without any order, (N, width)."""
    return torch.randn(N, width, generator=torch.Generator().manual_seed(seed)).double()

errors, weights_with = learn(random_code(8, seed=1))
to_the_left = (weights_with.argmax(dim=-1) == torch.arange(8).roll(1)).sum()
print(f"error {errors.mean():.4f}; {to_the_left} of 8 lamps look most at their left neighbour")
assert errors.mean() < 0.001 and to_the_left == 8

# %%
figure, (left, right) = plots.canvas(2, height=3.2)
for place, weights, title in zip((left, right), (weights_without, weights_with), ("no", "random")):
    place.imshow(weights, cmap=plots.AMOUNT, vmin=0, vmax=1)
    place.set(title=f"{title} addresses", xlabel="is asked: lamp",
              ylabel="asks: lamp", xticks=range(8), yticks=range(8))
show(figure, alt="""Two attention maps of eight lamps. Without addresses: pale, all lamps look at all. With
     random addresses: a dark stripe just below the diagonal, and one dark cell in the upper right corner.""")
stripe = weights_with[torch.arange(8), torch.arange(8) - 1]  # (8,) from each lamp to its left neighbour
assert weights_without.max() < 0.3 and stripe.min() > 0.8  # pale everywhere; dark on the stripe

# %% [markdown]
# The stripe is the answer, drawn: lamp 3 looks at 2, lamp 2 at 1, and lamp 0 at 7. So an address need only be
# *different* for each place, and random addresses do the job. Are we done, then?
#
# One thing is odd about them. They do not say that 3 is near 4. So what a network learns about lamp 3 need not tell it
# anything about lamp 4, and in a picture there are thousands of places. Can we find addresses in which *near* is built
# in? And if so, is that of any use? Section 4 puts it to a test that random addresses cannot pass.
#
# ## 3. The smallest address: a number
#
# The obvious one: lamp 0 gets 0, lamp 1 gets 1, and so on. Attention compares by dot product. Predict what that
# makes of numbers.

# %%
predict("03.number", "Address = number of the place. To which place is place 2 most similar, by dot product?",
        "itself, place 2", "its neighbours, 1 and 3", "the last one, place 7")

# %%
number = torch.arange(8.0)  # (8,)
similar = number[2] * number  # (8,)
print("place 2 with 0 ... 7:", similar.tolist())
reveal("03.number", {2: "a", 1: "b", 3: "b", 7: "c"}[similar.argmax().item()],
       "A larger number is larger with everybody.")

as_numbers, _ = learn(number[:, None].expand(8, 16).double())
print(f"the lamps with these addresses: error {as_numbers.mean():.2f}")

# %% [markdown]
# Numbers grow, and dot products reward what is large. We need an address that does *not* grow, in which the place only
# **turns** something. A clock hand! Its tip is at (sin, cos) of an angle, and it always has length 1.

# %%
speed = 0.5  # radians per place
hands = torch.stack([(speed * number).sin(), (speed * number).cos()], dim=-1)  # (8, 2)
for n in range(4):
    print(f"place {n}: angle {speed * n:.1f}  sin {hands[n, 0]:.3f}  cos {hands[n, 1]:.3f}")
print("place 2 with 0 ... 7:", (hands[2] @ hands.T).numpy())

# %% [markdown]
# Now place 2 is most similar to itself, then to its neighbours, and equally to both. Look closer: what do 1 and 3, or
# 0 and 4, have in common? Their **distance** from 2. It is an identity that you learned in school:
#
# > sin a sin b + cos a cos b = cos(a − b)
#
# This is why sines come with cosines. The sine alone would not do: sin a sin b depends on a and b, not only on their
# distance. Both, for all pairs:

# %%
both = hands @ hands.T  # (8, 8)
sines_only = torch.outer(hands[:, 0], hands[:, 0])  # (8, 8)
distance = number[:, None] - number  # (8, 8)

print("dot product = cos(speed x distance):", torch.allclose(both, (speed * distance).cos(), atol=1e-6))
print("place 0 with 1, 3 with 4, 6 with 7")
for name, dots in [("both", both), ("sines only", sines_only)]:
    print(f"{name:10}", [round(dots[n, n + 1].item(), 3) for n in (0, 3, 6)])

# %% [markdown]
# ## 4. Several clocks
#
# One hand is not enough. A fast one comes round: places a full turn apart get the same address. A slow one hardly
# moves: neighbours can hardly be told apart. Clocks solve that with several hands. So do we: each next hand is slower
# by a fixed factor.
#
# Vaswani et al. (2017) let the hands' wavelengths grow from 2π to 2π · 10,000. The 10,000 is called the **temperature**
# in DETR's code. (Notebook 01's temperature was something else.) For width 4 there are two hands; with temperature 100
# they turn by 1 and by 1/10.

# %%
def sine_code(n, width, temperature):
    """n (N,) -> (N, width): sin, cos of the first hand, sin, cos of the second, ..."""
    hand = torch.arange(width // 2)  # 0, 1, 2, ...
    speed = 1 / temperature ** (2 * hand / width)  # (width/2,): 1, then slower and slower
    angle = n[:, None] * speed  # (N, width/2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)  # (N, width)

small = sine_code(number, width=4, temperature=100)  # (8, 4)
for n in range(4):
    print(f"place {n}:", small[n].numpy())

# %% [markdown]
# With a pencil: place 1 is sin 1 = 0.841, cos 1 = 0.540, then sin 0.1 = 0.100, cos 0.1 = 0.995. The fast hand separates
# neighbours, the slow one says which part of the row this is. The dot product is now a sum of cosines, one per hand. So
# it still depends on the distance alone:

# %%
code = sine_code(torch.arange(50.0), width=32, temperature=10000)  # (50, 32)
alike = code @ code.T / 16  # (50, 50): 16 hands, so 1 is the most
print("the same for every pair of places 5 apart:", torch.allclose(alike.diagonal(5), alike[0, 5], atol=1e-5))

figure, (left, right) = plots.canvas(2, height=2.9)
left.imshow(code.T, cmap=plots.SIGNED, vmin=-1, vmax=1, aspect="auto")
left.set(title="addresses, a column per place", xlabel="place", ylabel="number of the code")
right.plot(alike[10], color=plots.BLUE)
right.axvline(10, color=plots.SKY, linewidth=4, alpha=0.5)
right.set(title="similarity to place 10", xlabel="place", ylabel="dot product / 16", ylim=(0, 1.05))
show(figure, alt="""Left: the codes of 50 places as coloured columns; waves are short at the top and so long
     at the bottom that nothing changes. Right: similarity to place 10 peaks there and falls off on both
     sides, with small bumps, alike at the same distance.""")
assert alike[10].argmax() == 10 and torch.allclose(alike[10, :10], alike[10, 11:21].flip(0), atol=1e-5)  # a mirror

# %% [markdown]
# Left, read from top to bottom: quick hands, then slower ones, then hands that stand still for 50 places. Right: a peak
# at home, and the same bumps at the same distance on both sides.
#
# ### How to ask for the left neighbour
#
# With random addresses, W_q has to learn for each lamp which vector its neighbour's is. With clock hands there is a
# rule: to go one place on, **turn each hand by its speed**. Turning is a matrix, and it is the same for every place.

# %%
def turn(width, temperature, steps):
    """The matrix R (width, width) with R code(n) = code(n + steps), for all n."""
    R = torch.zeros(width, width)
    for hand in range(width // 2):
        angle = torch.tensor(steps / temperature ** (2 * hand / width))
        sin, cos, at = angle.sin(), angle.cos(), 2 * hand
        R[at: at + 2, at: at + 2] = torch.tensor([[cos, sin], [-sin, cos]])
    return R

R = turn(32, 10000, steps=-1)  # one place to the left
print("R code(n) = code(n - 1) for every n:", torch.allclose(code[1:] @ R.T, code[:-1], atol=1e-5))
print("with W_q = R, place 20 likes best: place", (R @ code[20] @ code.T).argmax().item())

# %% [markdown]
# So with sine addresses *look to your left* **can** be written as one small rule, good for all places at once. That is
# a fact about the addresses. Whether a network that is trained finds the rule, and what it gains by it, is another
# question, and it can be measured.
#
# ### Is it quicker to learn?
#
# The eight lamps again, 50 steps, five seeds.

# %%
predict("03.fifty", "After 50 steps, which addresses have the smaller error?",
        "sine codes: they have one rule to learn instead of eight pairs", "random ones", "no difference that five seeds show")

# %%
eight_sines = sine_code(number.double(), 16, 10000)  # (8, 16)
after_50 = {"random": [learn(random_code(8, seed), 50, seed)[0].mean().item() for seed in range(5)],
            "sine": [learn(eight_sines, 50, seed)[0].mean().item() for seed in range(5)]}
for name, those in after_50.items():
    print(f"{name:6} error after 50 steps, five seeds: {[round(one, 4) for one in those]}")

apart = [max(after_50["sine"]) < min(after_50["random"]), max(after_50["random"]) < min(after_50["sine"])]
reveal("03.fifty", "a" if apart[0] else "b" if apart[1] else "c",
       "Neighbours' sine codes are alike, and that may be why: it is harder to point at one and not at the next.")
assert apart == [False, True]

# %% [markdown]
# Random addresses are quicker here, by far. If quick learning of known places were all we wanted, we should take random
# addresses.
#
# ### What nobody taught
#
# Now 32 lamps. Five of them, here and there, are never asked during training: their errors do not count. (The others do
# look *at* them. And now it is a row and no ring, so lamp 0 has no left neighbour and is not asked, either.) After 300
# steps we ask the five. Three seeds each.

# %%
row = torch.arange(32).double()
five = [3, 9, 16, 22, 28]

def taught_and_not(code, left_out=five, seeds=3):
    """Errors after 300 steps of the lamps that were asked, and of those left out: [seeds], [seeds]."""
    taught = [n for n in range(1, 32) if n not in left_out]
    runs = [learn(code(seed), 300, seed, taught)[0] for seed in range(seeds)]  # [(32,)] * seeds
    return [[errors[some].mean().item() for errors in runs] for some in (taught, left_out)]

def report(name, code, **how):
    """Run it, print both errors as lowest to highest of the seeds, and return them."""
    taught, untaught = taught_and_not(code, **how)
    print(f"{name:23} taught {min(taught):.4f} to {max(taught):.4f}   left out {min(untaught):.4f} to {max(untaught):.4f}")
    return taught, untaught

# %%
predict("03.untaught", "Random addresses. The error on the five lamps that were never asked? (Always saying 0: 0.33.)",
        "about 0: the others have shown how", "about 0.33: as good as saying 0", "about 0.5: worse than saying 0")

# %%
found = {"random": report("random", lambda seed: random_code(32, seed)),
         "sine": report("sine", lambda seed: sine_code(row, 16, 10000))}
mean = sum(found["random"][1]) / 3
reveal("03.untaught", "a" if mean < 0.1 else "b" if mean < 0.4 else "c",
       "It looks somewhere, firmly, and reports the brightness of some other lamp.")
assert min(found["random"][1]) > 0.4 and max(found["sine"][1]) < 0.002

# %% [markdown]
# *This* is what sine codes buy: **generalisation**. With sine codes, the lamps that nobody taught do it as well as
# the others. With random addresses, 26 lamps have learned their neighbours by heart, and that says nothing about
# the other five.
#
# ### Is it the turn?
#
# A tempting story: *the network has found the turn R.* But two things are special about sine codes. A single matrix
# leads from every place to its neighbour (**one turn**), and neighbours have similar codes (**near is alike**). So we
# take away one of the two at a time. *Fast clocks*: all hands turn by one to three radians per place. There still is an
# exact turn, but neighbours are not alike. *Winding path*: random vectors of eight numbers, blurred along the row.
# Neighbours are alike, but the path bends so much that no single matrix follows it.

# %%
import torch.nn.functional as F

def fast_clocks(seed):
    """Eight hands that turn by 1 to 3 radians per place, (32, 16)."""
    angle = row[:, None] * torch.linspace(1, 3, 8).double()  # (32, 8)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)

def winding_path(seed, numbers=8, blur=2.0):
    """Random vectors, blurred along the row; the rest of the 16 numbers is 0: (32, 16)."""
    near = torch.exp(-((row[:, None] - row) / blur) ** 2)  # (32, 32)
    path = near @ random_code(32, seed, numbers)  # (32, numbers)
    return F.pad(path / path.norm(dim=1, keepdim=True) * math.sqrt(8), (0, 16 - numbers))

def misfit(code):
    """What the best single matrix leaves over on the way from each code to its left neighbour's, 0 to 1."""
    here, left = torch.cat([code[1:], torch.ones(31, 1).double()], dim=1), code[:-1]  # (31, 17), (31, 16)
    rest = here @ (torch.linalg.pinv(here, rtol=1e-9) @ left) - left  # (31, 16)
    return (rest.norm() / (left - left.mean(dim=0)).norm()).item()

# %%
for name, some in [("random", random_code(32, 0)), ("fast clocks", fast_clocks(0)),
                   ("winding path", winding_path(0)), ("sine", sine_code(row, 16, 10000))]:
    near = torch.cosine_similarity(some[1:], some[:-1], dim=-1).mean()
    print(f"{name:13} neighbours are alike by {near:5.2f}; the best single matrix misses by {misfit(some):.2f}")
found["fast clocks"] = report("fast clocks", fast_clocks)
found["winding path"] = report("winding path", winding_path)

# %%
figure, axes = plots.canvas(1, height=2.6)
kinds = ["random", "fast clocks", "winding path", "sine"]
for which, colour, name in [(0, plots.BLUE, "taught"), (1, plots.VERMILLION, "left out")]:
    points = [(error, height - 0.2 * which) for height, kind in enumerate(kinds) for error in found[kind][which]]
    axes.plot(*zip(*points), "os"[which], color=colour, label=name)
axes.set(xscale="log", xlabel="error, one mark per seed", yticks=range(4), yticklabels=kinds)
axes.axvline(1 / 3, color=plots.GREY, linestyle="--", label="always saying 0")
axes.legend(loc="upper left")
show(figure, alt="""Errors on a logarithmic axis, four kinds of addresses, three seeds. Left out: random about 0.5,
     fast clocks 0.15 to 0.18, winding path 0.05 to 0.26, sine below 0.001, as small as for the lamps
     that were taught. Taught: below 0.01 for all.""")
assert min(found["fast clocks"][1] + found["winding path"][1]) > 30 * max(found["sine"][1])
assert max(error for taught, _ in found.values() for error in taught) < 0.01

# %% [markdown]
# With all four, the lamps that were taught learned their task. But on the others each property alone leaves more than
# thirty times the error of sine codes, so here it takes both. (Sines are not the only way to have both. A path that
# winds less, such as `winding_path(seed, numbers=16, blur=3.0)`, which a single matrix follows nearly, comes close to
# them. Try it.)
#
# And has the network found the turn? Then it would not matter *which* lamps were left out. Leave out eight in a row:

# %%
_, gap = taught_and_not(lambda seed: sine_code(row, 16, 10000), left_out=list(range(12, 20)), seeds=6)
print("sine, eight in a row left out, six seeds:", [round(error, 3) for error in sorted(gap)])
assert sorted(gap)[1] > 0.05 and min(gap) > 10 * max(found["sine"][1])  # five of six fail

# %% [markdown]
# The rule was there to be had, and it would have served these eight, too. But in five of six trainings the wide gap is
# too wide; one comes near. So what this layer learns, first of all, is to **fill small gaps between places that it
# knows**. For pictures that is worth a lot, because what was learned of a car in one place helps one cell further on.
# It is no licence for places far from everything that training has shown.
#
# ## 5. The package has it
#
# `detr_mini.positions.sine` is our `sine_code`, with one factor more: it multiplies by 2π, because DETR first scales
# all coordinates to run from 0 to 1. We divide by it, and compare.

# %%
from detr_mini.positions import LearnedGrid, SineGrid, grid_coordinates, sine

theirs = sine(torch.arange(50.0)[:, None] / (2 * math.pi), width=32, temperature=10000)  # (50, 32)
print("notebook and package agree:", torch.allclose(code, theirs, atol=1e-4))

# %% [markdown]
# ## 6. Two dimensions, as in DETR
#
# A place in a picture has a row and a column. DETR gives half of the numbers to y and half to x. Three details make its
# code what it is. The first: coordinates are **counted over the picture and not over the padding**, then divided by
# the last count, so that the last cell is at 1.

# %%
predict("03.padding", "The second picture of a batch fills only the left half of its padded 4 x 4 map. "
        "What is x in the last column of its picture, column 1?", "0.25", "0.5", "1")

# %%
padding = torch.zeros(2, 4, 4, dtype=torch.bool)
padding[1, :, 2:] = True  # the second picture is narrower

valid = (~padding).float()  # (2, 4, 4): 1 in the picture, 0 in the padding
y, x = valid.cumsum(dim=1), valid.cumsum(dim=2)  # counts: 1, 2, 3, ...
y, x = y / (y[:, -1:] + 1e-6), x / (x[:, :, -1:] + 1e-6)  # (2, 4, 4) each: fractions of the picture

print("x, first picture, a row: ", x[0, 0].numpy())
print("x, second picture, a row:", x[1, 0].numpy(), "(columns 2 and 3 are padding)")
print("package agrees:", torch.equal(grid_coordinates(padding), torch.stack([y, x], dim=-1)))
reveal("03.padding", "abc"[(torch.tensor([0.25, 0.5, 1.0]) - x[1, 0, 1]).abs().argmin()],
       "Each picture is as wide as itself: its right edge is at 1, however much padding follows.")

# %% [markdown]
# The second detail: times **2π**. The fastest hand goes round once over the whole picture. The third: **y first**, then
# x. Together:

# %%
def detr_code(padding, width, temperature=10000):
    """padding (B, H, W) -> addresses (B, H, W, width): half for y, half for x."""
    valid = (~padding).float()
    y, x = valid.cumsum(dim=1), valid.cumsum(dim=2)  # (B, H, W)
    y, x = y / (y[:, -1:] + 1e-6), x / (x[:, :, -1:] + 1e-6)
    halves = [sine_code(2 * math.pi * one.flatten(), width // 2, temperature) for one in (y, x)]
    return torch.cat(halves, dim=-1).unflatten(0, padding.shape)

by_hand = detr_code(padding, 256)
print("addresses", tuple(by_hand.shape))
print("SineGrid agrees:", torch.allclose(by_hand, SineGrid(256)(padding), atol=1e-5))

# %% [markdown]
# ## 7. What the temperature does
#
# Look at the fastest hand again: one turn per picture, and all the others are slower. With temperature 10,000, which
# was chosen for sentences of counted words, most hands hardly move while x runs from 0 to 1. How many?

# %%
predict("03.still", "DETR's 128 numbers for x: how many change by less than 0.1 across the whole picture?",
        "none", "about a quarter", "more than half")

# %%
across = torch.linspace(0, 1, 25)[:, None]  # 25 columns
for temperature in [10000, 100, 20]:
    numbers = sine(across, 128, temperature)  # (25, 128)
    still = ((numbers.amax(dim=0) - numbers.amin(dim=0)) < 0.1).sum().item()
    print(f"temperature {temperature:6}: {still:3} of 128 numbers change by less than 0.1")

of_detr = sine(across, 128, 10000)  # (25, 128)
still = ((of_detr.amax(dim=0) - of_detr.amin(dim=0)) < 0.1).float().mean()
reveal("03.still", "c" if still > 0.5 else "b" if still > 0.1 else "a",
       "These hands would need many pictures for a single turn.")

# %%
figure, axes = plots.canvas(4, height=2.3)
maps = {}
for place, (side, temperature) in zip(axes, [(8, 10000), (8, 20), (25, 10000), (25, 20)]):
    grid = SineGrid(256, temperature)(torch.zeros(1, side, side, dtype=torch.bool))[0]  # (side, side, 256)
    maps[side, temperature] = grid @ grid[side // 4, side // 2] / 128  # (side, side), 1 is the most
    place.imshow(maps[side, temperature], cmap=plots.AMOUNT, vmin=0, vmax=1)
    place.plot(side // 2, side // 4, "s", color=plots.SKY, markersize=5, fillstyle="none", markeredgewidth=2)
    place.set(title=f"{side} x {side}, T = {temperature}", xticks=[], yticks=[])
show(figure, alt="""Similarity of one cell to all others on four maps. Temperature 10,000: dark everywhere,
     on an 8 x 8 and on a 25 x 25 map. Temperature 20: dark around the cell, and clearly paler far away, on
     both maps.""")

# %%
for (side, temperature), alike in maps.items():
    print(f"{side:2} x {side:2}, T = {temperature:5}: least similarity {alike.min():.2f}, "
          f"neighbour {alike[side // 4, side // 2 + 1]:.3f}, above 0.9: {(alike > 0.9).float().mean():.0%}")

# %% [markdown]
# Dark means alike in these maps. With T = 10,000, the farthest corner still resembles the cell by three quarters. With
# T = 20 the address is sharper. Neither is *wrong*, because W_q and W_k can stretch what they are given. But what has
# to be stretched has to be learned first. The lamps of section 4 can judge both, with coordinates as DETR has them,
# from 0 to 1 over the row: after 50 steps with 8 lamps, and after 300 steps with 32 lamps, five of them left out.

# %%
def detr_row(N, temperature):
    """Codes of N lamps at 1/N, 2/N ... 1, (N, 16)."""
    return sine(torch.arange(1, N + 1).double()[:, None] / N, 16, temperature)

quick, far = {}, {}
for T in (10000, 20):
    quick[T] = [learn(detr_row(8, T), 50, seed)[0].mean().item() for seed in range(5)]
    print(f"T = {T:5}, 8 lamps, 50 steps: {min(quick[T]):.3f} to {max(quick[T]):.3f} (five seeds)")
    far[T] = report(f"T = {T:5}, 32 lamps:", lambda seed, T=T: detr_row(32, T))
assert max(quick[20]) < 0.6 * min(quick[10000]) and max(far[20][0]) > min(far[10000][0])  # clear; not clear
assert all(abs(a - b) < 0.02 for T in far for a, b in zip(*far[T]))  # left out or not, it is the same

# %% [markdown]
# Both temperatures generalise: the lamps that were left out are as good as the others. Is one of them learned faster?
# With 8 lamps, T = 20 is, here: it has about a third of the error after 50 steps, and the bands do not touch. With 32
# lamps the bands of three seeds overlap, so the lamps leave that open. (Both are far slower than the codes of section
# 4, whose fastest hand turns by 1 radian per lamp. Here, as in DETR, it turns once over the whole row, so neighbours
# are hard to tell apart.) DAB-DETR later chose 20 (notebook 14). DETR itself has 10,000.
#
# ## 8. Learned addresses
#
# Or do not design anything: let each row and each column have a vector of its own, and learn them like all other
# weights. DETR's code offers that, too.

# %%
learned = LearnedGrid(256)
empty = torch.zeros(1, 8, 8, dtype=torch.bool)
print("addresses", tuple(learned(empty).shape))
print("numbers to be learned:", sum(p.numel() for p in learned.parameters()))

try:
    learned(torch.zeros(1, 60, 60, dtype=torch.bool))
except ValueError as error:
    print("ValueError:", error)

def free_code(seed):
    """Addresses that are learned, (32, 16); they start anywhere."""
    return random_code(32, seed).requires_grad_()

freely = report("learned", free_code)
assert max(freely[0]) < 0.001 and min(freely[1]) > 0.4

# %%
torch.manual_seed(0)
kinds = {"sine, T = 10000": SineGrid(256), "sine, T = 20": SineGrid(256, 20),
         "learned, at the start": LearnedGrid(256)}
figure, axes = plots.canvas(3, height=3.0)
for place, (name, kind) in zip(axes, kinds.items()):
    with torch.no_grad():
        grid = kind(torch.zeros(1, 16, 16, dtype=torch.bool))[0]  # (16, 16, 256)
    alike = torch.cosine_similarity(grid, grid[5, 8], dim=-1)  # (16, 16)
    place.imshow(alike, cmap=plots.AMOUNT, vmin=0, vmax=1)
    place.set(title=name, xticks=[], yticks=[])
rest = alike[torch.arange(16) != 5][:, torch.arange(16) != 8]  # (15, 15) all other rows and columns
print("learned, at the start: all cells off its row and column are about equally similar:",
      f"{rest.min():.2f} to {rest.max():.2f}")
show(figure, alt="""Similarity to one cell of a 16 x 16 map. Sine codes: a soft hill around the cell, wide for
     10,000, narrower for 20. Learned code before training: only the cell's own row and column stand out.""")

# %% [markdown]
# Learned addresses do what random ones do: perfect on the lamps that were taught, and of no use to those that were not.
# A learned code starts without any idea of near and far, apart from sharing a row or a column. It must find it in the
# data. And it knows no row beyond its table. The sine code has both built in, and nothing to learn. (In table 3 of
# DETR's paper, learned codes end one AP below sine, and no codes at all for the image nearly eight below. That learned
# ones lose so little may be because COCO's photographs show every place again and again: none is left out.)
#
# ## 9. Added to q and k, not to v
#
# Where does the address go? In DETR: **q = W_q(x + p), k = W_k(x + p), v = W_v x**, anew in every layer. Why not into
# v? One often reads this reason: a value is what is *taken*, and what a query takes from a car should not depend on
# where the car is. But a detector must say where the car is, so one could argue the other way round as well. Arguments
# do not settle this. A training does.
#
# For the course's small DETR, three trainings each were recorded: as it is, and with the cells' addresses added to the
# values as well, once in the encoder and once in cross-attention. Everything else is the same, the first weights and
# the order of the pictures included. We compare AP50 after 500 steps, on 400 pictures that it was not trained on. (AP50
# says how many boxes are right, from 0 to 1; notebooks 04 and 09 explain it.)

# %%
predict("03.value", "With addresses in the values, too, after 500 steps: is AP50 different?",
        "lower: places spoil what things look like", "higher: a detector must know where", "three seeds cannot tell")

# %%
from detr_mini.course.position_in_values import compared

ap50 = compared(step=500)  # form -> AP50 of three seeds; usual = q and k only
for form in ("usual", "encoder", "cross"):
    print(f"addresses of cells in v: {'nowhere' if form == 'usual' else form:8} "
          f"AP50 {[round(value, 3) for value in sorted(ap50[form])]}")

usual, also = ap50["usual"], ap50["encoder"] + ap50["cross"]
reveal("03.value", "a" if max(also) < min(usual) else "b" if min(also) > max(usual) else "c",
       "The bands overlap.")
assert all(min(ap50[form]) < max(usual) and max(ap50[form]) > min(usual) for form in ("encoder", "cross"))

# %% [markdown]
# So here, and this early in training, it makes no difference that three seeds could show. What do those say who chose
# it? Asked for the reason, an author of DETR answered that they follow *standard practice*, as in Transformer-XL (issue
# 105 of its repository). In table 3 of their paper there is a related comparison. Addresses that are added once, at the
# input, are in the values as well, and that cost 1.4 AP. But those are also not added anew in each layer, so two things
# were changed at once. A Transformer for text usually adds p once, at the start, and it works. It is a choice, and not
# a law.
#
# There is a second kind of address in DETR: each object query has one, and it is learned (notebook 06). Adding *those*
# to the values when queries ask each other is another matter:

# %%
print("addresses of queries in v: AP50 after 500 steps ", [round(value, 3) for value in sorted(ap50["queries"])])
print("addresses of all in v:     AP50 after 1000 steps", [round(value, 3) for value in compared(1000)["values"]])
print("usual:                     AP50 after 1000 steps", [round(value, 3) for value in compared(1000)["usual"]])
assert min(ap50["queries"]) > max(usual) and min(compared(1000)["values"]) > max(compared(1000)["usual"])

# %% [markdown]
# This learns faster here: every seed is far above every usual one. Whether it also ends higher, these short runs do not
# say, and why it is faster was not measured. One thing to know is that the queries carry nothing but their addresses at
# the start of DETR's decoder. Without addresses in the values, the first layer has nothing to take from them (notebook
# 06 looks at that).
#
# If no address is added to what a token keeps, how can DETR's answers know where things are? *Which* values a token
# averages depends on addresses, so what it has collected may tell where it stood. Whether it does can be measured:
# section *Where am I?* of [notebook 05](05_encoder.ipynb) reads row and column off the tokens, before and after the
# encoder.
#
# Adding has a price that you should know. A score falls into four parts:
#
# > (x + p) · (x' + p')  =  x · x'  +  x · p'  +  p · x'  +  p · p'
#
# What meets what, where meets where, and two mixed terms that compare *what* with *where*.

# %%
torch.manual_seed(0)
x = torch.randn(8, 64)  # eight tokens
place_code = sine(torch.arange(1, 9)[:, None] / 8, 64, 20)  # (8, 64)
W_q, W_k = torch.randn(64, 64) / 8, torch.randn(64, 64) / 8

def score(a, b):
    """a (8, 64) asks b (8, 64) -> (8, 8)."""
    return (a @ W_q.T) @ (b @ W_k.T).T / 8

whole = score(x + place_code, x + place_code)
parts = {"what-what": score(x, x), "what-where": score(x, place_code),
         "where-what": score(place_code, x), "where-where": score(place_code, place_code)}
print("the four parts add up:", torch.allclose(sum(parts.values()), whole, atol=1e-4))
for name, part in parts.items():
    print(f"{name:12} spread {part.std():.2f}")

# %% [markdown]
# Untrained, all four parts count. Two of them compare things of different kinds, and the one matrix W_q has to serve
# both. Conditional DETR separates them: content meets content, place meets place (notebook 14).
#
# ## 10. Is the bag a picture again?
#
# Back to section 1, now with addresses. We shuffle the tokens and leave the addresses where they are.

# %%
p = SineGrid(d)(torch.zeros(1, 8, 8, dtype=torch.bool)).flatten(1, 2)[0]  # (64, d)
with_places = encode(tokens, p)

only_tokens, together = encode(tokens[order], p), encode(tokens[order], p[order])  # (64, d) each
print("tokens shuffled, addresses not: same vectors?",
      torch.allclose(only_tokens, with_places[order], atol=1e-4))
print("both shuffled together:         same vectors?",
      torch.allclose(together, with_places[order], atol=1e-4))

# %% [markdown]
# Now a shuffled picture is another picture. And if each token takes its address along, nothing changes: the order of
# the *list* still means nothing, and all that is known about places is in the addresses. So tokens need not lie on a
# grid at all. Notebook 19 will use that.
#
# ## 11. Explore
#
# Rest the pointer on a cell; a click pins it. Or use Tab and the arrow keys.
#
# 1. T = 10,000: how alike is the farthest corner? And at T = 20?
# 2. At which temperature is the hill narrow, and nothing else turns dark? What goes wrong at T = 2 with *cells counted*?
# 3. Move along a row with the learned code. What never changes?

# %%
PositionExplorer(side=16)

# %% [markdown]
# ## 12. Exercises
#
# ### Two places, one clock (`03.clock`)
#
# *Warm-up, 5 minutes.* One hand, which turns by 0.4 radians per place. An address is (sin, cos). What is the dot product
# of the addresses of places 1 and 4? Use the identity; a calculator (in radians) is allowed for one cosine.

# %% tags=["exercise"]
my_dot_product = None  # your number; two decimals will do

# %% tags=["solution"]
my_dot_product = math.cos(0.4 * (4 - 1))  # only the distance counts

# %%
check("03.clock", my_dot_product)

# %% [markdown]
# ### The sine code (`03.sine`)
#
# *Core, 12 minutes.* Write DETR's code for coordinates from 0 to 1, without the package's: scale by 2π, hand i turns slower
# by temperature^(2i / width), and sine and cosine of a hand stand **next to each other**.

# %% tags=["exercise"]
def my_sine(coordinates, width, temperature):
    """coordinates (N,), each 0 to 1 -> (N, width)."""
    return None  # your lines

# %% tags=["solution"]
def my_sine(coordinates, width, temperature):
    """coordinates (N,), each 0 to 1 -> (N, width)."""
    hand = torch.arange(width // 2)
    angle = 2 * math.pi * coordinates[:, None] / temperature ** (2 * hand / width)  # (N, width/2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)  # (N, width/2, 2) -> (N, width)

# %%
check("03.sine", my_sine)

# %% [markdown]
# ### Coordinates in a padded batch (`03.coordinates`)
#
# *Core, 12 minutes.* Deformable DETR takes the **middle** of a cell where DETR takes its far edge. Write its coordinates:
# count the cells of the picture, subtract a half, divide by how many there are. (Do not worry about the 1e-6.)

# %% tags=["exercise"]
def centres(padding):
    """padding (B, H, W), True outside the picture -> (B, H, W, 2): y, x of each cell, from 0 to 1."""
    return None  # your lines

# %% tags=["solution"]
def centres(padding):
    """padding (B, H, W), True outside the picture -> (B, H, W, 2): y, x of each cell, from 0 to 1."""
    valid = (~padding).float()
    y, x = valid.cumsum(dim=1), valid.cumsum(dim=2)  # (B, H, W): 1, 2, 3, ...
    return torch.stack([(y - 0.5) / (y[:, -1:] + 1e-6), (x - 0.5) / (x[:, :, -1:] + 1e-6)], dim=-1)

# %%
check("03.coordinates", centres)

# %% [markdown]
# ### Is it only the distance? (`03.distance`)
#
# *Stretch, 15 minutes.* Write the similarity of two cells **without their codes**, from the offset alone: no `sine`, and
# no code of your own. Coordinates run
# from 0 to 1 in both directions, half of `width` is for y and half for x, and sines and cosines are as in DETR.

# %% tags=["exercise"]
def dot_of_offset(dy, dx, width, temperature):
    """dy, dx: numbers, the offset between two cells -> the dot product of their 2-D codes, a number."""
    return None  # your lines

# %% tags=["solution"]
def dot_of_offset(dy, dx, width, temperature):
    """dy, dx: numbers, the offset between two cells -> the dot product of their 2-D codes, a number."""
    half = width // 2  # numbers for y, and as many for x: half / 2 hands each
    speed = 2 * math.pi / temperature ** (2 * torch.arange(half // 2) / half)  # (half/2,)
    return (speed * dy).cos().sum() + (speed * dx).cos().sum()  # one cosine per hand

# %%
check("03.distance", dot_of_offset)

# %% [markdown]
# ## 13. Limits, and errata
#
# - **Where in a cell?** DETR's code counts 1, 2, 3, ... and takes no half-cell shift, so the last cell is at 1.
#   Deformable DETR and Anchor DETR subtract one half. SMCA's Gaussian lives on whole cells without a half. It matters
#   when a reference point is compared with a cell.
# - **y or x first?** DETR's sine code has y first, its learned code x first. DAB-DETR's boxes are coded as y, x, w, h.
# - **Two temperatures.** DAB-DETR's code uses 20 for the image's cells and 10,000 for its queries. Its author calls that
#   a bug (issue 21 of its repository). The published numbers come from it.
# - **Only the distance** holds for the codes themselves. After W_q and W_k, a score may depend on the places, too.
# - **Padding** has addresses as well. They are useless, and the mask hides them (notebook 02).
# - **A table ends.** The learned code has 50 rows and 50 columns, in DETR's code and here.
# - Our lamps stand in one row and have one task. They show *that* addresses are needed and how a layer fills gaps, and
#   not which addresses are best for detection.
#   Notebook 17 will measure that.
#
# ## Recap
#
# - Without addresses, attention sees a bag: shuffle the tokens, and the outputs are shuffled. Nothing else happens.
# - A clock hand is an address that does not grow. Sine with cosine: the dot product knows only the distance.
# - Several hands: fast ones for neighbours, slow ones for regions. A turn is a matrix, the same for all places.
# - Random addresses are learned faster here, but only for places that were taught. With sine codes, places in between
#   come for free, if the gap is small.
# - DETR: counts over the picture, not over the padding; scaled to 2π; half for y, half for x.
# - Temperature 10,000 leaves most hands still. With 20 they move.
# - DETR adds addresses to q and k, and not to v. Adding the cells' to v as well changed nothing here that three seeds
#   could show.

# %%
quiz("03")

# %% [markdown]
# **Next:** [04, image to boxes](04_image_to_boxes.ipynb): how detectors worked before, and what a good box is.
#
# **References**
#
# - A. Vaswani et al., *Attention Is All You Need*, 2017. Section 3.5: sine addresses, and why they might generalise.
# - N. Carion et al., *End-to-End Object Detection with Transformers*, 2020. Table 3 compares positions; the code is
#   models/position_encoding.py. Why not in values: github.com/facebookresearch/detr, issue 105.
# - X. Zhu et al., *Deformable DETR*, 2021; P. Gao et al., *SMCA*, 2021; Y. Wang et al., *Anchor DETR*, 2022: their code,
#   for the shift within a cell.
# - S. Liu et al., *DAB-DETR*, 2022: temperature 20.
# - D. Meng et al., *Conditional DETR for Fast Training Convergence*, 2021: content and place apart.
