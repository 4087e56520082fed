# %% [markdown]
# # 06 · Decoder and queries
#
# **How do queries divide the objects among themselves?**
#
# *About 80 minutes with the exercises; the cells themselves run in about a minute, without a GPU.*
# *You need notebooks 01 to 05, above all attention, and the encoder's memory.*
#
# After this notebook you can
#
# - say what an object query is made of, and why one part starts at zero and the other at random;
# - tell which side of cross-attention asks, and spot the formula that has it the wrong way round;
# - write a decoder layer, and name the five methods of which variants of DETR change some;
# - say what the queries' meeting is for, with figures from detectors that had it and some that never did.

# %%
import detr_mini as dm
from detr_mini.course.notebook import check, plots, predict, quiz, reveal, where_we_are
from detr_mini.course.training_plots import everything_said, looks, show

dm.setup(seed=0)
where_we_are("decoder")

# %% [markdown]
# ## Where we are
#
# The memory is ready: a vector for each place, knowing its surroundings. Nobody has said yet how many things there are,
# or where. A fixed number of **object queries** will now ask. Each may answer with one box, or with "nothing".
#
# ## 1. Twenty-five times the same
#
# We take the DETR that comes with the project. It has 25 queries. Each of them has an **address**, a learned vector
# of 128 numbers. What are 25 different addresses good for? Give all queries the same one, and see.

# %%
import copy

import torch
from detr_mini import zoo
from detr_mini.data.scenes import Scenes
from detr_mini.data.transforms import build_transform, collate
from detr_mini.files import DATA

recipe, held_out = zoo.recipe("detr", "scenes"), Scenes(400, seed=1_000_003)
prepare = build_transform(recipe.data, train=False)
model = dm.load_weights(DATA / "weights/detr.safetensors")
addresses = model.decoder.query_embed.weight.detach()  # (25, 128)

image = held_out[16][0]  # (3, 128, 128)
batch = collate([prepare(*held_out[16])])
print("queries and the width of their addresses:", tuple(addresses.shape))

# %%
predict("06.same", "All 25 queries get the address of query 7. How many different boxes come out?",
        "one", "a few, one per thing in the image", "25")

# %%
same = copy.deepcopy(model)
same.decoder.query_embed.weight.data[:] = addresses[7]

with torch.no_grad():
    boxes = {name: detector(batch.images, batch.mask).boxes[-1, 0]  # (25, 4)
             for name, detector in (("addresses as learned", model), ("one address for all", same))}
different = {name: len(found.mul(1000).round().unique(dim=0)) for name, found in boxes.items()}
print(different)

figure, places = plots.canvas(2, width=5.2, height=2.8)
for axes, (name, found) in zip(places, boxes.items()):
    everything_said(image, found, title=name, axes=axes)
show(figure, alt="The scene twice. On the left 25 boxes, many of them around the cats and boats. On the "
                 "right, where all queries have one address, a single box.")
reveal("06.same", "a" if different["one address for all"] == 1 else "c",
       "Same question, same answer, 25 times.")

# %% [markdown]
# Nothing else tells queries apart. They run through the same layers, with the same weights, in front of the same
# memory. **The address is all that makes a query somebody.**
#
# ## 2. The smallest example
#
# Two places, two queries. A place's key says *left* or *right*, its value says what is there: 1 for a cat, 2 for a boat.

# %%
keys = torch.tensor([[4.0, 0.0], [0.0, 4.0]])  # (2, 2): left, right
values = torch.tensor([[1.0], [2.0]])  # (2, 1): cat, boat

def ask(content, address):
    """One round of asking: (Q, 2) and (Q, 2) -> (Q, 1)."""
    return ((content + address) @ keys.T).softmax(dim=-1) @ values

nothing = torch.zeros(2, 2)  # content: what the queries know so far
for name, address in (("different", [[1.0, 0.0], [0.0, 1.0]]), ("the same", [[1.0, 0.0], [1.0, 0.0]])):
    answer = ask(nothing, torch.tensor(address))  # (2, 1)
    print(f"addresses {name:9}: answers {[round(x, 2) for x in answer.flatten().tolist()]}")

# %% [markdown]
# So a query has two parts, added whenever it asks:
#
# - the **content**, what it has found so far. It starts at zero and changes in every layer;
# - the **address**, or *query position*. It is learned, and the same in every layer.
#
# ## 3. Content zero, and a meeting about nothing
#
# A decoder layer begins with self-attention: the queries meet. In the first layer their content is zero. The authors'
# code calls it `tgt` and fills it with zeros. Is that not a waste?

# %%
predict("06.first", "Content 0, addresses different. What does the first self-attention give to each query?",
        "a vector of zeros", "the same vector to all of them", "a mixture of the others, by their addresses")

# %% [markdown]
# Work it out. Addresses go to q and k only. A value is made of content alone: v = W·0 + b = b, the same for every query.
# And a weighted average of equal things is that thing, whatever the weights.

# %%
b = torch.tensor([0.3, -0.1])
values = torch.zeros(3, 2) @ torch.randn(2, 2) + b  # (3, 2): three queries, content 0
for weights in ([1.0, 0.0, 0.0], [0.2, 0.5, 0.3], [0.33, 0.33, 0.34]):
    print(f"weights {weights}: {torch.tensor(weights) @ values}")

