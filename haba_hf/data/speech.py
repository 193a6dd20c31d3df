"""Speech in: clips of single words as log spectrograms, split by speaker."""

# Shape suffixes: n clips, C = 1 channel, H height (frequency), W width (time).

import hashlib
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import torch
from datasets import Audio, Dataset, Features

from ..artifact.processing_audio_haba import HabaAudioProcessor
from ..utils.checks import Settings
from .splits import Split, hold_out_speakers, subset
from .tables import class_names_of, columns_in_words, find_label_column, read_labels

# TensorFlow's mini_speech_commands.zip: eight of the 35 words.
MINI_WORDS = ["down", "go", "left", "no", "right", "stop", "up", "yes"]
SPEAKER_COLUMNS = ("speaker", "speaker_id")
# <speaker>_nohash_<number>.wav: no hash to tell files apart, what comes before is the speaker.
SPEAKER_PATTERN = "^(.+?)_nohash_"

# One test split of a folder that has none for every run, whatever its data_seed; as much as IDC holds out.
TEST_FRACTION, TEST_SEED = 1 / 8, 0
READ_BATCH_SIZE = 256
SPECTROGRAM_SIZE = 64
FRONT_ENDS: dict[str, dict[str, int]] = {
    "stft": {"n_fft": 255, "hop_length": 128},  # as published: 128 frequencies x 125 frames of a second at 16 kHz
    "mel": {"n_fft": 1024, "hop_length": 128, "mel_bins": 64},
}


