"""
A distilled set as a folder of pictures, out and in: what every other framework reads, at 8 bits a pixel.

Shape legend: N pictures, C/H/W of a picture.
"""

import csv
from pathlib import Path

import torch
from torch import Tensor

from ..artifact.processing_audio_haba import HabaAudioProcessor
from ..data.decoding import ImageDecoder
from ..data.folders import open_pictures
from ..data.pixel_store import SplitSource, decode_split
from ..data.tables import class_names_of, columns_in_words, read_labels
from ..utils.files import atomic_directory, check_empty
from ..utils.text import file_word
from .artifact import Artifact

METADATA = "metadata.csv"
FILE = "file_name"  # as `datasets` calls the column
IDS = ("basis", "hallucinator", "formation")


def class_folders(class_names: list[str]) -> list[str]:
    """A folder's name for each class, of safe characters; with its number where two would be one folder."""
    words = [file_word(name)[:80] or "_" for name in class_names]
    if len({word.casefold() for word in words}) < len(words):  # some file systems take A for a
        words = [f"{label}_{word}" for label, word in enumerate(words)]
    return words


def write_pictures(artifact: Artifact, directory: str | Path) -> Path:
    """
    All samples as `<class>/<number>.png`, clipped to 0 to 255 and rounded, so not exact, and `metadata.csv`, which
    `load_dataset("imagefolder", data_dir=directory)` reads: file, label, class, and which basis, hallucinator and tile
    a picture is of (counted from 0, as ids; those that the artifact has).

    Args:
        artifact ([`Artifact`]): whose samples.
        directory (`str`): a new or empty folder.

    Raises:
        `ValueError`: if the folder holds anything, the artifact is of speech, or has soft labels or step sizes, for
            which a folder of pictures has no place.
        `OSError`: if it cannot be written.
    """
    directory, model, config = Path(directory), artifact.model, artifact.model.config
    if isinstance(artifact.processor, HabaAudioProcessor):
        raise ValueError("The artifact is of speech, and its samples are no pictures: haba listen writes them as WAV.")
    if config.label_kind == "soft":
        raise ValueError("Its labels are probabilities, which the layout folder has no place for: take mtt.")
    if model.step_sizes is not None:
        raise ValueError("Its students take steps of learned sizes, which the layout folder has no place for.")
    check_empty(directory, "pictures")
    with torch.no_grad():
        output = model.materialize()
    ids = {name: output[f"{name}_ids"].tolist() for name in IDS if f"{name}_ids" in output}
    labels = output["labels"].tolist()
    folders = class_folders([config.id2label[label] for label in range(config.num_labels)])
    digits, numbers = len(str(config.samples_per_class)), [0] * config.num_labels
    with atomic_directory(directory) as aside, (aside / METADATA).open("w", encoding="utf-8", newline="") as lines:
        table = csv.writer(lines)
        table.writerow([FILE, "label", "class", *ids])
        for folder in folders:
            (aside / folder).mkdir()
        for i, picture in enumerate(artifact.processor.to_pil(output["samples"])):
            label = labels[i]
            numbers[label] += 1
            name = f"{folders[label]}/{numbers[label]:0{digits}}.png"
            picture.save(aside / name)
            table.writerow([name, label, config.id2label[label], *(of[i] for of in ids.values())])
    return directory


def read_pictures(directory: str | Path) -> tuple[Tensor, Tensor, list[str], list[str]]:
    """
    Pictures by their `metadata.csv`, whose column `class`, or else `label`, has names of classes; without one, every
    sub-folder is a class.

    Returns:
        Images uint8 `[N, C, H, W]`, of one channel if all are grey; labels int64 `[N]`, places in the names that come
        last; notes on what was left out; and the names of the classes.

    Raises:
        `ValueError`: if it is no such folder, or a picture is damaged or of another size than the first.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ValueError(f"There is no folder {directory}: the layout folder is one of pictures <class>/*.png.")
    tables = open_pictures(directory)
    if len(tables.splits) > 1 or "image" not in (table := next(iter(tables.splits.values()))).features:
        raise ValueError(
            f"{directory} is not of the layout folder, pictures <class>/*.png of one split: name the folder of those."
        )
    column = next((name for name in ("class", "label") if name in table.features), None)
    if column is None:
        raise ValueError(
            f"{directory / METADATA} has neither a column class nor label, but {columns_in_words(table.features)}."
        )
    names = class_names_of(table, column)
    labels = read_labels(table, column, names, "imported")
    decoder = ImageDecoder(notes=tables.notes)
    source = SplitSource(decoder, table, "image", torch.arange(len(table)), labels, "imported")
    return decode_split(source).images, labels, decoder.notes, names