# %% [markdown]
# Now the trained model. It has learned for 2,500 steps. Does it do anything else?

# %%
first = model.decoder.layers[0].self_attention
content, position = torch.zeros(1, 25, 128), addresses[None]  # (1, 25, 128)

with torch.no_grad(), dm.AttentionTrace(first) as trace:
    met = first(content, content, content, position, position)  # (1, 25, 128)
weights = trace[""].weights  # (1, 8, 25, 25)

print(f"attention weights lie between {weights.min():.2f} and {weights.max():.2f}; even would be "
      f"{1 / 25:.2f}")
print("the largest difference between what two queries get is below 1e-6:",
      bool((met[0, :, None] - met[0]).abs().max() < 1e-6))
by_bias = first.output(first.value.bias)  # (128,)
print("it is W_output b_value + b_output:", torch.allclose(met[0, 0], by_bias, atol=1e-6))
reveal("06.first", "b" if met.abs().max() > 1e-3 else "a", "The weights differ, the values do not.")

# %% [markdown]
# So the first meeting is harmless: it adds one constant vector to everybody. Is it also useless? Put in the constant, throw
# the attention away, and compare boxes.

# %%
class Constant(torch.nn.Module):
    """Says the same to every query: (B, Q, d) -> (B, Q, d)."""

    def forward(self, query, *others):
        return by_bias.expand_as(query)

without_first = copy.deepcopy(model)
without_first.decoder.layers[0].self_attention = Constant()
with torch.no_grad():
    changed = without_first(batch.images, batch.mask).boxes - model(batch.images, batch.mask).boxes
print("all boxes of all layers stay:", bool(changed.abs().max() < 1e-5))

# %% [markdown]
# Then its matrices for q, k and v cannot have learned anything: nothing depends on them. Here is a sharp test. The
# recorded training began from seed 0. We build that model again, untrained, and compare, matrix by matrix.

# %%
torch.manual_seed(0)
born = dm.build("detr")  # the model as it was before its first step

for layer in (0, 1):
    for name in ("query", "key", "value", "output"):
        now, then = (getattr(m.decoder.layers[layer].self_attention, name).weight.detach()
                     for m in (model, born))
        moved = ((now - then).norm() / then.norm()).item()
        print(f"layer {layer + 1}, {name:6}: changed by {moved:6.1%}",
              "" if moved > 0.01 else "  <- never learned")

# %% [markdown]
# There they are: three matrices that never learned. (Behind 0.0% is a tiny rest: weight decay, and storage in half
# precision.) The zero start costs nothing, since there is nothing to say before anybody has looked. From the second
# layer on it is different, as we shall see.
#
# ### In every DETR?
#
# One is tempted to say so; we did, in an earlier version of this notebook. But the argument has two conditions. The
# attention works on the content itself, as in **post-norm**; with pre-norm (notebook 05), it works on norm(0), which is
# the norm's learned shift. And a query's weights **add up to 1**. With dropout in training, some of the weights are struck
# out at random, and then they do not. Let us take a first self-attention by itself, have it learn something, and see
# which of its matrices move.

# %%
from detr_mini.attention import MultiHeadAttention

def step_from(content, attention, norm, address, pre_norm):
    """The first part of a decoder layer: (1, Q, d) -> (1, Q, d)."""
    x = norm(content) if pre_norm else content
    content = content + attention(x, x, x, address, address)
    return content if pre_norm else norm(content)

# %%
def moved_by_training(pre_norm, dropout, steps=200):
    """By how much of its length each matrix of the attention moves, when the content is 0."""
    torch.manual_seed(0)
    attention, norm, head = MultiHeadAttention(32, 4, dropout), torch.nn.LayerNorm(32), torch.nn.Linear(32, 32)
    first, parts = copy.deepcopy(attention), torch.nn.ModuleList([attention, norm, head])
    address, target = torch.randn(1, 6, 32), torch.randn(1, 6, 32)  # six queries
    optimizer = torch.optim.SGD(parts.parameters(), lr=0.3)
    for _ in range(steps):
        content = step_from(torch.zeros(1, 6, 32), attention, norm, address, pre_norm)  # (1, 6, 32)
        loss = (head((content + address).tanh()) - target).square().mean()
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    pairs = zip(attention.children(), first.children())  # query, key, value, output
    return [((now.weight - then.weight).norm() / then.weight.norm()).item() for now, then in pairs]

# %%
print("                         query   key     value   output")
changes = {}
for name, pre_norm, dropout in (("post-norm, no dropout", False, 0.0), ("post-norm, dropout 0.1", False, 0.1),
                                ("pre-norm, no dropout", True, 0.0), ("pre-norm, dropout 0.1", True, 0.1)):
    changes[name] = moved_by_training(pre_norm, dropout)
    print(f"{name:23}", " ".join(f"{change:7.1%}" for change in changes[name]))
