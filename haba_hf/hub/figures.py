"""Pictures of an artifact: the gallery of its samples, and the curves of its distillation.

Shape legend: N bases, K hallucinators, M formations, R rows, T tiles in a row, C/H/W of a sample; P pixels a side in
the picture.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ..artifact.configuration_haba import HabaConfig
from ..artifact.loading import HabaProcessor
from ..artifact.modeling_haba import HabaModel
from ..artifact.processing_audio_haba import HabaAudioProcessor
from ..data.corruptions import CORRUPTIONS, SEVERITIES, STANDARD_CORRUPTIONS, corrupt
from ..evaluation import REAL, Embedding, RobustnessResult
from ..utils.files import atomic_file
from .stored import pictures, stored_caption, stored_columns, stored_pictures

DPI = 100
TILE_PIXELS = 64  # a tile is enlarged by whole factors to at least this
GAP_PIXELS = 4
MAX_SIDE_PIXELS = 2**15  # matplotlib draws no picture of 2**16 pixels a side

EMBEDDING_MARKERS = "os^DvP*X<>"

# Panels of the training curves in this order; other fields follow by name.
CURVES = ("loss", "l_dd", "l_cos", "l_con", "l_task", "student_learning_rate", "validation_accuracy")
CURVE_TITLES = {
    "l_dd": "l_dd: distance to the real data",
    "l_cos": "l_cos: likeness of a basis's samples",
    "l_con": "l_con: contrastive loss of the adversary",
    "l_task": "l_task: its classification loss",
    "seconds": "seconds of a step",
    "validation_accuracy": "validation accuracy (%)",
}
# A curve of more steps than this is drawn pale, and its running mean over a twentieth of them on top.
MOST_STEPS_UNSMOOTHED = 100


def save_gallery(
    model: HabaModel,
    processor: HabaProcessor,
    path: str | Path,
    bases_per_class: int | None = None,
) -> None:
    """
    Draws the artifact as a PNG: one row for each basis, class by class with the class names, and in the columns the
    basis as it is stored and the samples each hallucinator makes of it. Bases that are themselves samples (plain
    pixels, K = 0) get one row for each class.

    Pixels are enlarged to squares, not smoothed. A basis of one channel of color samples is shown grey. Spectrograms
    have time to the right and frequency upwards.

    Args:
        model ([`HabaModel`]): the artifact.
        processor ([`HabaImageProcessor`] or [`HabaAudioProcessor`]): the artifact's, which makes pictures of samples.
        path (`str`): the PNG to write, in one piece.
        bases_per_class (`int`, *optional*): show only the first ones of each class, by default up to 10.

    Raises:
        `ValueError`: if `bases_per_class` is out of range, the picture would be too large, or the processor is of
            another space.
        `OSError`: if the file cannot be written.
    """
    config = model.config
    processor.check_fits(config)
    shown = min(config.bases_per_class, 10) if bases_per_class is None else bases_per_class
    if not 1 <= shown <= config.bases_per_class:
        raise ValueError(f"bases_per_class must be 1 to {config.bases_per_class}, the artifact's, got {shown}.")
    rows_of_class = shown if stored_columns(config) else 1
    num_classes = min(config.num_labels, max(_rows_that_fit(config) // rows_of_class, 1))
    class_names = [config.id2label[label] for label in range(num_classes)]
    basis_ids = torch.cat([(model.class_ids == label).nonzero().flatten()[:shown] for label in range(num_classes)])
    with torch.no_grad():
        samples = pictures(processor, model(basis_ids).samples.float())
    columns = [f"$H_{{{j + 1}}}$" for j in range(config.num_hallucinators)]
    stored = stored_columns(config)
    if stored:
        bases = stored_pictures(model, processor, basis_ids)
        tiles_RTCHW = torch.cat([bases, samples.unflatten(0, (len(basis_ids), -1))], dim=1)
        rows = [name if i == 0 else "" for name in class_names for i in range(shown)]
        columns = columns or ["sample"]
    else:
        tiles_RTCHW = samples.unflatten(0, (num_classes, -1))
        rows, columns = class_names, [str(i + 1) for i in range(shown)]
    if config.num_formations > 1:
        columns = [f"{name}, {m + 1}" for name in columns for m in range(config.num_formations)]
    columns = [*stored, *columns]
    caption = stored_caption(config)
    if isinstance(processor, HabaAudioProcessor):
        scale = "" if processor.mel_bins is None else ", mel scale"
        sound = (
            f"time: 0 to {processor.clip_seconds:g} s to the right; "
            f"frequency: 0 to {processor.sampling_rate / 2000:g} kHz upwards{scale}"
        )
        caption = f"{sound}\n{caption}" if caption else sound
    if num_classes < config.num_labels:
        part = f"the first {num_classes} of {config.num_labels} classes"
        caption = f"{caption}\n{part}" if caption else part
    _save(draw_tiles(tiles_RTCHW.cpu(), rows, columns, caption), path)


def _rows_that_fit(config: HabaConfig) -> int:
    height, width = config.sample_shape[1:]
    return MAX_SIDE_PIXELS // (height * _enlargement(height, width) + GAP_PIXELS)


def _enlargement(height: int, width: int) -> int:
    return math.ceil(TILE_PIXELS / min(height, width))


def save_contact_sheet(image: Tensor, path: str | Path, seed: int = 0) -> None:
    """
    Draws one image under every corruption of CIFAR-10-C as a PNG: a row for each corruption, the clean image first and
    then the severities 1 to 5.

    Args:
        image (`torch.Tensor`): uint8 `[3, H, W]`.
        path (`str`): the PNG to write, in one piece.
        seed (`int`, *optional*, defaults to 0): of the corruptions.

    Raises:
        `ValueError`: if the image cannot be corrupted.
        `OSError`: if the file cannot be written.
    """
    image_1CHW = image.cpu()[None]
    rows = [
        torch.cat([image_1CHW, *(corrupt(image_1CHW, name, severity, seed) for severity in SEVERITIES)])
        for name in CORRUPTIONS
    ]
    columns = ["clean", *map(str, SEVERITIES)]
    _save(draw_tiles(torch.stack(rows) / 255, [name.replace("_", " ") for name in CORRUPTIONS], columns), path)


def plot_training_curves(metrics_path: str | Path, path: str | Path) -> None:
    """
    Draws every number in a JSONL log against its step, one panel for each field.

    Args:
        metrics_path (`str`): lines of JSON objects with `step` and any of `loss`, `l_dd`, `l_cos`, `l_con`, `l_task`,
            `student_learning_rate`, `validation_accuracy` or other numbers. A line may have a part of the fields.
            Where a step comes twice, as after a resume, the later line counts.
        path (`str`): the PNG to write, in one piece.

    Raises:
        `ValueError`: if a line is not such an object, or the log holds no numbers.
        `OSError`: if a file cannot be read or written.
    """
    curves = _read_curves(metrics_path)
    if not curves:
        raise ValueError(f"{metrics_path} holds no numbers to draw: it needs lines with a step and, e.g., a loss.")
    names = [name for name in CURVES if name in curves] + sorted(curves.keys() - set(CURVES))
    num_columns = min(len(names), 3)
    num_rows = math.ceil(len(names) / num_columns)
    figure = Figure(figsize=(4 * num_columns, 2.6 * num_rows), dpi=DPI, layout="constrained")
    for i, name in enumerate(names):
        axes = figure.add_subplot(num_rows, num_columns, i + 1)
        steps, values = np.array(sorted(curves[name].items()), dtype=float).T
        if len(steps) > MOST_STEPS_UNSMOOTHED:
            axes.plot(steps, values, linewidth=0.5, color="C0", alpha=0.3)
            steps, values = _running_mean(steps, values)
        axes.plot(steps, values, linewidth=1.2, color="C0", marker="o" if len(steps) <= 30 else None, markersize=3)
        axes.set_title(CURVE_TITLES.get(name, name.replace("_", " ")), fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    if any(len(curve) > MOST_STEPS_UNSMOOTHED for curve in curves.values()):
        figure.supxlabel("pale: every step; dark: the mean over a twentieth of them", fontsize=8)
    _save(figure, path)


def _running_mean(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over windows of a twentieth of a curve, each at the mean of its steps."""
    length = max(len(steps) // 20, 1)
    window = np.full(length, 1 / length)
    return np.convolve(steps, window, "valid"), np.convolve(values, window, "valid")


def plot_robustness(results: Sequence[RobustnessResult], path: str | Path) -> None:
    """
    Draws the curve of the supplement's Fig. 2: accuracy against severity (0: clean images), the mean over all 19
    corruptions as a line with a band of one standard deviation over the students, over the 15 standard ones dashed.

    Args:
        results (`Sequence[RobustnessResult]`): a line for each system.
        path (`str`): the PNG to write, in one piece.

    Raises:
        `OSError`: if the file cannot be written.
    """
    figure = Figure(figsize=(6, 4), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    severities = [0, *SEVERITIES]
    for i, result in enumerate(results):
        means, stds = 100 * np.array(result.curve()).T
        axes.plot(severities, means, color=f"C{i}", marker="o", markersize=4, label=result.system)
        axes.fill_between(severities, means - stds, means + stds, color=f"C{i}", alpha=0.2, linewidth=0)
        standard, _ = 100 * np.array(result.curve(STANDARD_CORRUPTIONS)).T
        axes.plot(severities, standard, color=f"C{i}", linestyle="--", linewidth=1)
    axes.set_xlabel(f"severity (0: clean); mean of {len(CORRUPTIONS)} corruptions, dashed: the standard 15")
    axes.set_ylabel("accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def plot_embedding(embedding: Embedding, class_names: Sequence[str], path: str | Path) -> None:
    """
    Draws the supplement's Fig. 3: real images as small grey points, samples colored by their hallucinator, each class
    with a marker of its own.

    Args:
        embedding ([`Embedding`]): points, classes and sources.
        class_names (`Sequence[str]`): in label order.
        path (`str`): the PNG to write, in one piece.

    Raises:
        `OSError`: if the file cannot be written.
    """
    figure = Figure(figsize=(6.5, 5), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    labels, sources = embedding.labels.unique().tolist(), embedding.sources.unique().tolist()
    for source in sources:
        for i, label in enumerate(labels):
            x, y = embedding.points[(embedding.labels == label) & (embedding.sources == source)].T.numpy()
            marker = EMBEDDING_MARKERS[i % len(EMBEDDING_MARKERS)]
            if source == REAL:
                name = class_names[label].replace("$", r"\$")  # no formula
                axes.scatter(x, y, s=10, marker=marker, color="0.75", linewidths=0, label=name)
                continue
            name = f"$H_{{{source + 1}}}$" if max(sources) else "samples"
            color, once = f"C{source % 10}", name if i == 0 else ""
            axes.scatter(x, y, s=40, marker=marker, color=color, edgecolors="black", label=once, zorder=2)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)


def _read_curves(metrics_path: str | Path) -> dict[str, dict[int, float]]:
    """The log as {field: {step: value}}."""
    curves: dict[str, dict[int, float]] = {}
    for number, line in enumerate(Path(metrics_path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{metrics_path}, line {number} is not JSON ({error}): remove or mend it.") from error
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise ValueError(
                f"{metrics_path}, line {number} is not an object with an integer step: remove or mend it."
            )
        for name, value in record.items():
            if name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
                curves.setdefault(name, {})[record["step"]] = value
    return curves


def draw_tiles(tiles_RTCHW: Tensor, rows: list[str], columns: list[str], caption: str = "") -> Figure:
    """
    Images as a figure: a row of tiles for each name of `rows`, `columns` above them. Pixels are enlarged to squares.

    Args:
        tiles_RTCHW (`torch.Tensor`): `[R, T, C, H, W]` in [0, 1], C 1 (grey) or 3.
        caption (`str`, *optional*): below the tiles.

    Raises:
        `ValueError`: if the picture would be too large.
    """
    factor = _enlargement(*tiles_RTCHW.shape[-2:])
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


def _save(figure: Figure, path: str | Path) -> None:
    # Drawn by Agg on a canvas of its own: pyplot's global backend and figures stay the caller's.
    canvas = FigureCanvasAgg(figure)
    with atomic_file(path) as aside:
        canvas.print_figure(aside, format="png")
