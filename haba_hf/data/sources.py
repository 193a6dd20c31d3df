"""Real data in: named data sets, Hub ids and own folders, as tensors in memory or mapped from a file: images in uint8,
speech as log spectrograms in float32.
"""

# Shape suffixes: n images, C channels, H height, W width.

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset

from ..artifact.processing_haba import HabaImageProcessor
from ..artifact.whitening_haba import ZcaWhitening
from .arguments import NAMED_DATASETS, DataArguments, named_dataset
from .decoding import ImageDecoder
from .folders import Tables, open_folder
from .image_data import ImageData
from .imagenet import IMAGENET_SUBSETS, open_wnid_folder, stream_from_hub
from .pixel_store import SplitSource, decode_split
from .speech import find_audio_column, hold_out_test_speakers, load_speech
from .splits import ROLES, Split, hold_out, role_of, subset
from .statistics import begin_fingerprint, channel_statistics, end_fingerprint, statistics_of_counts
from .tables import class_names_of, find_image_column, find_label_column, read_labels

# One test split of the digits for every run, whatever its data_seed.
DIGITS_TEST_FRACTION, DIGITS_TEST_SEED = 0.2, 0


# The splits of a data set in memory, by name, such as a `datasets.DatasetDict`.
Splits = Mapping[str, Dataset]


def load_image_data(
    args: DataArguments, needs_test: bool = True, whitening: ZcaWhitening | None = None, splits: Splits | None = None
) -> ImageData:
    """
    Loads a data set and holds its validation split out of the training split (stratified, seeded; of speech, by
    speaker: see [`load_speech`]).

    The first training image sets the size unless `args.resize` does; images are grey only if every training image is.
    The other splits follow: they are converted to these channels and must have this size. Classes of other splits are
    those of the training split by name.

    Args:
        args ([`DataArguments`]): which data and which splits.
        needs_test (`bool`, *optional*, defaults to `True`): read the test split, which must be there; if not, it is
            not looked at.
        whitening ([`ZcaWhitening`], *optional*): with `args.zca`, that of an artifact; by default one is fitted, which
            takes half a minute on CIFAR-10.
        splits (`Mapping[str, datasets.Dataset]`, *optional*): the data themselves, where they are in memory; then
            `args.dataset` only names them.

    Returns:
        [`ImageData`], whose `notes` say what was passed over.

    Raises:
        `ValueError`: if the data set, a column, a label, an image or a split is missing or unfit; names it.
    """
    name, tables = args.dataset, Tables({})
    if splits is not None or args.dataset != "digits":
        name, tables = _open_splits(args, needs_test, splits)
        audio_column = find_audio_column(tables.splits["train"].features, args.image_column, name)
        if audio_column is not None:
            return _load_speech_data(name, tables, audio_column, args)
    if args.words is not None:
        raise ValueError(f"words chooses words of speech, but {name} has no clips: leave it out.")
    class_names, of_role = _load_table_data(name, tables, args) if tables.splits else _load_digits(args)
    train, num_channels = of_role["train"], of_role["train"].images.shape[1]
    height, width = train.images.shape[2:]
    size = {"height": height, "width": width}
    processor = HabaImageProcessor(
        size=size,
        num_channels=num_channels,
        do_center_crop=args.center_crop,
        rgba_background=args.rgba_background,
        **_space(args, name, train, whitening),
    )
    empty = Split(train.images[:0], train.labels[:0])
    return ImageData(
        name=name,
        train=train,
        validation=of_role.get("validation", empty),
        test=of_role.get("test"),
        class_names=class_names,
        processor=processor,
        fingerprint=_fingerprint(train, args.zca),
        notes=tables.notes,
    )


def _space(args: DataArguments, name: str, train: Split, whitening: ZcaWhitening | None) -> dict[str, Any]:
    """The processor's arguments that say which space images are taken to."""
    if args.zca:
        return {"whitening": whitening or ZcaWhitening.fit(train.images)}
    known, num_channels = named_dataset(args.dataset), train.images.shape[1]
    if known is None or known.image_mean is None:
        if train.facts is None:
            image_mean, image_std = channel_statistics(train.images)
        else:
            image_mean, image_std = statistics_of_counts(torch.tensor(train.facts.channel_counts))
        return {"image_mean": image_mean, "image_std": image_std}
    if len(known.image_mean) != num_channels:
        raise ValueError(
            f"{name} has {len(known.image_mean)} channels but the images loaded have {num_channels}; "
            "give other data another name."
        )
    return {"image_mean": known.image_mean, "image_std": known.image_std}


