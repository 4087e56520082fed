// Shows an anywidget without Jupyter: a model that only remembers, and the widget's own module.

function remember(state) {
  const listeners = new Map();
  const of = (event) => listeners.get(event) ?? listeners.set(event, new Set()).get(event);
  return {
    get: (name) => state[name],
    set: (name, value) => {
      state[name] = value;
      for (const listener of [...of(`change:${name}`), ...of("change")]) listener();
    },
    on: (event, listener) => of(event).add(listener),
    off: (event, listener) => (listener ? of(event).delete(listener) : of(event).clear()),
    save_changes: () => {},
    send: () => {},
  };
}

function decode(text) {
  return new DataView(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
}

async function host(identity) {
  const { state, buffers } = JSON.parse(document.getElementById(`${identity}-state`).textContent);
  for (const [name, text] of Object.entries(buffers)) state[name] = decode(text);
  const address = URL.createObjectURL(new Blob([state._esm], { type: "text/javascript" }));
  const { default: given } = await import(address);
  const widget = typeof given === "function" ? await given() : given;
  const model = remember(state), el = document.createElement("div");
  if (state._css) el.append(Object.assign(document.createElement("style"), { textContent: state._css }));
  await widget.initialize?.({ model });
  await widget.render({ model, el });
  document.getElementById(identity).replaceChildren(el); // only now: whatever fails before leaves the still picture
  return model;
}
