// The live form of AttentionExplorer (attention_explorer.py). It needs no kernel: all maps are in the widget's state.
//
// Chosen is what was clicked or typed: layer, head, query, place. It lives in the model. While the pointer rests on the
// picture, what lies under it is shown instead, and nothing is chosen.

const STYLE = `
.dm-explorer { max-width: 732px; font: 13px/1.45 system-ui, sans-serif; color: #222; background: #fff; padding: 4px; }
.dm-explorer .panels { display: flex; flex-wrap: wrap; gap: 12px; }
.dm-explorer figure { flex: 1 1 260px; margin: 0; }
.dm-explorer figcaption { margin: 0 0 3px; }
.dm-explorer .panel { position: relative; overflow: hidden; line-height: 0; }
.dm-explorer .panel > * { display: block; width: 100%; height: auto; max-width: none; margin: 0; }
.dm-explorer .panel > canvas, .dm-explorer .panel > svg { position: absolute; inset: 0; height: 100%; }
.dm-explorer .panel > canvas { image-rendering: pixelated; }
.dm-explorer .map img { filter: grayscale(1) brightness(0.5); }
.dm-explorer .asks { cursor: crosshair; touch-action: manipulation; }
.dm-explorer fieldset { display: inline-flex; flex-wrap: wrap; gap: 3px; align-items: center; border: 0; margin: 6px 14px 0 0;
  padding: 0; }
.dm-explorer legend { float: left; padding: 0 6px 0 0; }
.dm-explorer label { position: relative; border: 1px solid #8a8a8a; border-radius: 4px; padding: 1px 8px; cursor: pointer; }
.dm-explorer input { position: absolute; opacity: 0; inset: 0; margin: 0; cursor: pointer; }
.dm-explorer label:has(:checked) { background: #0072b2; border-color: #0072b2; color: #fff; }
.dm-explorer label:has(:focus-visible), .dm-explorer .asks:focus-visible { outline: 3px solid #d55e00; outline-offset: 2px; }
.dm-explorer .words { margin: 6px 0 0; min-height: 4.4em; }
.dm-explorer .hint { margin: 2px 0 0; color: #555; }
`;

const BLUE = "#0072b2", ORANGE = "#e69f00", WHITE = "#fff", BLACK = "#000";