never = {name: [change < 1e-5 for change in four] for name, four in changes.items()}
assert never["post-norm, no dropout"] == [True, True, True, False]  # our detector
assert never["post-norm, dropout 0.1"] == [False, False, True, False]  # the paper's recipe
assert never["pre-norm, no dropout"] == [True, True, False, False]
assert not any(never["pre-norm, dropout 0.1"])

# %% [markdown]
# So only the first line has three that never learn. It is the form of *our* detector, which has no dropout. DETR on COCO is
# the second line: post-norm, dropout 0.1. There the value matrix is idle, because it multiplies zeros; the other two
# are pushed about by the accidents of dropout, which is not to say that they learn anything of use. With pre-norm the
# value matrix has the norm's shift to work on. In all four lines every query still gets the same when dropout is off.
#
# ## 4. Addresses: random at first
#
# The addresses are drawn at random before training. How far do 2,500 steps move them, and how far the matrices that turn
# them into questions, W_q of the three cross-attentions?

# %%
from detr_mini.course.put_back import moved as how_far, put_back, read_put_back

then = born.decoder.query_embed.weight.detach()  # (25, 128)
moved = (addresses - then).norm(dim=1) / then.norm(dim=1)  # (25,)
directions = torch.nn.functional.normalize(addresses, dim=1)
alike = (directions @ directions.T)[~torch.eye(25, dtype=torch.bool)]  # (600,)
print(f"an address moved by {moved.mean():.0%} of its length")
print(f"W_q of cross-attention moved by {how_far('questions', model, born):.0%}, mean of three layers")
print(f"cosine between two addresses: {alike.mean():.2f} on average, {alike.abs().max():.2f} at most")

# %% [markdown]
# The addresses hardly moved in this short training; the matrices did, ten times as far. But small need not mean
# unimportant. So here is a test: take the trained detector, and put the addresses back to what chance had made them. As a
# control, put back W_q instead.

# %%
predict("06.back", "The trained detector finds things with an AP50 of 0.78. And with its addresses of before the training?",
        "0.78: the 4% do not matter", "about 0.6", "about 0.3: the 4% are what was learned")

# %%
found = {"trained": model} | {part: put_back(part, model, born) for part in ("addresses", "questions")}
found = {name: dm.evaluate(one, held_out, recipe.data, batch_size=50).ap50 for name, one in found.items()}
print("this detector, 2,500 steps: ", ", ".join(f"{name} {ap50:.2f}" for name, ap50 in found.items()))
for seed, run in enumerate(read_put_back()):
    print(f"seed {seed}, 1,000 steps:       ", ", ".join(f"{name} {ap50:.2f}" for name, ap50 in run["ap50"].items()),
          f"  (moved: addresses {run['moved']['addresses']:.0%}, questions {run['moved']['questions']:.0%})")
lost = found["trained"] - found["addresses"]
reveal("06.back", "a" if lost < 0.05 else "b" if lost < 0.3 else "c",
       "What was learned lies in the matrices that read the addresses.")

# %% [markdown]
# Putting the addresses back costs nothing that one could see, in this detector and in three others. Putting W_q back costs
# half and more. So **here** the addresses are what chance made them, and that is enough: random vectors of 128 numbers
# point in nearly unrelated directions, so that each is a clear name tag. What was learned is how to *read* the tags.
# (They are parameters like all others, and our training is short. After 300 epochs on COCO they may well have moved; we
# have not measured that. Nor does this say that any tags would do: the matrices have learned to read *these*.)
#
# ## 5. Cross-attention: asking the image
#
# Now the part that looks. Who is q? **The one who wants something.** 25 queries want to know something about 64 places.

# %%
with torch.no_grad():
    tokens, grid = model.tokenize(batch.images, batch.mask)
    memory = model.encoder(tokens, grid)  # (1, 64, 128)
layer = model.decoder.layers[0]
cross, heads = layer.cross_attention, layer.cross_attention.heads