@dataclass(kw_only=True)  # so that `dataset` stays the first argument of [`DataArguments`]
class SpeechArguments(Settings):
    """How clips of speech become spectrograms (see [`HabaAudioProcessor`]); images have no use for it."""

    words: list[str] | None = field(
        default=None,
        metadata={"help": "Speech: the words to keep, as classes in this order; by default the named set's, or all."},
    )
    front_end: Literal["stft", "mel"] = field(
        default="stft",
        metadata={"help": "Speech: magnitudes at linear frequencies (published), or gathered in 64 mel bands."},
    )
    sampling_rate: int = field(default=16_000, metadata={"help": "Speech: Hz that clips are resampled to."})
    clip_seconds: float = field(default=1.0, metadata={"help": "Speech: length of a clip."})
    fit_clips: Literal["end", "center", "refuse"] = field(
        default="end",
        metadata={
            "help": "Speech: clips of another length are padded with silence or trimmed at the end (published), on "
            "both sides, or refused."
        },
    )
    speaker_column: str | None = field(
        default=None, metadata={"help": "Speech: the column that says who speaks; by default speaker or speaker_id."}
    )
    speaker_pattern: str = field(
        default=SPEAKER_PATTERN,
        metadata={
            "help": "Speech: without such a column, a regular expression whose first group, in the name of a clip's "
            "file, is its speaker."
        },
    )

    def audio_processor(self, size: int | None) -> HabaAudioProcessor:
        """The processor before the training set's mean and deviation are known."""
        side = size or SPECTROGRAM_SIZE
        return HabaAudioProcessor(
            sampling_rate=self.sampling_rate,
            clip_seconds=self.clip_seconds,
            fit_clips=self.fit_clips,
            size={"height": side, "width": side},
            **FRONT_ENDS[self.front_end],
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.words is not None and (not self.words or len(set(self.words)) < len(self.words)):
            raise ValueError(f"words must name some words, each once, got {self.words}.")
        try:
            groups = re.compile(self.speaker_pattern).groups
        except re.error as error:
            raise ValueError(f"speaker_pattern {self.speaker_pattern!r} is no regular expression: {error}.") from error
        if groups < 1:
            raise ValueError(f"speaker_pattern {self.speaker_pattern!r} needs a group (...) around the speaker.")
        self.audio_processor(None)  # refuses what is out of range


@dataclass
class SpeechData:
    """What [`load_speech`] gives: splits of log spectrograms that are not normalized yet, float32 [n, 1, H, W]."""

    splits: dict[str, Split]
    class_names: list[str]
    processor: HabaAudioProcessor
    fingerprint: str
    notes: list[str]


def hold_out_test_speakers(
    train: Dataset, name: str, audio_column: str, label_column: str | None, arguments: SpeechArguments
) -> tuple[Dataset, Dataset]:
    """
    Training and test clips of a set that has no test split: an eighth of its speakers.

    Raises:
        `ValueError`: if there are too few.
    """
    label_column = find_label_column(train.features, label_column, name)
    labels = read_labels(train, label_column, class_names_of(train, label_column), "train")
    speakers = _Speakers(arguments).of(train, audio_column, torch.arange(len(train)))
    kept, test = hold_out_speakers(labels, speakers, TEST_FRACTION, TEST_SEED)
    if not len(test):
        raise ValueError(
            f"{name} has clips of too few speakers to hold some out for testing: add clips, or make folders train "
            "and test of it."
        )
    return train.select(kept.tolist()), train.select(test.tolist())


def find_audio_column(features: Features, wanted: str | None, name: str) -> str | None:
    """
    The column of clips; `None` if the data are no speech.

    Raises:
        `ValueError`: if there are several and none is chosen.
    """
    found = [column for column, feature in features.items() if isinstance(feature, Audio)]
    if wanted is not None:
        return wanted if wanted in found else None
    if len(found) > 1:
        raise ValueError(
            f"{name} has {len(found)} audio columns; set image_column to one of its columns "
            f"{columns_in_words(features)}."
        )
    return found[0] if found else None


def load_speech(
    name: str,
    tables: dict[str, Dataset],
    audio_column: str,
    label_column: str | None,
    arguments: SpeechArguments,
    words: list[str] | None,
    *,
    size: int | None,
    validation_fraction: float,
    data_seed: int,
    max_train_samples: int | None,
) -> SpeechData:
    """
    Reads clips and makes log spectrograms of them. Where there is no validation split, speakers are held out of the
    training split for it.

    Clips are decoded by soundfile; several channels are averaged, another sampling rate is converted. A silent clip
    is data like any other.

    Args:
        name (`str`): what messages call the data.
        tables (`dict[str, Dataset]`): by split; `train` must be there.
        audio_column (`str`): the column of clips, in each table.
        label_column (`str`, *optional*): by default the only one.
        arguments ([`SpeechArguments`]): the front end.
        words (`list[str]`, *optional*): the classes to keep, in this order; by default all.
        size (`int`, *optional*): height and width of a spectrogram, by default 64.
        validation_fraction, data_seed, max_train_samples: as of [`DataArguments`].

    Raises:
        `ValueError`: if a column, a word or a split is missing, or a clip is corrupt or empty; the message names it.
    """
    label_column = find_label_column(tables["train"].features, label_column, name)
    names = class_names_of(tables["train"], label_column)
    class_names = names if words is None else words
    missing = [word for word in class_names if word not in names]
    if missing:
        raise ValueError(f"{name} has no word {missing[0]!r}; its words are {', '.join(names)}.")
    rows: dict[str, torch.Tensor] = {}
    labels: dict[str, torch.Tensor] = {}
    class_of = torch.full((len(names),), -1)
    class_of[[names.index(word) for word in class_names]] = torch.arange(len(class_names))
    for split, table in tables.items():
        all_labels = class_of[read_labels(table, label_column, names, split)]
        rows[split] = (all_labels >= 0).nonzero().flatten()
        labels[split] = all_labels[rows[split]]
        counts = torch.bincount(labels[split], minlength=len(class_names))
        if not len(rows[split]) or (split == "train" and not counts.all()):
            without = [word for word, count in zip(class_names, counts.tolist(), strict=True) if not count]
            raise ValueError(f"The {split} split of {name} has no clips of {', '.join(without)}.")

    speakers = _Speakers(arguments)
    speakers_of = {split: speakers.of(table, audio_column, rows[split]) for split, table in tables.items()}
    notes = _notes_on_speakers(speakers_of, speakers.unknown)
    table_of = {split: split for split in tables}
    if "validation" not in tables:
        kept, held_out = hold_out_speakers(labels["train"], speakers_of["train"], validation_fraction, data_seed)
        if len(held_out):
            rows["validation"], labels["validation"] = rows["train"][held_out], labels["train"][held_out]
            rows["train"], labels["train"] = rows["train"][kept], labels["train"][kept]
            table_of["validation"] = "train"
    if max_train_samples is not None:
        chosen = subset(labels["train"], max_train_samples, data_seed)
        rows["train"], labels["train"] = rows["train"][chosen], labels["train"][chosen]

    processor = arguments.audio_processor(size)
    splits, fingerprint = {}, ""
    for split, table_name in table_of.items():
        digest = hashlib.sha256(repr(processor.front_end).encode())
        images_nCHW = _read_spectrograms(tables[table_name], audio_column, rows[split], table_name, processor, digest)
        splits[split] = Split(images_nCHW, labels[split])
        if split == "train":
            # Of the sounds and not of their spectrograms, whose last bits differ from machine to machine.
            digest.update(labels[split].numpy().data)
            fingerprint = digest.hexdigest()[:16]
    processor.spectrogram_mean, processor.spectrogram_std = _statistics(splits["train"].images, name)
    return SpeechData(splits, list(class_names), processor, fingerprint, notes)


def _notes_on_speakers(speakers_of: dict[str, list[str]], unknown: int) -> list[str]:
    notes = []
    if unknown:
        notes.append(
            f"of {unknown} of {sum(map(len, speakers_of.values()))} clips nothing tells who speaks, so a speaker may "
            "be in two splits: set speaker_pattern or speaker_column"
        )
    train = set(speakers_of["train"])
    for split in speakers_of.keys() - {"train"}:
        shared = train & set(speakers_of[split])
        if shared:
            notes.append(f"{len(shared)} speakers of the {split} split are in the training split too, as it was given")
    return notes


class _Speakers:
    """Who speaks a clip: a column says so, or the name of its file; a clip that neither tells of has its own."""

    def __init__(self, arguments: SpeechArguments):
        self.column = arguments.speaker_column
        self.pattern = re.compile(arguments.speaker_pattern)
        self.unknown = 0

    def of(self, table: Dataset, audio_column: str, rows: torch.Tensor) -> list[str]:
        """The speakers of some rows; `unknown` counts those that nothing tells."""
        if self.column is not None and self.column not in table.features:
            raise ValueError(
                f"There is no speaker_column {self.column!r}; the columns are {columns_in_words(table.features)}."
            )
        for column in SPEAKER_COLUMNS if self.column is None else (self.column,):
            if column in table.features:
                names = table.select_columns([column])[rows.tolist()][column]
                if None not in names:
                    return [str(name) for name in names]
        speakers = []
        for batch_rows in rows.split(READ_BATCH_SIZE):
            entries = _entries(table, audio_column, batch_rows)
            for row, entry in zip(batch_rows.tolist(), entries, strict=True):
                path = (entry and entry["path"]) or f"row {row}"
                found = self.pattern.search(Path(path).name)
                self.unknown += found is None
                speakers.append(path if found is None else found.group(1))
        return speakers


def _entries(table: Dataset, audio_column: str, rows: torch.Tensor) -> list[dict[str, Any] | None]:
    encoded = table.select_columns([audio_column]).cast_column(audio_column, Audio(decode=False))
    return encoded.with_format("arrow")[rows.tolist()][audio_column].to_pylist()


def _read_spectrograms(
    table: Dataset, audio_column: str, rows: torch.Tensor, split: str, processor: HabaAudioProcessor, digest: Any
) -> torch.Tensor:
    """Log spectrograms of some rows, float32 [n, 1, H, W]; `digest` is fed the sounds as they were decoded."""
    if audio_column not in table.features:
        raise ValueError(
            f"The {split} split has no column {audio_column!r}; its columns are {columns_in_words(table.features)}."
        )
    blocks_BCHW = []
    for batch_rows in rows.split(READ_BATCH_SIZE):
        clips = []
        for row, entry in zip(batch_rows.tolist(), _entries(table, audio_column, batch_rows), strict=True):
            if entry is None or (entry["bytes"] is None and entry["path"] is None):
                raise ValueError(f"Row {row} of the {split} split has no clip; leave it out.")
            place = f"The clip of row {row} of the {split} split ({entry['path'] or 'no file name'})"
            try:
                sound, rate = soundfile.read(
                    entry["path"] if entry["bytes"] is None else io.BytesIO(entry["bytes"]), dtype="float32"
                )
            except (soundfile.SoundFileError, OSError) as error:
                raise ValueError(f"{place} cannot be read: {error}") from error
            digest.update(f"{rate} {sound.shape} ".encode())
            digest.update(np.ascontiguousarray(sound).data)
            try:
                clips.append(processor.to_clip(sound if sound.ndim == 1 else sound.mean(axis=1), rate))
            except ValueError as error:
                raise ValueError(f"{place} is unfit: {error}") from error
        blocks_BCHW.append(processor.spectrograms_of(torch.stack(clips)))
    return torch.cat(blocks_BCHW)


def _statistics(images_nCHW: torch.Tensor, name: str) -> tuple[float, float]:
    """Mean and population standard deviation of all values."""
    chunks, count = images_nCHW.split(4096), images_nCHW.numel()
    mean = sum(chunk.sum(dtype=torch.float64).item() for chunk in chunks) / count
    variance = sum((chunk.double() - mean).square().sum().item() for chunk in chunks) / count
    if variance == 0:
        raise ValueError(f"All training clips of {name} are silent; they hold no information.")
    return mean, variance**0.5