const bytes = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
const floats = (view) => new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** An element with attributes and children; text becomes a text node. */
function make(name, attributes = {}, ...children) {
  const svg = ["svg", "rect", "path", "ellipse", "circle", "text", "g"].includes(name);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Where each layer's arrays begin; the order of Layer in attention_explorer.py. */
function offsets(facts) {
  const [rows, columns] = facts.shape, maps = facts.heads + 1;
  let map = 0, number = 0, inside = 0, dot = 0, ellipse = 0;
  return facts.layers.map((layer) => {
    const start = { map, number, inside, dot, ellipse };
    map += maps * layer.askers * rows * columns;
    number += maps * layer.askers;
    if (layer.side === "decoder") inside += maps * layer.askers;
    dot += facts.heads * layer.askers * layer.points * 3;
    if (layer.gaussian) ellipse += facts.heads * layer.askers * 4;
    return start;
  });
}

/** Everything recorded about one state. state: { layer (index), head, query (rank), place (index of the cell) }. */
function look(data, state) {
  const { facts, start } = data, layer = facts.layers[state.layer], at = start[state.layer];
  const asker = layer.side === "decoder" ? state.query : state.place;
  const cells = facts.shape[0] * facts.shape[1], row = state.head * layer.askers + asker;
  const map = data.maps.subarray(at.map + row * cells, at.map + (row + 1) * cells);
  const heads = state.head ? [state.head - 1] : [...Array(facts.heads).keys()];
  const part = (array, from, head, length) => {
    const begin = from + (head * layer.askers + asker) * length;
    return Array.from(array.subarray(begin, begin + length));
  };
  return {
    layer, asker, cells, map, top: data.tops[at.number + row], spread: data.spread[at.number + row],
    inside: layer.side === "decoder" ? data.inside[at.inside + row] : null,
    dots: layer.points ? heads.flatMap((head) => triples(part(data.dots, at.dot, head, layer.points * 3))) : [],
    ellipses: layer.gaussian ? heads.map((head) => part(data.ellipses, at.ellipse, head, 4)) : [],
  };
}

const triples = (values) => values.flatMap((_, index) => (index % 3 ? [] : [values.slice(index, index + 3)]));

/** The cell of a map as a box in pixels. */
function cellBox(facts, cell) {
  const [width, height] = facts.size, [rows, columns] = facts.shape;
  const row = Math.floor(cell / columns), column = cell % columns;
  return [(column * width) / columns, (row * height) / rows, ((column + 1) * width) / columns,
    ((row + 1) * height) / rows];
}

/** The middle of a cell in whole pixels, "x, y". */
function spot(facts, cell) {
  const [width, height] = facts.size, [rows, columns] = facts.shape;
  const x = ((cell % columns) + 0.5) * width / columns, y = (Math.floor(cell / columns) + 0.5) * height / rows;
  return `${Math.floor(x)}, ${Math.floor(y)}`;
}

/** The words of describe_exploring. */
function describe(facts, state, seen) {
  const { layer, asker, cells } = seen;
  const head = state.head ? `head ${state.head}` : `mean of all ${facts.heads} heads`;
  let who = `Query ${facts.queries[asker]} asks: ${facts.names[asker]}, ${facts.scores[asker]}.`;
  let most = `${seen.inside}% of it inside its box`;
  if (layer.side === "encoder") {
    who = `The place around (${spot(facts, asker)}) asks.`;
    most = `most of it around (${spot(facts, seen.map.indexOf(Math.max(...seen.map)))})`;
  }
  const where = `Its attention is spread over about ${seen.spread} of ${cells} places, ${most}.`;
  const words = [`${layer.name[0].toUpperCase()}${layer.name.slice(1)}, ${head}.`, who,
    seen.spread ? where : "All that it looks at is outside the image."];
  if (layer.references) words.push(reference(layer.references[asker], facts.cut, facts.patterns[asker]));
  if (seen.dots.length) words.push(facts.dots[state.head ? 0 : 1].replace("{}", seen.dots.length));
  if (seen.ellipses.length) {
    words.push(state.head ? "Ellipse: one standard deviation of its Gaussian."
      : "Ellipses: one standard deviation of each head's Gaussian.");
  }
  return [...words, ...facts.notes].join(" ");
}

/** A reference in words: a point, or a box and how it is cut; and which of its patterns asks, where there are several. */
function reference(box, cut, pattern) {
  const [left, top, right, bottom] = box.map(Math.round);
  const also = `${cut ? `, cut into ${cut} x ${cut}` : ""}${pattern ? `, ${pattern}` : ""}.`;
  if (left === right && top === bottom) return `Cross: its reference point (${left}, ${top})${also}`;
  return `Dashed: its reference box, (${left}, ${top}) to (${right}, ${bottom})${also}`;
}

/** A frame with a black rim. */
function frame(box, colour, thick, dash = "") {
  const [left, top, right, bottom] = box;
  const shape = { x: left, y: top, width: right - left, height: bottom - top, fill: "none" };
  return make("g", {}, make("rect", { ...shape, stroke: BLACK, "stroke-opacity": 0.75, "stroke-width": thick * 1.7 }),
    make("rect", { ...shape, stroke: colour, "stroke-width": thick, "stroke-dasharray": dash }));
}

/** The lines between the n x n parts into which a box is cut; none for 0. */
function cut([left, top, right, bottom], n, unit) {
  const at = (low, high, i) => low + ((high - low) * i) / n, inner = [...Array(Math.max(0, n - 1)).keys()].map((i) => i + 1);
  const d = inner.map((i) => `M${at(left, right, i)},${top}V${bottom}M${left},${at(top, bottom, i)}H${right}`).join("");
  return n ? [[BLACK, 0.5], [WHITE, 0.3]].map(([stroke, thick]) => make("path",
    { d, stroke, "stroke-width": thick * unit, "stroke-opacity": 0.6, fill: "none" })) : [];
}

/** A name at a box's upper left corner, inside the picture. */
function tag(facts, box, words, colour, unit) {
  const width = facts.size[0], size = 4.2 * unit, long = words.length * 0.56 * size + 0.6 * size;
  const left = clamp(box[0] < 0.6 * width ? box[0] : box[2] - long, 0, width - long), base = Math.max(1.3 * size, box[1]);
  return make("g", {}, make("rect", { x: left, y: base - 1.3 * size, width: long, height: 1.3 * size, fill: colour }),
    make("text", { x: left + 0.3 * size, y: base - 0.35 * size, "font-size": size, fill: colour === BLUE ? WHITE : BLACK,
      textLength: long - 0.6 * size, lengthAdjust: "spacingAndGlyphs" }, words));
}

/** The left panel: detections with names, who asks on top in orange. */
function drawDetections(svg, facts, seen, unit) {
  const boxes = facts.layers.at(-1).boxes, chosen = seen.layer.side === "decoder" ? seen.asker : -1;
  const named = [...Array(facts.found).keys()].filter((index) => index !== chosen);
  const name = (index, colour) => tag(facts, boxes[index], `${facts.names[index]} ${facts.scores[index]}`, colour, unit);
  const parts = [...named.map((index) => frame(boxes[index], BLUE, 0.9 * unit)), ...named.map((index) => name(index, BLUE))];
  if (chosen < 0) parts.push(frame(cellBox(facts, seen.asker), ORANGE, 1.3 * unit));
  else parts.push(frame(boxes[chosen], ORANGE, 1.3 * unit), name(chosen, ORANGE));
  svg.replaceChildren(...parts);
}

/** The marks on the map: the box after this layer, the reference, dots, ellipses. */
function drawMarks(svg, facts, state, seen, unit) {
  const [width, height] = facts.size, { layer, asker } = seen;
  const parts = [frame(layer.side === "decoder" ? layer.boxes[asker] : cellBox(facts, asker), ORANGE, 1.1 * unit)];
  if (layer.references) {
    const [left, top, right, bottom] = layer.references[asker];
    const d = `M${left - 2.4 * unit},${top - 2.4 * unit}l${4.8 * unit},${4.8 * unit}m0,${-4.8 * unit}l${-4.8 * unit},${4.8 * unit}`;
    if (right - left + bottom - top >= 0.01) parts.push(...cut([left, top, right, bottom], facts.cut, unit), frame([left, top, right, bottom], WHITE, 0.8 * unit, `${2 * unit} ${1.2 * unit}`));
    else parts.push(make("path", { d, stroke: BLACK, "stroke-width": 1.8 * unit }), make("path", { d, stroke: WHITE, "stroke-width": 0.8 * unit }));
    if (facts.patterns[asker]) parts.push(tag(facts, [left, Math.min(top, height) - 0.04 * height, right], facts.patterns[asker], ORANGE, unit));
  }
  for (const [x, y, weight] of seen.dots) {
    const r = unit * (facts.weighted ? 0.6 * Math.sqrt(1 + 9 * weight) : 1);
    parts.push(make("circle", { cx: x * width, cy: y * height, r, fill: WHITE, stroke: BLACK, "stroke-width": 0.35 * unit }));
  }
  for (const [x, y, wide, tall] of seen.ellipses) {
    parts.push(make("ellipse", { cx: x * width, cy: y * height, rx: wide * width, ry: tall * height, fill: "none",
      stroke: WHITE, "stroke-width": (state.head ? 0.9 : 0.45) * unit }));
  }
  svg.replaceChildren(...parts);
}

/** The map itself: one canvas pixel per cell. */
function paint(canvas, data, map) {
  const pixels = new ImageData(data.facts.shape[1], data.facts.shape[0]);
  map.forEach((value, cell) => pixels.data.set(data.glow.subarray(4 * value, 4 * value + 4), 4 * cell));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** A group of radio buttons; `choose` gets the index of the one that was taken. */
function choice(title, names, choose) {
  const group = `dm-${Math.random().toString(36).slice(2)}`;
  const inputs = names.map((name, index) => {
    const input = make("input", { type: "radio", name: group, "aria-label": `${title} ${name}` });
    input.addEventListener("change", () => choose(index));
    return input;
  });
  const labels = inputs.map((input, index) => make("label", {}, input, names[index]));
  return { inputs, element: make("fieldset", {}, make("legend", {}, title), ...labels) };
}

/** Everything the browser knows, unpacked from the model once. */
function unpack(model) {
  const facts = model.get("facts"), data = { facts, start: offsets(facts) };
  for (const name of ["maps", "glow", "picture"]) data[name] = bytes(model.get(name));
  for (const name of ["tops", "spread", "inside", "dots", "ellipses"]) data[name] = floats(model.get(name));
  return data;
}

/** What the model says is chosen, as indices. */
function chosenIn(model, facts) {
  const [row, column] = model.get("place");
  return { layer: facts.layers.findIndex((layer) => layer.name === model.get("layer")), head: model.get("head"),
    query: facts.queries.indexOf(model.get("query")), place: row * facts.shape[1] + column };
}

/** The last layer of one side, or the present one when it is on that side already; -1 when there is none. */
function layerOn(facts, side, present) {
  return facts.layers[present].side === side ? present : facts.layers.findLastIndex((layer) => layer.side === side);
}

/** What a pointer at a pixel asks for: in the encoder the cell under it, in the decoder the smallest detection. */
function under(facts, state, [x, y], clicked) {
  const [width, height] = facts.size, [rows, columns] = facts.shape;
  const row = clamp(Math.floor((y / height) * rows), 0, rows - 1);
  const place = row * columns + clamp(Math.floor((x / width) * columns), 0, columns - 1);
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]), boxes = facts.layers.at(-1).boxes.slice(0, facts.found);
  const hits = boxes.map((box, query) => ({ box, query })).filter(({ box }) => box[0] <= x && x <= box[2] && box[1] <= y && y <= box[3]);
  const hit = hits.sort((one, other) => area(one.box) - area(other.box))[0];
  const encoder = layerOn(facts, "encoder", state.layer), inEncoder = facts.layers[state.layer].side === "encoder";
  if (hit && (clicked || !inEncoder)) return { ...state, query: hit.query, layer: layerOn(facts, "decoder", state.layer) };
  if (inEncoder || (clicked && encoder >= 0)) return { ...state, place, layer: encoder };
  return state;
}