def split(x):
    """(B, N, d) -> (B, heads, N, d / heads)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)

# %%
with torch.no_grad():
    content = layer.norm1(met)  # (1, 25, 128): after the first meeting
    q = split(cross.query(content + position))  # (1, 8, 25, 16) the queries ask
    k = split(cross.key(memory + grid.position))  # (1, 8, 64, 16) places can be found
    v = split(cross.value(memory))  # (1, 8, 64, 16) and give what they hold
    weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)  # (1, 8, 25, 64)
    collected = cross.output((weights @ v).transpose(1, 2).flatten(2))  # (1, 25, 128)

print("weights", tuple(weights.shape), "= images, heads, queries, places")
print("every query's weights add up to 1:", torch.allclose(weights.sum(dim=-1), torch.ones(1, 8, 25)))
print("collected", tuple(collected.shape), "= one vector per query")

# %%
chosen = [3, 4, 2, 20]
maps = weights[0].mean(dim=0).reshape(25, 8, 8)  # the mean of all heads
show(looks(image, maps[chosen], [f"query {number}" for number in chosen]),
     alt="The scene, and the first layer's attention maps of four queries. Query 3 glows at the upper right, "
         "query 4 at the lower right, queries 2 and 20 at the left.")
right, upper = maps[:, :, 4:].sum(dim=(1, 2)), maps[:, :4].sum(dim=(1, 2))  # (25,), (25,) each half's share
assert min(right[3], right[4], upper[3]) > 0.7 and max(right[2], right[20], upper[4]) < 0.3

# %% [markdown]
# Compare with section 3. There the addresses had no effect. Here they do, at once: the places differ, so who looks where
# matters. This is where the queries part.
#
# ### The formula that is the wrong way round
#
# Many blogs have copied a formula from one another that has two letters swapped:
#
# | | q is made of | k is made of |
# |---|---|---|
# | as copied | memory + its positions | content + addresses |
# | in DETR | content + addresses | memory + its positions |
#
# Let us take the first row at its word.

# %%
predict("06.swap", "q from the 64 places, k from the 25 queries. How many rows do the weights have, and what "
                   "adds up to 1?",
        "25 rows; each query's weights over the places", "64 rows; each place's weights over the queries",
        "it makes no difference, the matrix is only transposed")

# %%
with torch.no_grad():
    q_swapped = split(cross.query(memory + grid.position))  # (1, 8, 64, 16)
    k_swapped = split(cross.key(content + position))  # (1, 8, 25, 16)
    swapped = (q_swapped @ k_swapped.transpose(-2, -1) / 4).softmax(dim=-1)  # (1, 8, 64, 25)
print("weights", tuple(swapped.shape), "; over the queries they add up to",
      round(swapped[0, 0, 0].sum().item(), 2))
try:
    swapped @ v  # the image's values, as they should be
except RuntimeError:
    print("RuntimeError: 25 weights cannot average the values of 64 places")
print("with the queries' values:", tuple((swapped @ split(cross.value(content))).shape),
      "= 64 rows, and we want 25 boxes")
reveal("06.swap", "b" if swapped.shape[-2:] == (64, 25) else "a", "The one who asks has the rows.")

# %% [markdown]
# So it does not even fit: the places would ask the queries, and out comes a new *memory*, no answer of a query. Somebody
# might turn the matrix round to make it fit. Then the shapes are right and the meaning is not:

# %%
turned = swapped.transpose(-2, -1)  # (1, 8, 25, 64), but normalised over the queries
sums = turned.sum(dim=-1)  # (1, 8, 25)
print("right form:  a query's weights add up to",
      round(weights.sum(dim=-1).mean().item(), 2), "for every query")
print(f"turned form: they add up to something between {sums.min():.1f} and {sums.max():.1f}")
print("and each place's weights add up to 1:", torch.allclose(turned.sum(dim=-2), torch.ones(1, 8, 64)))

# %% [markdown]
# Now queries *compete* for places, and one that loses everywhere collects nearly nothing. There are models that want this:
# Slot Attention (Locatello et al. 2020) normalises over its slots on purpose, and rescales afterwards. DETR does not.
# When in doubt, ask two questions. How many rows must come out? Along which axis does the softmax run? **Rows: those who
# ask. Softmax: over those who are asked.**
#
# ## 6. A decoder layer, by hand
#
# Three parts, each ending in *add, then normalise*: meet, ask, think.

# %%
def attend(attention, query, key, value):
    """Multi-head attention with a layer's own weights: (B, Q, d), (B, K, d), (B, K, d) -> (B, Q, d)."""
    q, k, v = split(attention.query(query)), split(attention.key(key)), split(attention.value(value))
    weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)  # (B, heads, Q, K)
    return attention.output((weights @ v).transpose(1, 2).flatten(2))

def decoder_layer(layer, content, address, memory, position):
    """content, address (B, Q, d); memory, position (B, HW, d) -> content (B, Q, d)."""
    here = content + address  # (B, Q, d)
    content = layer.norm1(content + attend(layer.self_attention, here, here, content))  # meet
    here, there = content + address, memory + position  # (B, Q, d), (B, HW, d)
    content = layer.norm2(content + attend(layer.cross_attention, here, there, memory))  # ask
    feed = layer.feed_forward
    return feed.norm(content + feed.linear2(feed.linear1(content).relu()))  # think

# %% [markdown]
# The address is added each time somebody asks or is asked, and is never kept in the content. We run all three layers and
# compare with what the package's decoder recorded of its own layers.

# %%
with torch.no_grad(), dm.AttentionTrace(model) as trace:
    output = model(batch.images, batch.mask)
    content = torch.zeros(1, 25, 128)
    for number, layer in enumerate(model.decoder.layers):
        content = decoder_layer(layer, content, addresses[None], memory, grid.position)  # (1, 25, 128)
        theirs = trace["decoder"].content[number]  # (1, 25, 128)
        print(f"layer {number + 1}: equal to the package's DecoderLayer:",
              torch.allclose(content, theirs, atol=1e-4))

# %% [markdown]
# At the end, two **heads** read the content of each query: one names a class, one gives a box. They are the same two heads
# after every layer, so each layer can answer (section 9 cuts the decoder short). How can content give coordinates, when
# addresses are never added to it? It was collected from places, and what a place holds tells where it is: notebook 05 has
# read row and column off single tokens of this memory, with an R² above 0.95 (its section 9, *Where am I?*). That is one
# way. It cannot be the only one, since a detector whose memory knows this only by half finds about as much there.
#
# Now ask the image yourself. (Of its answers you see those with a score of 0.35 or more; two of the four things stay below.)
# Click a detection, choose layer and head, by mouse or Tab and arrow keys. Which head of the cat's query stays inside its
# box, which look past it? Notebook 10 comes back to that.

