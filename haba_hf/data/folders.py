"""Folders on disk as tables, by rules of our own: which file is of which split and class.

Nothing is guessed from words inside a path: a split is a folder or the beginning of a parquet file's name, in any case
of its letters, and a class is a folder of files. What is passed over is named.
"""

import csv
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Image, Split, load_from_disk
from datasets.data_files import DataFilesDict, DataFilesList
from datasets.exceptions import DatasetGenerationError
from datasets.io.parquet import ParquetDatasetReader
from datasets.table import InMemoryTable
from PIL import Image as PILImage

from ..utils.files import check_free_disk
from ..utils.text import some
from . import pixel_store
from .splits import role_of

# What Pillow reads of pictures; files of programs and of print (EPS starts an interpreter) are no data.
PICTURE_FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG"),
    *("PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP", "XBM", "XPM"),
)
SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf")
# Minutes of noise beside the words of Speech Commands, no word of its own.
NOISE_FOLDER = "_background_noise_"
METADATA = ("metadata.csv", "metadata.jsonl")


@dataclass
class Tables:
    """
    What a folder holds: a table of each split, called as the folder calls it, and sentences on what was passed over.
    """

    splits: dict[str, Dataset]
    notes: list[str] = field(default_factory=list)


def open_folder(folder: Path, config: str | None = None) -> Tables:
    """
    Opens a folder in the first of these layouts that it has: saved by `save_to_disk`; parquet files, as in a clone of
    a Hub data set (`train-00000-of-00002.parquet`, `data/train-*.parquet`, `<config>/train/0.parquet`);
    `metadata.csv` or `metadata.jsonl` with a column `file_name`, in the folder or in each split's; class folders
    `train/<class>/*` and `test/<class>/*`, or `<class>/*` alone. Files are pictures or clips of sound; they are read
    later.

    Args:
        folder (`Path`): the folder.
        config (`str`, *optional*): of several configurations, each in a sub-folder, the one to open.

    Raises:
        `ValueError`: if it has none of them, or a file or sub-folder is of no known split or class; names it.
    """
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _open_saved(folder)
    parquet = sorted(path for path in folder.rglob("*.parquet") if not _hidden(path, folder))
    if parquet:
        return _open_parquet(folder, parquet, config)
    if config is not None:
        raise ValueError(f"{folder} holds no parquet files, so it has no dataset_config {config!r}: leave it out.")
    return open_pictures(folder)


def open_pictures(folder: Path) -> Tables:
    """The last two layouts of [`open_folder`]: files named by `metadata.csv` or `metadata.jsonl`, or class folders."""
    return _open_metadata(folder) or open_class_folders(folder)


def _open_saved(folder: Path) -> Tables:
    try:
        saved = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"{folder} was written by save_to_disk but cannot be read: {error}") from error
    return Tables(dict(saved) if isinstance(saved, DatasetDict) else {"train": saved})


# --- parquet ---------------------------------------------------------------------------------------------------------


def _open_parquet(folder: Path, files: list[Path], config: str | None) -> Tables:
    of_config: dict[str, dict[str, list[Path]]] = {}
    for file in files:
        parts = list(file.relative_to(folder).parts[:-1])
        split = _split_in(file.stem)
        if parts and role_of(parts[-1]):
            split = parts.pop()
        of_config.setdefault("/".join(part for part in parts if part != "data"), {}).setdefault(split, []).append(file)
    if config is None and len(of_config) > 1:
        raise ValueError(
            f"{folder} holds {len(of_config)} configurations: set dataset_config to one of "
            f"{some(name or '(none: those in the folder itself)' for name in of_config)}."
        )
    if config is not None and config not in of_config:
        raise ValueError(f"{folder} has no configuration {config!r}; it has {some(filter(None, of_config)) or 'one'}.")
    (files_of,) = of_config.values() if config is None else (of_config[config],)
    return Tables({split: _read_parquet(files) for split, files in sorted(files_of.items())})


def _split_in(stem: str) -> str:
    """The name of a file without its extension less the number of the shard: `train` of `train-00000-of-00002`."""
    return re.sub(r"[-_.]?\d+([-_.]of[-_.]\d+)?$", "", stem) or stem


def _read_parquet(files: list[Path]) -> Dataset:
    """The files of a split as one table: in memory, or if they are large as `datasets` maps them from its cache."""
    schemas, size = [], 0
    for file in files:
        with _reading(file):
            kept = pq.read_metadata(file)
            schemas.append(kept.schema.to_arrow_schema())
            size += sum(kept.row_group(group).total_byte_size for group in range(kept.num_row_groups))
    first = _features(schemas[0])
    for file, schema in zip(files[1:], schemas[1:], strict=True):
        for column, feature in _features(schema).items():
            if isinstance(feature, ClassLabel) and feature != first.get(column):
                raise ValueError(
                    f"{file} names the classes of column {column!r} otherwise than {files[0].name}: a label would "
                    "mean two things. Write them again with the same names."
                )
    if size > pixel_store.MOST_BYTES_IN_MEMORY:
        for file, schema in zip(files, schemas, strict=True):
            if {*schema.names} != {*schemas[0].names}:
                raise ValueError(
                    f"{file} has the columns {some(schema.names)}, and {files[0].name} has {some(schemas[0].names)}: "
                    "large files of a split need the same ones."
                )
        return _map_parquet(files, size)
    try:
        tables = []
        for file in files:
            with _reading(file):
                tables.append(pq.read_table(file, partitioning=None))
        return Dataset(InMemoryTable(pa.concat_tables(tables, promote_options="default")))
    except pa.ArrowException as error:
        raise ValueError(f"{files[0].parent}: the files of a split have columns that do not fit: {error}") from error


