"""Reading pictures in a browser."""

from playwright.sync_api import Locator

# A picture as text: what a canvas shows, or the bytes of an <img>.
BYTES = """async (picture) => {
  if (picture.tagName === "CANVAS") return picture.toDataURL();
  const file = await (await fetch(picture.src)).arrayBuffer();
  return Array.from(new Uint8Array(file), (byte) => String.fromCharCode(byte)).join("");
}"""


def bytes_of(picture: Locator) -> str:
    """What a picture shows, as text that can be compared."""
    return picture.evaluate(BYTES)