# %% tags=["nbval-ignore-output"]
from detr_mini.course.attention_explorer import AttentionExplorer

assert (output.logits[-1, 0].sigmoid().amax(dim=-1) >= 0.35).sum() == 2  # two of 25 answers are shown
AttentionExplorer(model, image)

# %% [markdown]
# ## 7. Five seams
#
# Here is the whole decoder once more, this time in the words of the package. Its loop calls five methods. We call them
# **seams**: it is there that the detectors of notebooks 11 to 15 are cut open. Each replaces some of the five.
#
# | seam | question | DETR's answer |
# |---|---|---|
# | `init_queries` | what do queries know at first? | content 0, a learned address |
# | `query_position` | where is a query, in this layer? | at its address, always |
# | `cross_attend` | how does it collect from the image? | by dot products with all places |
# | `decode_box` | how does content become a box? | sigmoid of a small network |
# | `update_reference` | where will it look next? | DETR has no such thing |

# %%
from dataclasses import replace

decoder = model.decoder
with torch.no_grad():
    queries = decoder.init_queries(memory, grid)  # content 0
    for layer in decoder.layers:
        queries = replace(queries, position=decoder.query_position(layer, queries))
        queries = replace(queries, content=layer.meet(queries))  # self-attention, not a seam: all need it
        attended = decoder.cross_attend(layer, queries, memory, grid)  # (1, 25, 128)
        queries = replace(queries, content=layer.take_in(queries.content, attended))
        content = decoder.norm(queries.content)  # one last norm before the heads
        boxes = decoder.decode_box(layer, content, queries)  # (1, 25, 4)
        queries = replace(queries, reference=decoder.update_reference(layer, queries))
print("content", tuple(queries.content.shape), " boxes", tuple(boxes.shape), " reference", queries.reference)
print("equal to the detector's answer:", torch.allclose(boxes, output.boxes[-1], atol=1e-5))

# %% [markdown]
# ## 8. What each query is after
#
# An address is fixed before any image is seen. Predict: what can a query know from it? Let us collect the final boxes of every
# query over 200 scenes.

# %%
predict("06.prior", "One query, 200 scenes. Where do its boxes lie?",
        "all over the image: wherever things are",
        "mostly in one region of its own", "always at the same place")

# %%
many = collate([prepare(*held_out[i]) for i in range(200)])
with torch.no_grad():
    output = model(many.images, many.mask)
final, sure = output.boxes[-1], output.logits[-1].sigmoid().amax(dim=-1)  # (200, 25, 4), (200, 25)

centres = final[..., :2]  # (200, 25, 2)
print(f"a query's centres spread by {centres.std(dim=0).mean():.2f} of the image;", end=" ")
print(f"all centres together by {centres.flatten(0, 1).std(dim=0).mean():.2f}")
reveal("06.prior", "b" if centres.std(dim=0).mean() < 0.6 * centres.flatten(0, 1).std(dim=0).mean() else "a",
       "Each has its region. It moves towards a thing there, if there is one.")

# %%
figure, places = plots.canvas(9, 3, height=3.1)
sides = final[..., 2:].prod(dim=-1).sqrt()  # (200, 25): side of a square of the same area
for number, axes in enumerate(places):
    axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(1, 0), aspect="equal")
    axes.spines[:].set_visible(number < 25)
    if number < 25:
        order = sides[:, number].argsort()
        axes.scatter(*centres[order, number].T, c=sides[order, number],
                     s=5, cmap=plots.AMOUNT, vmin=0.15, vmax=0.45)
        axes.set_title(f"{number}", fontsize=7, pad=2)
show(figure, alt="25 small squares, one per query, each with 200 dots at the centres of its boxes. In each "
                 "square the dots form one tight cloud. The clouds lie in different regions, and some "
                 "overlap. Some are paler, with smaller boxes.")
assert sides[:, 22].mean() > 1.2 * sides[:, 6].mean()  # a dark cloud and a pale one
assert (centres[:, [2, 14, 18, 20]].mean(dim=0) < 0.5).all()  # these four share the upper left

# %% [markdown]
# Each dot is a box's centre in one scene, and darker dots are larger boxes. It is the toy version of the paper's figure 7.
# Queries are specialists for regions, and a little for sizes: compare the pale cloud of query 6 with the dark one of
# query 22. (On COCO, nearly all of them also have a mode for boxes as large as the image.)
#
# But look how the clouds overlap: 2, 14, 18 and 20 share the upper left. If a thing lies there, **who takes it?**
#
# ## 9. The meeting that decides
#
# Queries that cover the same spot must agree, or the thing is reported twice. In cross-attention each query is alone
# with the image. Only in self-attention can it hear of the others.
#
# First the layers of the trained detector. After layer 1 nobody has heard anything of anybody: section 3 showed that the
# first meeting is empty. Layer 2 brings the first real one, layer 3 a second. We measure two things on 400 scenes. How
# many duplicates are there per found thing? And how much does **non-maximum suppression** (NMS, notebook 04) still help? It
# removes duplicates by hand, so what it gains is what the detector failed to settle itself.

