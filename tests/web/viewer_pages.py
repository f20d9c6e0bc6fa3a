"""What the tests of the viewer share: reading its canvas and its URL."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from fake_studies import SOURCE, STUDY
from web_site import Tab

from ichx.ct.windows import windows_numpy

if TYPE_CHECKING:
    from playwright.sync_api import Page


OpenTab = Callable[..., Tab]

PATH = f"/studies/{SOURCE}/{STUDY}"

READ = """(canvas) => {
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [canvas.width, canvas.height];
  const context = copy.getContext("2d");
  context.drawImage(canvas, 0, 0);
  return [canvas.height, canvas.width, Array.from(context.getImageData(0, 0, copy.width, copy.height).data)];
}"""

SOFTWARE_GL = """const original = WebGL2RenderingContext.prototype.getExtension;
WebGL2RenderingContext.prototype.getExtension = function (name) {
  return name === "WEBGL_debug_renderer_info" ? null : original.call(this, name);
};"""

NO_GL = """const original = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, options) {
  return kind.startsWith("webgl") ? null : original.call(this, kind, options);
};"""


def canvas_pixels(page: "Page", pane: int = 0) -> npt.NDArray[np.uint8]:
    """Return the red values of the canvas `(rows, columns)`; asserts that the pixels are opaque grey."""
    rows, columns, values = page.locator(".stage canvas.pixels").nth(pane).evaluate(READ)
    rgba = np.array(values, np.uint8).reshape(rows, columns, 4)
    assert (rgba[..., :3] == rgba[..., :1]).all()
    assert (rgba[..., 3] == 255).all()
    return rgba[..., 0]


def expected_pixels(
    hu: npt.NDArray[np.int16], window: tuple[float, float], shape: str = "linear"
) -> npt.NDArray[np.uint8]:
    """Return what `ichx.ct.windows` makes of a slice, in grey levels."""
    return np.rint(255 * windows_numpy(hu, (35, 90), [window], shape)[0]).astype(np.uint8)


def wait_for_slice(page: "Page", name: str) -> None:
    """Wait until each pane shows a slice."""
    page.wait_for_function(
        """name => {
          const stages = [...document.querySelectorAll('.stage')];
          return stages.length > 0 && stages.every((one) => one.dataset.shown === name);
        }""",
        arg=name,
    )


def query_of(page: "Page") -> dict[str, Any]:
    """Return the parameters of the URL."""
    return page.evaluate("Object.fromEntries(new URLSearchParams(location.search))")  # type: ignore[no-any-return]


def wait_for_query(page: "Page", name: str, value: str | None) -> None:
    """Wait until a parameter of the URL has a value."""
    page.wait_for_function(
        "([name, value]) => new URLSearchParams(location.search).get(name) === value", arg=[name, value]
    )