def _load_digits(args: DataArguments) -> tuple[list[str], dict[str, Split]]:
    """scikit-learn's 1,797 handwritten digits, grey 8x8, with one image in five for testing."""
    from sklearn.datasets import load_digits

    if args.data_dir is not None:
        raise ValueError(
            "The digits ship with scikit-learn and have no data_dir; set dataset to name your folder's data."
        )
    digits = load_digits()
    images_nCHW = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(digits.target).to(torch.int64)
    if args.resize is not None:
        size = {"height": args.resize, "width": args.resize}
        processor = HabaImageProcessor(size=size, num_channels=1, do_center_crop=args.center_crop)
        images_nCHW = processor.to_uint8(images_nCHW)
    training, test = hold_out(labels, DIGITS_TEST_FRACTION, DIGITS_TEST_SEED)
    held_in, validation = hold_out(labels[training], args.validation_fraction, args.data_seed)
    rows = {"train": training[held_in], "validation": training[validation], "test": test}
    if args.max_train_samples is not None:
        rows["train"] = rows["train"][subset(labels[rows["train"]], args.max_train_samples, args.data_seed)]
    return [str(name) for name in digits.target_names], {
        split: Split(images_nCHW[index], labels[index]) for split, index in rows.items()
    }


def _open_splits(args: DataArguments, needs_test: bool, splits: Splits | None) -> tuple[str, Tables]:
    """The tables of `train`, `validation` and `test`, by these names; others are left out, and named."""
    name, opened = _open_tables(args) if splits is None else (args.dataset, Tables(dict(splits)))
    chosen = {role: _split_for(role, getattr(args, f"{role}_split"), list(opened.splits), name) for role in ROLES}
    there = f"splits: {', '.join(opened.splits)}"
    if chosen["train"] is None:
        raise ValueError(f"{name} has no train split ({there}): set train_split to the one to train on.")
    train = opened.splits[chosen["train"]]
    audio_column = find_audio_column(train.features, args.image_column, name)
    if audio_column is not None and len(opened.splits) == 1:  # also where no test is wanted: it is no training data
        held_out = hold_out_test_speakers(train, name, audio_column, args.label_column, args)
        opened.splits[chosen["train"]], opened.splits["test"] = held_out
        chosen["test"] = "test"
    if not needs_test:
        del chosen["test"]
    elif chosen["test"] is None:
        raise ValueError(
            f"{name} has no test split ({there}): add test-*.parquet files or a test folder (of an ImageNet subset: "
            "val/<wnid>), or set test_split."
        )
    others = [split for split in opened.splits if split not in chosen.values() and role_of(split) != "test"]
    notes = [f"left out: the splits {', '.join(others)}"] if others else []
    found = {role: opened.splits[split] for role, split in chosen.items() if split is not None}
    return name, Tables(found, [*opened.notes, *notes])


def _split_for(role: str, wanted: str | None, splits: list[str], name: str) -> str | None:
    """The split that is asked for, or else the only one whose name means this role."""
    if wanted is not None and wanted not in splits:
        raise ValueError(f"{name} has no split {wanted!r} for {role}_split; its splits are {', '.join(splits)}.")
    found = [split for split in splits if role_of(split) == role]
    if wanted is None and len(found) > 1:
        raise ValueError(f"{name} has the splits {', '.join(found)}: set {role}_split to the one that is meant.")
    return wanted or (found[0] if found else None)


def _load_speech_data(name: str, tables: Tables, audio_column: str, args: DataArguments) -> ImageData:
    known = NAMED_DATASETS.get(args.dataset)
    speech = load_speech(
        name,
        tables.splits,
        audio_column,
        args.label_column,
        args,
        args.words or (known.words if known else None),
        size=args.resize,
        validation_fraction=args.validation_fraction,
        data_seed=args.data_seed,
        max_train_samples=args.max_train_samples,
    )
    train = speech.splits["train"]
    return ImageData(
        name=name,
        train=train,
        validation=speech.splits.get("validation", Split(train.images[:0], train.labels[:0])),
        test=speech.splits.get("test"),
        class_names=speech.class_names,
        processor=speech.processor,
        fingerprint=speech.fingerprint,
        notes=[*tables.notes, *speech.notes],
    )