def _map_parquet(files: list[Path], size: int) -> Dataset:
    """Through an Arrow file in the cache of `datasets`, which is found again until a file of these changes."""
    states = [(str(file.resolve()), str(file.stat().st_size), str(file.stat().st_mtime_ns)) for file in files]
    # As a list of its own, since `datasets` would take a path with brackets for a pattern.
    listed = DataFilesDict({"train": DataFilesList([path for path, *_ in states], [state for _, *state in states])})
    reader = ParquetDatasetReader(listed, split=Split.TRAIN)
    unpacked, cache = Path(reader.builder.cache_dir), Path(datasets.config.HF_DATASETS_CACHE).expanduser()
    if unpacked.exists():
        return reader.read()
    what = f"the parquet files of {files[0].parent}"
    with pixel_store.one_process(cache / pixel_store.FOLDER / reader.builder.config_id, f"unpacks {what}"):
        if not unpacked.exists():  # no other process has done it while this one waited
            advice = "set HF_DATASETS_CACHE to a folder on a larger disk"
            check_free_disk(cache, size, f"{what}, unpacked,", advice)
        try:
            return reader.read()
        except DatasetGenerationError as error:
            raise ValueError(f"{what} cannot be read as one table: {error.__cause__ or error}") from error


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file} cannot be read as parquet: {error}") from error


def _features(schema: pa.Schema) -> Features:
    return Dataset(InMemoryTable(schema.empty_table())).features


# --- metadata --------------------------------------------------------------------------------------------------------


def _open_metadata(folder: Path) -> Tables | None:
    """`metadata.csv` in the folders of the splits, or one in the folder: its files are of the split they lie in."""
    splits = [path for path in _visible_folders(folder) if role_of(path.name)]
    inside = {path.name: file for path in splits if (file := _metadata_of(path)) is not None}
    own = _metadata_of(folder)
    if own is None and not inside:
        return None
    if own is not None and inside:
        raise ValueError(f"{folder} has {own.name} and so has {some(inside)}: keep those of the splits, or this one.")
    if own is None:
        return Tables({name: _read_metadata(file) for name, file in inside.items()})
    table = _read_metadata(own)
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(table["file_name"][:]):
        rows_of.setdefault(_split_of_file(Path(name).parts[0]), []).append(row)
    return Tables({split: table.select(rows) for split, rows in rows_of.items()})


def _split_of_file(first_part: str) -> str:
    return first_part if role_of(first_part) else "train"


def _metadata_of(folder: Path) -> Path | None:
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def _read_metadata(file: Path) -> Dataset:
    folder = file.parent
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines)) if file.suffix == ".csv" else [json.loads(line) for line in lines]
        columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ValueError(f"{file} cannot be read as a table: {error!r}") from error
    if "file_name" not in columns:
        raise ValueError(f"{file} has no column file_name; its columns are {some(columns) or 'none'}.")
    root, paths = folder.resolve(), []
    for row, name in enumerate(columns["file_name"]):
        path = folder / str(name)
        if not path.resolve().is_relative_to(root):
            raise ValueError(f"{file}, row {row}: {name} lies outside {folder}; name files inside it.")
        if not path.is_file():
            raise ValueError(f"{file}, row {row}: there is no file {name}.")
        paths.append(path)
    kind = _kind_of(paths, file)
    return _table({kind: paths, **columns}, kind)


# --- class folders ---------------------------------------------------------------------------------------------------


