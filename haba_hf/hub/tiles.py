"""Images side by side in one picture, and where a picture is written.

Shape legend: R rows, T tiles in a row, C/H/W of a tile.
"""

import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ..utils.files import atomic_file

DPI = 100
TILE_PIXELS = 64  # a tile is enlarged by whole factors to at least this
GAP_PIXELS = 4
MAX_SIDE_PIXELS = 2**15  # matplotlib draws no picture of 2**16 pixels a side
# Images are hard to see whose values, but for the darkest and the brightest fiftieth, span less than this.
LITTLE_CONTRAST = 0.6


def enlargement(height: int, width: int) -> int:
    """The whole factor that a tile is enlarged by."""
    return math.ceil(TILE_PIXELS / min(height, width))


def stretched(images_BCHW: Tensor) -> tuple[Tensor, float]:
    """
    Images in [0, 1] of little contrast spread over that range, all in the same way, and by how much; others as they
    are, and 1.
    """
    low, high = np.quantile(images_BCHW.numpy(), [0.02, 0.98])
    if not 0 < high - low < LITTLE_CONTRAST:
        return images_BCHW, 1.0
    return ((images_BCHW - low) / (high - low)).clamp(0, 1), 1 / (high - low)


def draw_tiles(tiles_RTCHW: Tensor, rows: list[str], columns: list[str], caption: str = "") -> Figure:
    """
    Images as a figure: a row of tiles for each name of `rows`, `columns` above them. Pixels are enlarged to squares.

    Args:
        tiles_RTCHW (`torch.Tensor`): `[R, T, C, H, W]` in [0, 1], C 1 (grey) or 3.
        caption (`str`, *optional*): below the tiles.

    Raises:
        `ValueError`: if the picture would be too large.
    """
    factor = enlargement(*tiles_RTCHW.shape[-2:])
    # Grey as RGB, and as bytes: matplotlib then passes every pixel on as it is.
    tiles = (tiles_RTCHW * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).expand(-1, -1, -1, -1, 3).numpy()
    tiles = tiles.repeat(factor, axis=2).repeat(factor, axis=3)
    num_rows, num_columns, tile_height, tile_width, _ = tiles.shape
    pitch_y, pitch_x = tile_height + GAP_PIXELS, tile_width + GAP_PIXELS
    if max(num_rows * pitch_y, num_columns * pitch_x) > MAX_SIDE_PIXELS:
        raise ValueError(
            f"A gallery of {num_rows} x {num_columns} tiles is too large to draw: show fewer with bases_per_class."
        )
    # One image for all tiles: an axes for each would take minutes where there are hundreds.
    canvas = np.full((num_rows * pitch_y - GAP_PIXELS, num_columns * pitch_x - GAP_PIXELS, 3), 255, dtype=np.uint8)
    for row in range(num_rows):
        for column in range(num_columns):
            top, left = row * pitch_y, column * pitch_x
            canvas[top : top + tile_height, left : left + tile_width] = tiles[row, column]

    left_margin = 20 + 8 * max(len(name) for name in rows)
    top_margin, margin = 30, 10
    bottom_margin = 30 + 14 * caption.count("\n") if caption else margin
    caption_width = 6 * max(map(len, caption.split("\n")))
    picture_width = max(left_margin + canvas.shape[1], caption_width) + margin
    picture_height = top_margin + canvas.shape[0] + bottom_margin
    figure = Figure(figsize=(picture_width / DPI, picture_height / DPI), dpi=DPI)
    axes = figure.add_axes(
        (
            left_margin / picture_width,
            bottom_margin / picture_height,
            canvas.shape[1] / picture_width,
            canvas.shape[0] / picture_height,
        )
    )
    axes.imshow(canvas, interpolation="nearest")
    figure.text(0.5, margin / picture_height, caption, fontsize=8, ha="center")
    axes.set_xticks([i * pitch_x + tile_width / 2 for i in range(num_columns)], columns, fontsize=9)
    axes.set_yticks([i * pitch_y + tile_height / 2 for i in range(num_rows)], rows, fontsize=9, parse_math=False)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def figure_pixels(figure: Figure) -> np.ndarray:
    """A figure as uint8 `[height, width, 3]`."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_figure(figure: Figure, path: str | Path) -> None:
    """
    Writes a PNG in one piece. It is drawn by Agg on a canvas of its own: pyplot's global backend and figures stay the
    caller's.

    Raises:
        `OSError`: if the file cannot be written.
    """
    canvas = FigureCanvasAgg(figure)
    with atomic_file(path) as aside:
        canvas.print_figure(aside, format="png")