def _load_table_data(name: str, opened: Tables, args: DataArguments) -> tuple[list[str], dict[str, Split]]:
    tables = opened.splits
    features = tables["train"].features
    image_column = find_image_column(features, args.image_column, name)
    known = named_dataset(args.dataset)
    by_name = known.label_column if known is not None and known.label_column in features else None
    label_column = find_label_column(features, args.label_column or by_name, name)
    class_names = class_names_of(tables["train"], label_column)
    labels: dict[str, torch.Tensor] = {
        split: read_labels(tables[split], label_column, class_names, split) for split in tables
    }
    for split, of_split in labels.items():
        if len(of_split) == 0:
            raise ValueError(f"The {split} split of {name} is empty.")
    counts = torch.bincount(labels["train"], minlength=len(class_names))
    if (counts == 0).any():
        missing = [class_names[label] for label in (counts == 0).nonzero().flatten().tolist()]
        raise ValueError(f"{name} has no training images of class {', '.join(missing)}.")
    rows: dict[str, torch.Tensor] = {split: torch.arange(len(of_split)) for split, of_split in labels.items()}
    table_of = {split: split for split in rows}
    if "validation" not in tables:
        rows["train"], rows["validation"] = hold_out(labels["train"], args.validation_fraction, args.data_seed)
        labels["validation"], table_of["validation"] = labels["train"], "train"
    if args.max_train_samples is not None:
        rows["train"] = rows["train"][subset(labels["train"][rows["train"]], args.max_train_samples, args.data_seed)]

    decoder = ImageDecoder(args.resize, args.center_crop, args.rgba_background, opened.notes)
    splits: dict[str, Split] = {}
    shape: tuple[int, ...] | None = None
    for split in rows:  # "train" comes first and sets the shape of the others
        if len(rows[split]) == 0:
            continue
        table, of_rows = table_of[split], labels[split][rows[split]]
        source = SplitSource(decoder, tables[table], image_column, rows[split], of_rows, table, shape)
        splits[split] = decode_split(source)
        shape = shape or tuple(splits[split].images.shape[1:])
    return class_names, splits


def _open_tables(args: DataArguments) -> tuple[str, Tables]:
    known = named_dataset(args.dataset)
    if args.data_dir is not None:
        folder = Path(args.data_dir).expanduser()
        if not folder.is_dir():
            raise ValueError(f"data_dir {args.data_dir} is not a folder.")
        if args.dataset in IMAGENET_SUBSETS and not any(folder.rglob("*.parquet")):
            return args.dataset, open_wnid_folder(folder, IMAGENET_SUBSETS[args.dataset])
        return args.dataset, open_folder(folder, args.dataset_config)
    if args.dataset in IMAGENET_SUBSETS:
        return args.dataset, stream_from_hub(IMAGENET_SUBSETS[args.dataset])
    if known is None and Path(args.dataset).expanduser().is_dir():
        folder = Path(args.dataset).expanduser()
        return folder.resolve().name, open_folder(folder, args.dataset_config)
    hub_id = args.dataset if known is None or known.hub_id is None else known.hub_id
    asked = {"name": args.dataset_config, "revision": args.dataset_revision}
    hub_options: dict[str, Any] = known.hub_options if known else {}
    hub_options = hub_options | {name: value for name, value in asked.items() if value is not None}
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", hub_id):
        nearest = difflib.get_close_matches(args.dataset, NAMED_DATASETS, n=1, cutoff=0)[0]
        raise ValueError(
            f"Unknown data set {args.dataset!r}: it is no named set (did you mean {nearest!r}?), no folder and no Hub "
            "id (owner/name)."
        )
    try:
        return args.dataset, Tables(dict(load_dataset(hub_id, **hub_options)))
    except (OSError, ValueError) as error:  # not there, not reachable; no such configuration
        raise ValueError(
            f"Could not load {hub_id} from the Hub; give a folder with a copy as data_dir. ({error})"
        ) from error


def _fingerprint(train: Split, zca: bool) -> str:
    if train.facts is not None:
        return train.facts.whitened_fingerprint if zca else train.facts.fingerprint
    digest = begin_fingerprint(tuple(train.images.shape))
    digest.update(train.images.contiguous().numpy().data)
    return end_fingerprint(digest, train.labels, zca)