/** What an arrow key on the picture asks for: the next query, or the next cell. */
function stepped(facts, state, key) {
  const [rows, columns] = facts.shape, row = Math.floor(state.place / columns), column = state.place % columns;
  const right = { ArrowRight: 1, ArrowLeft: -1 }[key] ?? 0, down = { ArrowDown: 1, ArrowUp: -1 }[key] ?? 0;
  if (facts.layers[state.layer].side === "decoder") {
    return { ...state, query: clamp(state.query + right + down, 0, facts.queries.length - 1) };
  }
  return { ...state, place: clamp(row + down, 0, rows - 1) * columns + clamp(column + right, 0, columns - 1) };
}

/** The elements of one view. */
function build(data) {
  const { facts } = data, [width, height] = facts.size, url = URL.createObjectURL(new Blob([data.picture], { type: "image/png" }));
  const image = () => make("img", { src: url, alt: "", width, height, draggable: "false" });
  const svg = () => make("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true", "font-family": "system-ui, sans-serif" });
  const parts = {
    url, left: svg(), right: svg(), canvas: make("canvas", { width: facts.shape[1], height: facts.shape[0] }),
    title: make("figcaption"), words: make("p", { class: "words", "aria-live": "polite" }),
    here: make("p", { class: "hint" }),
  };
  parts.asks = make("div", { class: "panel asks", tabindex: 0, role: "group",
    "aria-label": "Detections. Arrow keys choose who asks." }, image(), parts.left);
  parts.map = make("div", { class: "panel map" }, image(), parts.canvas, parts.right);
  parts.panels = make("div", { class: "panels" },
    make("figure", {}, make("figcaption", {}, "what it found: click a detection, or any place"), parts.asks),
    make("figure", {}, parts.title, parts.map));
  return parts;
}

