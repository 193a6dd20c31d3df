"""Plots of what was measured: curves of a distillation, accuracy under corruptions, samples among real images."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data.corruptions import CORRUPTIONS, SEVERITIES, STANDARD_CORRUPTIONS
from ..evaluation import REAL, Embedding, RobustnessResult
from ..evaluation.attacks import FGSM, PGD
from .tiles import DPI, save_figure

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
    curves = read_curves(metrics_path)
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
    save_figure(figure, path)


def _running_mean(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over windows of a twentieth of a curve, each at the mean of its steps."""
    length = max(len(steps) // 20, 1)
    window = np.full(length, 1 / length)
    return np.convolve(steps, window, "valid"), np.convolve(values, window, "valid")


def plot_robustness(results: Sequence[RobustnessResult], path: str | Path) -> None:
    """
    Draws the curve of the supplement's Fig. 2: accuracy against severity (0: clean images), the mean over all 19
    corruptions as a line with a band of one standard deviation over the students, over the 15 standard ones dashed.
    Beside it, if students were attacked, accuracy against epsilon, under PGD as a line and under FGSM dashed.

    Args:
        results (`Sequence[RobustnessResult]`): a line for each system.
        path (`str`): the PNG to write, in one piece.

    Raises:
        `OSError`: if the file cannot be written.
    """
    attacked = any(result.attacks for result in results)
    figure = Figure(figsize=(12 if attacked else 6, 4), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, 2 if attacked else 1, squeeze=False, sharey=True)[0]
    for i, result in enumerate(results):
        _draw_curves(panels[0], [0, *SEVERITIES], result.curve(), result.curve(STANDARD_CORRUPTIONS), i, result.system)
        if attacked:
            of_pgd, of_fgsm = result.attack_curve(PGD), result.attack_curve(FGSM)
            _draw_curves(panels[1], [0, *result.epsilons], of_pgd, of_fgsm, i, result.system)
            panels[1].set_xlabel("epsilon (1/255 of a pixel's range); PGD, dashed: FGSM")
    panels[0].set_xlabel(f"severity (0: clean); mean of {len(CORRUPTIONS)} corruptions, dashed: the standard 15")
    panels[0].set_ylabel("accuracy (%)")
    panels[0].legend()
    save_figure(figure, path)


Curve = Sequence[tuple[float, float]]


def _draw_curves(axes: Axes, levels: Sequence[float], curve: Curve, dashed: Curve, i: int, label: str) -> None:
    """Two curves of the i-th system in its color, the first with a band of one standard deviation."""
    means, stds = 100 * np.array(curve).T
    axes.plot(levels, means, color=f"C{i}", marker="o", markersize=4, label=label)
    axes.fill_between(levels, means - stds, means + stds, color=f"C{i}", alpha=0.2, linewidth=0)
    axes.plot(levels, 100 * np.array(dashed).T[0], color=f"C{i}", linestyle="--", linewidth=1)
    axes.grid(alpha=0.3)


def plot_embedding(embedding: Embedding, class_names: Sequence[str], path: str | Path) -> None:
    """
    Draws the supplement's Fig. 3: each class in a color of its own, real images as small pale points, samples as large
    ones with a marker for each hallucinator.

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
    colors = {label: f"C{i % 10}" for i, label in enumerate(labels)}
    markers = {source: EMBEDDING_MARKERS[source % len(EMBEDDING_MARKERS)] for source in sources if source != REAL}
    for label, color in colors.items():
        for source in sources:
            x, y = embedding.points[(embedding.labels == label) & (embedding.sources == source)].T.numpy()
            if source == REAL:
                axes.scatter(x, y, s=12, color=color, alpha=0.35, linewidths=0)
            else:
                axes.scatter(x, y, s=70, marker=markers[source], color=color, edgecolors="black", zorder=2)
    # The legend names colors and markers apart: empty series, which draw nothing else.
    for label, color in colors.items():
        name = class_names[label].replace("$", r"\$")  # no formula
        axes.scatter([], [], s=40, color=color, linewidths=0, label=name)
    axes.scatter([], [], s=12, color="0.5", alpha=0.5, linewidths=0, label="real image")
    for source, marker in markers.items():
        name = f"$H_{{{source + 1}}}$" if max(sources) else "sample"
        axes.scatter([], [], s=50, marker=marker, color="white", edgecolors="black", label=name)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, path)


def read_curves(metrics_path: str | Path) -> dict[str, dict[int, float]]:
    """
    A JSONL log, as of [`plot_training_curves`], as {field: {step: value}}.

    Raises:
        `ValueError`: if a line is no object with a step.
        `OSError`: if the file cannot be read.
    """
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