# %%
from detr_mini.course.without_meeting import load_without_meeting, repeats, suppress, without_meeting
from detr_mini.evaluation import average_precision
from detr_mini.evaluation import predict as run_on

def measured(detector):
    """Duplicates per found thing, where 70% are found, and AP50; then both again, with suppression."""
    found = run_on(detector, held_out, recipe.data, batch_size=50)
    return [figure for some in (found, suppress(found))
            for figure in (repeats(held_out, some), average_precision(held_out, some).ap50)]

def row(name, figures):
    """One line of the table."""
    again, plain, left, after = figures
    print(f"{name:28} duplicates {again:.2f}, with NMS {left:.2f}   AP50 {plain:.2f}, with NMS {after:.2f}")

# %%
def cut(detector, layers):
    """The same detector with only its first decoder layers."""
    shorter = copy.deepcopy(detector)
    shorter.decoder.layers = shorter.decoder.layers[:layers]
    return shorter

as_trained = {layers: measured(cut(model, layers)) for layers in (1, 2, 3)}
for layers, figures in as_trained.items():
    row(f"after layer {layers}, {layers - 1} real meetings", figures)

# %% [markdown]
# `repeats` goes down the list of all detections, best first, until 70% of all things are found, and counts the duplicates
# on the way. (A fixed score would not do: the scores of two detectors need not mean the same.)
#
# With every meeting, duplicates become fewer here. They do not vanish. This detector has trained for five minutes, and
# suppression still helps it a good deal. In the paper, with six layers and a far longer training, suppression helps the
# first layers and then does slight harm (figure 4 there).
#
# ### Cancel the meetings in the trained detector
#
# Later layers also look again, so the table above does not prove that *meeting* does it. Let us cancel the meetings: every
# self-attention now answers 0. Or, less brutally: everybody hears the same, the average of what all have to say.

# %%
predict("06.cancel", "The trained detector, its meetings cancelled. What happens to duplicates?",
        "they stay about as they are", "they grow", "they disappear")

