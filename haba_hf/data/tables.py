"""Tables of encoded images: finding their files and columns, checking their labels, decoding them to uint8."""

# Shape suffixes: B images of a batch, n images, C channels, H height, W width.

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value, load_dataset
from datasets.table import InMemoryTable
from PIL import Image as PILImage

from ..artifact.processing_haba import GREY_MODES, HabaImageProcessor

DECODE_BATCH_SIZE = 256
LABEL_COLUMN_NAMES = ("label", "labels", "fine_label")
VALIDATION_SPLIT_NAMES = ("validation", "valid", "val")


def open_folder(folder: Path) -> dict[str, Dataset]:
    """Parquet files by split prefix, read without a copy in the datasets cache; else an image folder."""
    tables = {}
    for split in ("train", "test", *VALIDATION_SPLIT_NAMES):
        files = sorted([*folder.glob(f"{split}-*.parquet"), *folder.glob(f"{split}.parquet")])
        if files:
            table = pa.concat_tables([pq.read_table(file) for file in files], promote_options="default")
            tables[split] = Dataset(InMemoryTable(table))
    if tables:
        return tables
    try:
        return dict(load_dataset("imagefolder", data_dir=str(folder)))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} holds neither train-*.parquet files nor a folder of images train/<class>/*.png or of clips "
            f"<word>/*.wav. ({error})"
        ) from error


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
    integer_or_string = isinstance(feature, Value) and re.fullmatch(r"u?int\d+|(large_)?string", feature.dtype)
    return isinstance(feature, ClassLabel) or bool(integer_or_string)


def class_names_of(train: Dataset, label_column: str) -> list[str]:
    """Names in label order: a ClassLabel's own, sorted strings, or the integers 0 to C-1."""
    feature = train.features[label_column]
    if isinstance(feature, ClassLabel):
        return list(feature.names)
    if not _is_label(feature):
        raise ValueError(f"Column {label_column!r} holds no labels: a ClassLabel, integers or strings are needed.")
    values = [value for value in train.data.column(label_column).unique().to_pylist() if value is not None]
    if "string" in feature.dtype:
        return sorted(values)
    return [str(label) for label in range(max(values, default=-1) + 1)]


def read_labels(table: Dataset, label_column: str, class_names: list[str], split: str) -> torch.Tensor:
    """Labels of a split, int64 [n], checked."""
    if label_column not in table.features:
        raise ValueError(
            f"The {split} split has no column {label_column!r}; its columns are {columns_in_words(table.features)}."
        )
    feature = table.features[label_column]
    if isinstance(feature, ClassLabel) and list(feature.names) != class_names:
        raise ValueError(f"The {split} split names its classes otherwise than the train split: {feature.names}.")
    values = table.with_format("arrow")[:][label_column].to_pylist()
    unlabeled = sum(value is None or value == -1 for value in values)
    if unlabeled:
        raise ValueError(
            f"{unlabeled} of {len(values)} images of the {split} split are unlabeled (-1 or empty), as in test sets "
            "whose labels the Hub keeps back; leave that split out or label it."
        )
    known = {name: label for label, name in enumerate(class_names)}
    labels = [known.get(str(value), -1) for value in values] if isinstance(feature, Value) else values
    outside = [value for value, label in zip(values, labels, strict=True) if not 0 <= label < len(class_names)]
    if outside:
        raise ValueError(
            f"The {split} split has the label {outside[0]!r}, which is none of the {len(class_names)} classes of the "
            "train split; integer labels must run from 0 to C-1."
        )
    return torch.tensor(labels, dtype=torch.int64)


def decode(
    table: Dataset,
    column: str,
    rows: torch.Tensor,
    split: str,
    resize: int | None,
    shape: tuple[int, ...] | None,
    center_crop: bool = False,
) -> torch.Tensor:
    """
    Decodes one row or more to uint8 [n, C, H, W]; without a `shape` the images themselves set it. Memory for these
    and a batch of images in their own size.
    """
    num_channels = None if shape is None else shape[0]
    size: tuple[int, ...] | None = None if shape is None else shape[1:]
    if resize is not None:
        size = (resize, resize)
    images_nCHW = torch.empty(0)
    done = 0
    for batch_rows, images in _decode_batches(table, column, rows, split):
        size = size or (images[0].height, images[0].width)
        for row, image in zip(batch_rows, images, strict=True):
            if resize is None and (image.height, image.width) != size:
                raise ValueError(
                    f"The image of row {row} of the {split} split is {image.height}x{image.width} while others are "
                    f"{size[0]}x{size[1]}; set resize."
                )
        channels = num_channels or (1 if all(image.mode in GREY_MODES for image in images) else 3)
        processor = HabaImageProcessor(
            size={"height": size[0], "width": size[1]}, num_channels=channels, do_center_crop=center_crop
        )
        try:
            block_BCHW = processor.to_uint8(images)
        except ValueError:
            _name_unfit_row(processor, batch_rows, images, split)
            raise
        if not done:
            images_nCHW = block_BCHW.new_empty(len(rows), *block_BCHW.shape[1:])
        elif block_BCHW.shape[1] > images_nCHW.shape[1]:
            # One image in color makes all of them RGB; a grey image loses nothing by being repeated.
            images_nCHW = images_nCHW.repeat(1, block_BCHW.shape[1], 1, 1)
        images_nCHW[done : done + len(images)] = block_BCHW
        done += len(images)
    return images_nCHW


def _name_unfit_row(processor: HabaImageProcessor, rows: list[int], images: list, split: str) -> None:
    for row, image in zip(rows, images, strict=True):
        try:
            processor.to_uint8(image)
        except ValueError as error:
            raise ValueError(f"The image of row {row} of the {split} split is unfit: {error}") from error


def _decode_batches(
    table: Dataset, column: str, rows: torch.Tensor, split: str
) -> Iterator[tuple[list[int], list[PILImage.Image]]]:
    if column not in table.features:
        raise ValueError(
            f"The {split} split has no column {column!r}; its columns are {columns_in_words(table.features)}."
        )
    try:
        encoded = table.select_columns([column]).cast_column(column, Image(decode=False)).with_format("arrow")
    except (TypeError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"Column {column!r} of the {split} split holds no images. ({error})") from error
    for batch_rows in rows.split(DECODE_BATCH_SIZE):
        batch_rows = batch_rows.tolist()
        images: list[PILImage.Image] = []
        for row, entry in zip(batch_rows, encoded[batch_rows][column].to_pylist(), strict=True):
            if entry is None or (entry["bytes"] is None and entry["path"] is None):
                raise ValueError(f"Row {row} of the {split} split has no image; leave it out.")
            try:
                image = PILImage.open(entry["path"] if entry["bytes"] is None else io.BytesIO(entry["bytes"]))
                image.load()
            except (OSError, SyntaxError, ValueError) as error:
                place = "" if entry["path"] is None else f" ({entry['path']})"
                raise ValueError(f"The image of row {row} of the {split} split{place} is corrupt: {error}") from error
            images.append(image)
        yield batch_rows, images
