"""Encoded images to uint8: the pixels that `datasets` decodes, in the form that the processor gives them."""

# Shape suffixes: B images of a batch, n images, C channels, H height, W width.

import io
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Image
from PIL import Image as PILImage
from torch import distributed

from ..artifact.processing_haba import GREY_MODES, SIXTEEN_BIT_MODES, HabaImageProcessor, upright
from ..utils.progress import Progress
from .tables import columns_in_words

# Images of a batch, and pixels after which it ends: a photograph in its own size has millions. Of encoded ones fewer
# are read at a time.
DECODE_BATCH_SIZE, DECODE_BATCH_PIXELS = 256, 1 << 24
ROWS_READ = 32
# Pillow runs an interpreter on these.
UNSAFE_FORMATS = ("EPS", "WMF")
# Of a 16-bit image the upper 8 bits are kept; in the lower half of the range less than 7 of them would say anything.
LEAST_MAXIMUM = 1 << 15


@dataclass
class ImageDecoder:
    """
    How images are decoded, and what there is to say about those that were.

    Args:
        resize (`int`, *optional*): height and width that images are brought to.
        center_crop (`bool`, *optional*, defaults to `False`): keep their proportions and crop the center.
        rgba_background (`list[int]`, *optional*): the color behind transparent images; without it they are refused.
        notes (`list[str]`): sentences for the user, each once.
    """

    resize: int | None = None
    center_crop: bool = False
    rgba_background: list[int] | None = None
    notes: list[str] = field(default_factory=list)

    def blocks(
        self, table: Dataset, column: str, rows: torch.Tensor, split: str, shape: tuple[int, ...] | None = None
    ) -> Generator[torch.Tensor]:
        """
        Decodes one row or more, block by block, to uint8 [B, C, H, W]: of the `shape` (C, H, W), or as the images
        themselves say, grey if all of them are. Where blocks were grey until an image in color comes, all rows come
        again as RGB: a block of another shape is of the first rows. Memory for a batch of images in their own size.

        Raises:
            `ValueError`: if a row has no image, one that is corrupt or unfit, or one of another size; names the row.
        """
        num_channels = None if shape is None else shape[0]
        size: tuple[int, ...] | None = None if shape is None else shape[1:]
        if self.resize is not None:
            size = (self.resize, self.resize)
        greatest = 0  # of 16 bits
        shown = not (distributed.is_available() and distributed.is_initialized() and distributed.get_rank())
        with Progress(f"decoding the {split} split", len(rows), "image", shown=shown) as progress:
            for batch_rows, images in _decode_batches(table, column, rows, split):
                size = size or (images[0].height, images[0].width)
                self._check_sizes(batch_rows, images, split, size)
                deep = [int(np.asarray(image).max()) for image in images if image.mode in SIXTEEN_BIT_MODES]
                greatest = max([greatest, *deep])
                if num_channels is None and not all(map(self._is_grey, images)):
                    num_channels = 3
                    if progress.done:
                        in_color = (3, *size)
                        break
                processor = HabaImageProcessor(
                    size={"height": size[0], "width": size[1]},
                    num_channels=num_channels or 1,
                    do_center_crop=self.center_crop,
                    rgba_background=self.rgba_background,
                )
                try:
                    block_BCHW = processor.to_uint8(images)
                except ValueError:
                    _name_unfit_row(processor, batch_rows, images, split)
                    raise
                yield block_BCHW
                progress.update(len(batch_rows))
            else:
                self._check_depth(greatest, split)
                return
        yield from self.blocks(table, column, rows, split, in_color)

    def _is_grey(self, image: PILImage.Image) -> bool:
        behind = self.rgba_background or [0]
        return image.mode in GREY_MODES or (image.mode == "LA" and len(set(behind)) == 1)

    def _check_sizes(self, rows: list[int], images: list[PILImage.Image], split: str, size: tuple[int, ...]) -> None:
        for row, image in zip(rows, images, strict=True):
            if self.resize is None and (image.height, image.width) != size:
                raise ValueError(
                    f"The image of row {row} of the {split} split is {image.height}x{image.width} while others are "
                    f"{size[0]}x{size[1]}; set resize, or bring them to one size."
                )
            if image.height != image.width and self.resize is not None and not self.center_crop:
                self.say(
                    f"images that are not square are stretched, e.g. row {row} of the {split} split by "
                    f"{max(image.size) / min(image.size):.2f}; center_crop keeps their proportions"
                )
            if getattr(image, "is_animated", False):
                self.say("of images with several frames the first is taken")

    def _check_depth(self, greatest: int, split: str) -> None:
        if greatest == 0:
            return
        if greatest < LEAST_MAXIMUM:
            raise ValueError(
                f"The 16-bit images of the {split} split have no value above {greatest} of 65535, and 8 bits would "
                "keep little of them: scale them to the full range first."
            )
        self.say("of 16-bit images the upper 8 bits are kept")

    def say(self, note: str) -> None:
        """Notes a sentence, unless one that begins like it is noted: of many images one is named."""
        if not any(known.split(",")[0] == note.split(",")[0] for known in self.notes):
            self.notes.append(note)


def _name_unfit_row(processor: HabaImageProcessor, rows: list[int], images: list, split: str) -> None:
    for row, image in zip(rows, images, strict=True):
        try:
            processor.to_uint8(image)
        except ValueError as error:
            raise ValueError(f"The image of row {row} of the {split} split is unfit: {error}") from error


def encoded_images(table: Dataset, column: str, split: str) -> Dataset:
    """
    The column of images alone, not decoded: entries of bytes and path.

    Raises:
        `ValueError`: if there is no such column, or it holds no images.
    """
    if column not in table.features:
        raise ValueError(
            f"The {split} split has no column {column!r}; its columns are {columns_in_words(table.features)}."
        )
    try:
        return table.select_columns([column]).cast_column(column, Image(decode=False)).with_format("arrow")
    except (TypeError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"Column {column!r} of the {split} split holds no images. ({error})") from error


def _decode_batches(
    table: Dataset, column: str, rows: torch.Tensor, split: str
) -> Iterator[tuple[list[int], list[PILImage.Image]]]:
    PILImage.init()
    formats = [name for name in PILImage.OPEN if name not in UNSAFE_FORMATS]
    batch_rows: list[int] = []
    images: list[PILImage.Image] = []
    pixels = 0
    for row, entry in _entries(encoded_images(table, column, split), column, rows):
        if entry is None or (entry["bytes"] is None and entry["path"] is None):
            raise ValueError(f"Row {row} of the {split} split has no image; leave it out.")
        try:
            source = entry["path"] if entry["bytes"] is None else io.BytesIO(entry["bytes"])
            image: PILImage.Image = PILImage.open(source, formats=formats)
            image.load()
            image = upright(image)
        except (OSError, SyntaxError, ValueError, PILImage.DecompressionBombError) as error:
            place = "" if entry["path"] is None else f" ({entry['path']})"
            raise ValueError(f"The image of row {row} of the {split} split{place} is corrupt: {error}") from error
        batch_rows.append(row)
        images.append(image)
        pixels += image.width * image.height
        if len(images) == DECODE_BATCH_SIZE or pixels >= DECODE_BATCH_PIXELS:
            yield batch_rows, images
            batch_rows, images, pixels = [], [], 0
    if images:
        yield batch_rows, images


def _entries(encoded: Dataset, column: str, rows: torch.Tensor) -> Iterator[tuple[int, dict[str, Any] | None]]:
    for rows_read in rows.split(ROWS_READ):
        yield from zip(rows_read.tolist(), encoded[rows_read.tolist()][column].to_pylist(), strict=True)