/** The pixel of the image under a pointer event. */
function pixel(event, element, facts) {
  const area = element.getBoundingClientRect();
  return [((event.clientX - area.left) / area.width) * facts.size[0], ((event.clientY - area.top) / area.height) * facts.size[1]];
}

function render({ model, el }) {
  const data = unpack(model), { facts } = data, parts = build(data), unit = Math.max(...facts.size) / 100;
  const chosen = () => chosenIn(model, facts);
  const keep = (state) => {
    model.set("layer", facts.layers[state.layer].name);
    model.set("head", state.head);
    model.set("query", facts.queries[state.query]);
    model.set("place", [Math.floor(state.place / facts.shape[1]), state.place % facts.shape[1]]);
    model.save_changes();
    show(state);
  };
  const layers = choice("layer", facts.layers.map((layer) => layer.name), (layer) => keep({ ...chosen(), layer }));
  const heads = choice("head", ["all", ...Array.from({ length: facts.heads }, (_, index) => `${index + 1}`)],
    (head) => keep({ ...chosen(), head }));
  let shown;
  function show(state) {
    const seen = (shown = look(data, state));
    paint(parts.canvas, data, seen.map);
    drawDetections(parts.left, facts, seen, unit);
    drawMarks(parts.right, facts, state, seen, unit);
    parts.title.textContent = `${seen.layer.name}, ${state.head ? `head ${state.head}` : "mean of all heads"}`;
    const words = describe(facts, state, seen);
    if (parts.words.textContent !== words) parts.words.textContent = words;
    layers.inputs[state.layer].checked = heads.inputs[state.head].checked = true;
  }
  parts.asks.addEventListener("pointermove", (event) => show(under(facts, chosen(), pixel(event, parts.asks, facts), false)));
  parts.asks.addEventListener("pointerleave", () => show(chosen()));
  parts.asks.addEventListener("click", (event) => keep(under(facts, chosen(), pixel(event, parts.asks, facts), true)));
  parts.asks.addEventListener("keydown", (event) => {
    if (event.key.startsWith("Arrow")) {
      event.preventDefault();
      keep(stepped(facts, chosen(), event.key));
    }
  });
  const resting = "Point at the map to read a weight.";
  parts.map.addEventListener("pointermove", (event) => {
    const place = under(facts, { layer: 0, place: 0 }, pixel(event, parts.map, facts), true).place;
    parts.here.textContent = `Around (${spot(facts, place)}): weight ${((shown.top * shown.map[place]) / 255).toFixed(3)}`;
  });
  parts.map.addEventListener("pointerleave", () => (parts.here.textContent = resting));
  parts.here.textContent = resting;
  const root = make("div", { class: "dm-explorer", role: "group", "aria-label": "Attention explorer",
    "data-lm-suppress-shortcuts": "true" }, make("style", {}, STYLE), parts.panels, layers.element, heads.element,
    parts.words, parts.here);
  // Jupyter's own shortcuts stay out: an arrow key here must not move to another cell.
  root.addEventListener("keydown", (event) => event.key !== "Tab" && event.key !== "Escape" && event.stopPropagation());
  el.append(root);
  const follow = () => show(chosen());
  for (const name of ["layer", "head", "query", "place"]) model.on(`change:${name}`, follow);
  show(chosen());
  return () => {
    for (const name of ["layer", "head", "query", "place"]) model.off(`change:${name}`, follow);
    URL.revokeObjectURL(parts.url);
  };
}

export default { render };