# %%
class Average(torch.nn.Module):
    """Every query hears the same: the mean of all values, (B, Q, d) -> (B, Q, d)."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, content, *others):
        said = self.attention.output(self.attention.value(content))  # (B, Q, d)
        return said.mean(dim=1, keepdim=True).expand_as(content)

# %%
averaged = copy.deepcopy(model)
for layer in averaged.decoder.layers:
    layer.self_attention = Average(layer.self_attention)

cancelled = {"as trained": as_trained[3], "all hear the same average": measured(averaged),
             "meetings cancelled": measured(without_meeting(model))}
for name, figures in cancelled.items():
    row(name, figures)
again = [figures[0] for figures in cancelled.values()]
reveal("06.cancel", "b" if again[2] > 1.3 * again[0] else "a", "Queries no longer know what is taken.")

# %% [markdown]
# Duplicates multiply, even where each query still hears the average. So *who* says what in the meeting does matter. But be
# careful: AP with suppression has fallen as well. We have broken a machine that relied on its part, and so we do not
# know what a machine without that part could have learned.
#
# ### Never let them meet
#
# So train one without, from the first step on. Everything else is the same: recipe, first weights, images, order. It takes
# minutes, so it was done beforehand, and its weights come with the project. We measure them here.

# %%
never_met = load_without_meeting()
trained_both = {"trained with meetings": as_trained[3], "trained without meetings": measured(never_met)}
for name, figures in trained_both.items():
    row(name, figures)

(again_with, plain_with, _, after_with), (again_without, plain_without, _, after_without) = trained_both.values()
print(f"weights: {zoo.count(model):,} with, {zoo.count(never_met):,} without")
print("more duplicates without:               ", again_without > again_with)
print("worse, before suppression and after it: ", plain_without < plain_with and after_without < after_with)

# %%
import json

runs = {}
for name, pattern in (("with meetings", "scenes/detr-seed*.jsonl"),
                      ("without meetings", "self_attention/*.jsonl")):
    runs[name] = [list(map(json.loads, file.read_text().splitlines()))
                  for file in sorted((DATA / "runs").glob(pattern))]
print("recorded with:", *sorted({run[0]["command"] for run in runs["without meetings"]}), sep="\n  ")

# %%
for name, recorded in runs.items():  # of each run: where it comes from, then one line per evaluation
    print(f"{name:17} {len(recorded)} seeds, AP50 at step 2,500: {[round(run[-1]['ap50'], 2) for run in recorded]}")
alone = runs["without meetings"]
print("  the same, with NMS: ", [round(run[-1]["nms"]["ap50"], 2) for run in alone])
for step in (1000, 2500):
    again = [line["repeats"] for run in alone for line in run[1:] if line["step"] == step]
    print(f"  duplicates per found thing at step {step:,}: {[round(value, 2) for value in again]}")
assert max(run[-1]["ap50"] for run in alone) < min(run[-1]["ap50"] for run in runs["with meetings"])

# %%
figure, axes = plots.canvas(width=5.6, height=3.2)
for (name, recorded), colour in zip(runs.items(), (plots.BLUE, plots.VERMILLION)):
    for number, (_, *lines) in enumerate(recorded):
        label = f"{name}, {len(recorded)} seed{'s' * (len(recorded) > 1)}" if number == 0 else None
        axes.plot([line["step"] for line in lines], [line["ap50"] for line in lines],
                  color=colour, linewidth=1.4, label=label)
axes.set(xlabel="training step", ylabel="AP50 on 400 held-out scenes", ylim=(0, 1))
axes.legend(loc="upper left")
axes.grid(axis="y")
show(figure, alt="AP50 against training steps, three lines each. All begin alike. From step 2,000 on those "
                 "with meetings are ahead and end at 0.78 to 0.84, those without at 0.66 to 0.75.")
ends = [line.get_ydata()[-1] for line in axes.lines]  # first the three with meetings, then the three without
assert min(ends[:3]) > max(ends[3:])

# %% [markdown]
# Now it is a fair comparison, and it says less and more than expected.
#
# - Without meetings there are more duplicates per found thing, and more is left to suppression. So the meeting does what
#   it is for.
# - But not *all* of it. Queries that never met make fewer duplicates, too, the longer they train (the last lines
#   above the picture). Each has a region of its own, and one-to-one matching (notebook 07) punishes every second box.
# - The gap opens late. Why, we have not measured.
# - Suppression repairs part of it. With NMS the three runs without meetings have 0.82 to 0.90. The one with meetings whose
#   weights we have reaches 0.92.
#
# The last point is why there are three seeds. With the first one alone, 0.82 against 0.92, we had written that queries which
# hear each other also *find* more. With the two others, 0.88 and 0.90, that is no longer clear.
#
# ### Who is listened to?
#
# Call two queries *rivals* when their boxes overlap by half or more. It would make a nice story that rivals listen to
# each other most. Does the trained detector do so?

# %%
predict("06.rivals", "In the later meetings, how much attention does a query give to a rival?",
        "many times the even share of 1/25", "about twice that share", "about that share, like to anybody")

# %%
from detr_mini.boxes import cxcywh_to_xyxy, pairwise_iou

with torch.no_grad(), dm.AttentionTrace(model) as trace:
    output = model(many.images, many.mask)  # 200 scenes
others, share = ~torch.eye(25, dtype=torch.bool), []
for layer in (1, 2):
    weights = trace[f"decoder.layers.{layer}.self_attention"].weights  # (200, 8, 25, 25)
    boxes = cxcywh_to_xyxy(output.boxes[layer - 1])  # (200, 25, 4), as they come into this meeting
    rivals = torch.stack([pairwise_iou(some, some) >= 0.5 for some in boxes]) & others  # (200, 25, 25)
    share.append(25 * weights.mean(dim=1)[rivals].mean().item())
    print(f"layer {layer + 1}: a head's loudest voice gets {weights.amax(dim=-1).mean():.1f} of its weight; a "
          f"rival gets {share[-1]:.1f} times the even share")
reveal("06.rivals", "c" if max(share) < 1.3 else "b" if max(share) < 4 else "a",
       "Each head has voices that it prefers. They are not the rivals.")

# %% [markdown]
# So the story is wrong here. How the queries settle things we have *not* found out: only that the meeting has a part in it.
#
# ## 10. Explore
#
# Move the sliders, with the mouse or with Tab and the arrow keys. Blue: the first box on a thing. Dashed red: one more on
# the same. Grey: fits no thing of its class (an IoU below 0.5). Dashed black: the truth. Find out:
#
# 1. Step through the layers of the detector with meetings. Do red boxes become fewer?
# 2. Cancel the meetings. Which things collect most duplicates?
# 3. At which threshold does the detector that never met look best?

# %%
from detr_mini.course.meeting_explorer import MeetingExplorer, Session, listen

detectors = {"with meetings": model, "meetings cancelled": without_meeting(model), "never met": never_met}
minutes = listen(detectors, held_out, [16, 0, 5, 7, 8, 11, 14, 20], recipe.data)
MeetingExplorer(minutes, Session("meetings cancelled", scene=5, layer=2, threshold=0.3))

# %% [markdown]
# ## 11. Exercises
#
# Fill in a cell, run it, then run the check below it. For a hint: `dm.hint("06.cross")` in a new cell, with the
# exercise's name.
#
# ### The first meeting (`06.first`)
#
# *Warm-up, 6 minutes.* All contents are 0. What does self-attention give to each query? Write it without any attention.
# A projection computes `weight @ x + bias`.

# %% tags=["exercise"]
def first_meeting(value_weight, value_bias, output_weight, output_bias):
    """Weights (d, d), biases (d,) -> what every query receives, (d,)."""
    return None  # your line

# %% tags=["solution"]
def first_meeting(value_weight, value_bias, output_weight, output_bias):
    """Weights (d, d), biases (d,) -> what every query receives, (d,)."""
    return output_weight @ value_bias + output_bias  # all values are value_bias, and so is their average

# %%
check("06.first", first_meeting)

# %% [markdown]
# ### Ask the image (`06.cross`)
#
# *Core, 12 minutes.* One head, no projections: what does each query collect from the memory?

# %% tags=["exercise"]
def ask_image(content, address, memory, position):
    """content, address (Q, d): the queries; memory, position (N, d): the places -> (Q, d)."""
    return None  # your lines

# %% tags=["solution"]
def ask_image(content, address, memory, position):
    """content, address (Q, d): the queries; memory, position (N, d): the places -> (Q, d)."""
    q, k = content + address, memory + position  # (Q, d), (N, d)
    weights = (q @ k.T / q.shape[-1] ** 0.5).softmax(dim=-1)  # (Q, N): each query's row adds up to 1
    return weights @ memory  # (Q, d)

# %%
check("06.cross", ask_image)

# %% [markdown]
# ### Count the duplicates (`06.repeats`)
#
# *Core, 12 minutes.* Detections are sorted, best first. Each describes the thing that it overlaps most, provided it overlaps
# it by at least `demand`. How many describe a thing that a better one has described before? There may be images without
# things, and images in which nothing is detected.

# %% tags=["exercise"]
def duplicates(overlap, demand):
    """overlap (N, M), IoU of N detections, best first, with M things -> how many are duplicates."""
    return None  # your lines

# %% tags=["solution"]
def duplicates(overlap, demand):
    """overlap (N, M), IoU of N detections, best first, with M things -> how many are duplicates."""
    if overlap.numel() == 0:  # no things, or no detections: nothing can be repeated
        return 0
    found, count = set(), 0
    for row in overlap:
        thing = int(row.argmax())
        if row[thing] >= demand:
            count += thing in found
            found.add(thing)
    return count

# %%
check("06.repeats", duplicates)

# %% [markdown]
# ### Meetings in separate rooms (`06.rooms`)
#
# *Stretch, 15 minutes.* Let the queries meet in `groups` groups of `size` each, the first `size` queries in the first
# group, and so on. Nobody hears anything from another group. Write the bias that is added to the scores of their
# self-attention.

# %% tags=["exercise"]
def rooms(groups, size):
    """-> (groups * size, groups * size): 0 where two queries may meet, minus infinity where not."""
    return None  # your lines

# %% tags=["solution"]
def rooms(groups, size):
    """-> (groups * size, groups * size): 0 where two queries may meet, minus infinity where not."""
    group = torch.arange(groups).repeat_interleave(size)  # (Q,): 0, 0, 1, 1, 2, 2 for three groups of two
    return torch.zeros(len(group), len(group)).masked_fill(group[:, None] != group, float("-inf"))

# %%
check("06.rooms", rooms)

# %% [markdown]
# ## 12. Limits, and errata
#
# - **A short training.** 2,500 steps, three layers, 25 queries. On COCO, with six layers and 300 epochs, DETR has next to no
#   duplicates left. Our numbers show the direction, not the end.
# - **A smaller model.** The detector without meetings has about 200,000 weights less. Part of what it loses may come from
#   that. And its best run lies close below the worst with meetings: 0.75 and 0.78.
# - **What is said in the meeting** we do not know. We changed the meeting and measured what followed. Maps tell who is
#   listened to, and not what is understood.
# - **Cancelling is not training without.** A trained network relies on all its parts. When you read that some part was
#   "ablated", ask which of the two was done.
# - **Names.** The code has `tgt` for content, `query_embed` or `query_pos` for the address. The paper says *object
#   queries* for the addresses, which it calls learnt positional encodings.
# - **The blog formula.** In the authors' code, cross-attention has `query = tgt + query_pos`, `key = memory + pos`,
#   `value = memory`.
#
# ## Recap
#
# - A query is content (starts at 0) plus address (random, then learned). Equal addresses give equal boxes.
# - The first self-attention gives the same constant to all. With post-norm its value matrix never learns, and without
#   dropout its q and k matrices do not, either.
# - In our short training the addresses stay almost where chance put them. What is learned is how to read them.
# - Cross-attention: queries ask, so they have the rows; the softmax runs over places.
# - Five seams: `init_queries`, `query_position`, `cross_attend`, `decode_box`, `update_reference`.
# - Each query has its region. Self-attention helps to settle who takes a thing: without it there are more duplicates, and
#   suppression removes nearly all of these.

# %%
quiz("06")

# %% [markdown]
# **Next:** [07, bipartite matching](07_bipartite_matching.ipynb): who decides in training which query should have taken
# the thing.
#
# **References**
#
# - N. Carion et al., *End-to-End Object Detection with Transformers*, 2020. Section 3.2 for the decoder, figure 4 for the
#   effect of suppression by layer, figure 7 for the boxes of each query.
# - F. Locatello et al., *Object-Centric Learning with Slot Attention*, 2020: a softmax over the queries, on purpose.
# - Q. Chen et al., *Group DETR: Fast DETR Training with Group-Wise One-to-Many Assignment*, 2022: the separate
#   rooms of `06.rooms`.
