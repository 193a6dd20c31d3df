"""Columns of a table and their labels: which column is what, and that a label means one class everywhere."""

import re
from typing import Any

import torch
from datasets import ClassLabel, Dataset, Features, Image, Value

LABEL_COLUMN_NAMES = ("label", "labels", "fine_label")


def columns_in_words(features: Features) -> str:
    """The columns of a table and their types, for messages."""
    return ", ".join(f"{column} ({type(feature).__name__})" for column, feature in features.items())


def find_image_column(features: Features, wanted: str | None, name: str) -> str:
    """The column of images: `wanted`, or else the only one; `ValueError` if there is none or several."""
    found = [column for column, feature in features.items() if isinstance(feature, Image)]
    return _chosen_column(features, wanted, found, "image", name)


def find_label_column(features: Features, wanted: str | None, name: str) -> str:
    """
    The column of labels: `wanted`, or else the only `ClassLabel`, or the only column with the name of one;
    `ValueError` if there is none or several.
    """
    found = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    if not found:
        found = [column for column in LABEL_COLUMN_NAMES if column in features and _is_label(features[column])]
    return _chosen_column(features, wanted, found, "label", name)


def _chosen_column(features: Features, wanted: str | None, found: list[str], what: str, name: str) -> str:
    if wanted is not None and wanted not in features:
        raise ValueError(f"{name} has no column {wanted!r}; its columns are {columns_in_words(features)}.")
    if wanted is None and len(found) != 1:
        raise ValueError(
            f"{name} has {len(found)} {what} columns; set {what}_column to one of its columns "
            f"{columns_in_words(features)}."
        )
    return found[0] if wanted is None else wanted


def _is_label(feature: Any) -> bool:
    named = isinstance(feature, Value) and re.fullmatch(r"u?int\d+|(large_)?string|bool", feature.dtype)
    return isinstance(feature, ClassLabel) or bool(named)


def class_names_of(train: Dataset, label_column: str) -> list[str]:
    """
    Names in label order: a ClassLabel's own; of strings, integers and booleans the values that occur, sorted. -1 is no
    label, unless the labels are -1 and 1.
    """
    feature = train.features[label_column]
    if isinstance(feature, ClassLabel):
        return list(feature.names)
    if not _is_label(feature):
        raise ValueError(
            f"Column {label_column!r} holds no labels: a ClassLabel, integers, strings or booleans are needed."
        )
    values = {value for value in train.data.column(label_column).unique().to_pylist() if value is not None}
    if "int" in feature.dtype and values != {-1, 1}:
        values = {value for value in values if value >= 0}
    return [str(value) for value in sorted(values)]


def read_labels(table: Dataset, label_column: str, class_names: list[str], split: str) -> torch.Tensor:
    """
    Labels of a split, int64 [n], as places in `class_names`: what a label stands for is matched by name.

    Raises:
        `ValueError`: if there is no such column, an image is unlabeled, or a label is none of the classes.
    """
    if label_column not in table.features:
        raise ValueError(
            f"The {split} split has no column {label_column!r}; its columns are {columns_in_words(table.features)}."
        )
    feature = table.features[label_column]
    if not _is_label(feature):
        raise ValueError(f"Column {label_column!r} of the {split} split holds no labels but {feature}.")
    values = table.select_columns([label_column]).with_format("arrow")[:][label_column].to_pylist()
    unlabeled = sum(value is None or (value == -1 and "-1" not in class_names) for value in values)
    if unlabeled:
        raise ValueError(
            f"{unlabeled} of {len(values)} images of the {split} split are unlabeled (-1 or empty), as in test sets "
            "whose labels the Hub keeps back; leave that split out or label it."
        )
    place = {name: label for label, name in enumerate(class_names)}
    if isinstance(feature, ClassLabel):
        name_of = dict(enumerate(feature.names))
        values = [name_of.get(value, value) for value in values]
    labels = [place.get(str(value), -1) for value in values]
    outside = [value for value, label in zip(values, labels, strict=True) if label < 0]
    if outside:
        raise ValueError(
            f"The {split} split has the label {outside[0]!r}, which is none of the {len(class_names)} classes of the "
            f"train split ({', '.join(class_names[:10])}{', ...' if len(class_names) > 10 else ''})."
        )
    return torch.tensor(labels, dtype=torch.int64)
