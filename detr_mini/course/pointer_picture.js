// A picture with its description. It reports where a pointer hovers over it or drags on it, as fractions from its upper
// left corner, at most once per drawn frame. The description is one element that stays, so that screen readers read
// out its changes.

function render({ model, el }) {
  const picture = document.createElement("img"), words = document.createElement("p");
  const feels = model.get("feels");
  picture.draggable = false;
  Object.assign(picture.style, { width: `${model.get("width")}px`, maxWidth: "100%", display: "block" });
  if (feels) Object.assign(picture.style, { touchAction: "none", cursor: feels === "drag" ? "grab" : "crosshair" });
  words.setAttribute("aria-live", "polite");
  words.style.cssText = `max-width: ${model.get("width")}px; margin: 4px 0; line-height: 1.4`;
  el.append(picture, words);

  let address = "", held = false, waiting = null, serial = 0;
  const show = () => {
    URL.revokeObjectURL(address);
    address = URL.createObjectURL(new Blob([model.get("value")], { type: "image/png" }));
    picture.src = address;
  };
  const say = () => { picture.alt = words.textContent = model.get("words"); };
  const tell = (event, phase) => {
    const frame = picture.getBoundingClientRect();
    const x = (event.clientX - frame.left) / frame.width, y = (event.clientY - frame.top) / frame.height;
    model.set("pointer", { phase, x, y, serial: ++serial });
    model.save_changes();
  };
  const flush = () => {
    if (waiting) tell(...waiting);
    waiting = null;
  };
  const later = (event, phase) => {
    if (!waiting) requestAnimationFrame(flush);
    waiting = [event, phase];
  };

  if (feels) {
    picture.addEventListener("pointerdown", (event) => {
      held = true;
      picture.setPointerCapture(event.pointerId);
      tell(event, "down");
    });
    picture.addEventListener("pointermove", (event) => {
      if (held) later(event, "move");
      else if (feels === "hover") later(event, "hover");
    });
    for (const end of ["pointerup", "pointercancel"]) {
      picture.addEventListener(end, (event) => {
        if (!held) return;
        flush();
        held = false;
        tell(event, "up");
      });
    }
  }
  model.on("change:value", show);
  model.on("change:words", say);
  show();
  say();
  return () => URL.revokeObjectURL(address);
}
export default { render };