def open_class_folders(folder: Path) -> Tables:
    """
    `train/<class>/*` and so on if a folder `train` holds folders, else `<class>/*`, which are all `train`.

    Raises:
        `ValueError`: if there are no classes, a folder holds no file that can be read, a split has a class that the
            training split lacks, or pictures and sounds are mixed.
    """
    folders = _visible_folders(folder)
    splits = {path.name: path for path in folders if role_of(path.name) and _visible_folders(path)}
    notes: list[str] = []
    if not any(role_of(name) == "train" for name in splits):
        splits = {"train": folder}
    else:
        for other in (path for path in folders if path.name not in splits):
            if not role_of(other.name) and _files_in(other):
                raise ValueError(
                    f"{folder} holds folders of splits ({some(splits)}) and beside them {other.name} with files in "
                    "it: move it into a split, or away."
                )
            notes.append(f"left out: {other}, which holds no class folders")
    listings = {name: _Listing.of(path, notes) for name, path in splits.items()}
    train = next(listing for name, listing in listings.items() if role_of(name) == "train")
    kind = _kind_of([path for listing in listings.values() for path in listing.paths], folder)
    for name, listing in listings.items():
        unknown = [word for word in listing.files_of if word not in train.files_of]
        if unknown:
            raise ValueError(
                f"{splits[name]} has the class {unknown[0]!r}, which the training split lacks: its classes are "
                f"{some(train.files_of)}."
            )
        missing = [word for word in train.files_of if word not in listing.files_of]
        if missing:
            notes.append(f"{splits[name]} has no class {some(missing)}")
    classes = list(train.files_of)
    return Tables({name: table_of_files(listing.files_of, classes, kind) for name, listing in listings.items()}, notes)


@dataclass
class _Listing:
    """The files of each class of one split, both sorted."""

    files_of: dict[str, list[Path]]

    @property
    def paths(self) -> list[Path]:
        return [path for paths in self.files_of.values() for path in paths]

    @classmethod
    def of(cls, root: Path, notes: list[str]) -> "_Listing":
        loose = _files_in(root)
        files_of = {}
        for folder in _visible_folders(root):
            if folder.name == NOISE_FOLDER:
                notes.append(f"left out: {folder}, noise that is no word")
                continue
            files = _files_in(folder)
            readable = _readable(files)
            if not readable:
                found = sorted({path.suffix or path.name for path in files}) or ["nothing"]
                raise ValueError(
                    f"{folder} holds no picture or clip that can be read (it holds {some(found)}): every folder is a "
                    "class; convert its files, or move it away."
                )
            if len(readable) < len(files):
                others = {path.suffix or path.name for path in set(files) - set(readable)}
                notes.append(f"left out: {len(files) - len(readable)} files of {folder} ({some(sorted(others))})")
            if _visible_folders(folder):
                notes.append(f"left out: the folders inside {folder}, as a class is one folder of files")
            files_of[folder.name] = readable
        if not files_of:
            raise ValueError(
                f"{root} holds neither train-*.parquet files nor a folder of images train/<class>/*.png or of clips "
                f"<word>/*.wav{_archives(loose)}."
            )
        strays = _readable(loose)
        if strays:
            notes.append(f"left out: {len(strays)} files that lie in {root} itself, in no class folder")
        return cls(files_of)


def _archives(files: list[Path]) -> str:
    archives = [path.name for path in files if path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".rar", ".7z")]
    return f" (unpack {some(archives)} first)" if archives else ""


# --- what all of them share ------------------------------------------------------------------------------------------


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of one folder, sorted; none if there is no such folder."""
    return _readable(_files_in(folder)) if folder.is_dir() else []


def table_of_files(files_of: dict[str, list[Path]], classes: list[str], kind: str) -> Dataset:
    """The files of each class as a table of columns `kind`, `image` or `audio`, and `label`; they are read later."""
    place = {name: label for label, name in enumerate(classes)}
    labels = [place[name] for name, paths in files_of.items() for _ in paths]
    paths = [path for paths in files_of.values() for path in paths]
    return _table({kind: paths, "label": labels}, kind, ClassLabel(names=classes))


def _table(columns: dict[str, Any], kind: str, label: ClassLabel | None = None) -> Dataset:
    """A table whose column `kind`, `image` or `audio`, names files that are read later."""
    paths = pa.array([str(path) for path in columns[kind]], pa.string())
    entries = pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), paths], names=["bytes", "path"])
    others = Dataset.from_dict({name: values for name, values in columns.items() if name != kind}).features
    feature = Audio(decode=False) if kind == "audio" else Image(decode=False)
    features = Features({**others, **({} if label is None else {"label": label}), kind: feature})
    # By arrow, since `datasets` itself encodes no Audio without torchcodec.
    return Dataset(InMemoryTable(pa.Table.from_pydict({**columns, kind: entries}, schema=features.arrow_schema)))


def _kind_of(paths: list[Path], place: Path) -> str:
    sounds = [path for path in paths if path.suffix.lower() in SOUND_SUFFIXES]
    if sounds and len(sounds) < len(paths):
        raise ValueError(f"{place} mixes pictures and sounds, e.g. {sounds[0]}: one data set is one kind.")
    return "audio" if sounds else "image"


def _readable(files: list[Path]) -> list[Path]:
    """Those of the files that are pictures or clips, by their suffix."""
    pictures = {suffix for suffix, name in PILImage.registered_extensions().items() if name in PICTURE_FORMATS}
    known = pictures.union(SOUND_SUFFIXES)
    return [path for path in files if path.suffix.lower() in known]


def _visible_folders(folder: Path) -> list[Path]:
    """Sub-folders in order, links among them; hidden ones and what macOS packs beside files are none."""
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    return [folder / name for name in names if not name.startswith(".") and name != "__MACOSX"]


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)
