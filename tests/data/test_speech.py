import io
import shutil

import datasets
import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, ClassLabel, Dataset, Features, Value

from haba_hf.data import DataArguments, load_image_data
from haba_hf.data.speech import MINI_WORDS, TEST_FRACTION
from haba_hf.data.splits import hold_out_speakers
from speech_clips import RATE, WORDS, clip_of, tone, write_clips


@pytest.fixture(autouse=True)
def own_datasets_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


@pytest.fixture
def folder(tmp_path):
    """Ten speakers, two clips of each word."""
    return write_clips(tmp_path / "mini", range(10), clips_per_speaker=2)


def load(path, needs_test=True, **kwargs):
    arguments = DataArguments(dataset=str(path), **{"resize": 16, **kwargs})
    return load_image_data(arguments, needs_test=needs_test)


def speakers_in(split, data, clips_per_speaker=2):
    """Who is heard in a split: every clip is known by its spectrogram."""
    speaker_of = {}
    for word in WORDS:
        for speaker in range(10):
            for number in range(clips_per_speaker):
                sound, _ = soundfile.read(io.BytesIO(encoded(clip_of(word, speaker, number), "WAV")), dtype="float32")
                spectrogram = data.processor.to_spectrograms(sound, RATE)
                speaker_of[round(spectrogram.mean().item(), 4)] = speaker
    assert len(speaker_of) == len(WORDS) * 10 * clips_per_speaker, "clips cannot be told apart"
    return {speaker_of[round(image.mean().item(), 4)] for image in split.images}


def test_a_folder_of_words_is_split_by_speaker(folder):
    (folder / "_background_noise_").mkdir()
    soundfile.write(folder / "_background_noise_" / "pink.wav", tone(100), RATE)
    data = load(folder, validation_fraction=0.2)
    assert data.name == "mini"
    assert data.class_names == ["left", "right", "up"]
    assert data.image_shape == (1, 16, 16)
    assert data.train.images.dtype == torch.float32 and data.bytes_per_value == 4
    assert (len(data.train), len(data.validation), len(data.test)) == (42, 12, 6)
    heard = [speakers_in(split, data) for split in (data.train, data.validation, data.test)]
    assert [len(speakers) for speakers in heard] == [7, 2, 1]
    assert set.union(*heard) == set(range(10)), "no speaker in two splits, and none lost"
    # The test speakers do not depend on the seed, the validation speakers do.
    others = [load(folder, validation_fraction=0.2, data_seed=seed) for seed in (1, 2, 3)]
    assert all(torch.equal(other.test.images, data.test.images) for other in others)
    assert any(speakers_in(other.validation, data) != heard[1] for other in others)


def test_test_speakers_are_held_out_also_where_no_test_is_wanted(folder):
    data = load(folder, needs_test=False)
    assert data.test is None
    assert torch.equal(data.train.images, load(folder).train.images)


def test_speakers_by_pattern_and_by_column(tmp_path, folder):
    assert not load(folder).notes
    for path in sorted(folder.rglob("*.wav")):
        speaker, _, number = path.stem.partition("_nohash_")
        path.rename(path.with_name(f"{number}_{speaker}_x.wav"))
    assert load(folder).notes == [
        "of 60 of 60 clips nothing tells who speaks, so a speaker may be in two splits: set speaker_pattern or "
        "speaker_column"
    ]
    data = load(folder, speaker_pattern=r"_(\w+)_x", validation_fraction=0.2)
    assert (len(data.train), len(data.validation), len(data.test)) == (42, 12, 6)
    assert not data.notes
    with pytest.raises(ValueError, match=r"speaker_pattern 'x' needs a group \(\.\.\.\) around the speaker"):
        load(folder, speaker_pattern="x")
    with pytest.raises(ValueError, match="is no regular expression"):
        load(folder, speaker_pattern="(")
    with pytest.raises(ValueError, match="no speaker_column 'who'"):
        load(folder, speaker_column="who")


def test_given_splits_that_share_speakers_are_told(tmp_path):
    write_clips(tmp_path / "own" / "train", range(5))
    write_clips(tmp_path / "own" / "test", range(4, 7))
    assert load(tmp_path / "own").notes == [
        "1 speakers of the test split are in the training split too, as it was given"
    ]


def test_mp3(tmp_path):
    for split, speakers in (("train", range(3)), ("test", range(3, 5))):
        write_clips(tmp_path / "own" / split, speakers)
    for path in (tmp_path / "own").rglob("*.wav"):
        sound, rate = soundfile.read(path)
        soundfile.write(path.with_suffix(".mp3"), sound, rate)
        path.unlink()
    data = load(tmp_path / "own", validation_fraction=0)
    assert (len(data.train), len(data.test)) == (9, 6)


def test_spectrograms_are_standardized_over_the_training_split(folder):
    data = load(folder)
    train = data.processor.normalize(data.train.images)
    assert train.mean().item() == pytest.approx(0, abs=1e-4)
    assert train.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    least, greatest = data.extremes()
    assert (least == data.train.images.min()).all() and (greatest == data.train.images.max()).all()
    assert data.extremes().shape == (2, 1, 16, 16)


def test_folders_of_splits_and_words(tmp_path):
    for split, speakers in {"train": range(4), "valid": range(4, 6), "test": range(6, 8)}.items():
        write_clips(tmp_path / "own" / split, speakers)
    data = load(tmp_path / "own", validation_fraction=0.5)
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 6, 6)
    shutil.copytree(tmp_path / "own" / "test" / "up", tmp_path / "own" / "test" / "umm")
    with pytest.raises(ValueError, match="has the class 'umm', which the training split lacks"):
        load(tmp_path / "own")
    shutil.rmtree(tmp_path / "own" / "test")
    with pytest.raises(ValueError, match=r"own has no test split \(splits: train, valid\)"):
        load(tmp_path / "own")
    assert load(tmp_path / "own", needs_test=False).test is None


def write_parquet(file, rows, words, **speaker_column):
    """Encoded clips, as the Hub's parquet files hold them."""
    columns = {
        "audio": [{"bytes": encoded, "path": path} for encoded, path, _ in rows],
        "label": [words.index(word) for *_, word in rows],
        **{name: values for name, (values, _) in speaker_column.items()},
    }
    features = {"audio": Audio(sampling_rate=RATE, decode=False), "label": ClassLabel(names=words)}
    features |= {name: Value(dtype) for name, (_, dtype) in speaker_column.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns).cast(Features(features)).to_parquet(str(file))


def encoded(sound, audio_format="FLAC", rate=RATE):
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, rate, format=audio_format)
    return buffer.getvalue()


def rows_of(speakers, words=tuple(WORDS)):
    return [(encoded(clip_of(word, speaker, 0)), f"{speaker}.flac", word) for speaker in speakers for word in words]


def test_parquet_of_clips_with_a_speaker_column(tmp_path):
    """As the Hub's conversion of google/speech_commands: clips, a label and who speaks."""
    rows = rows_of(range(8))
    speakers = ([str(speaker) for speaker in range(8) for _ in WORDS], "string")
    write_parquet(tmp_path / "train-0.parquet", rows, list(WORDS), speaker_id=speakers)
    write_parquet(tmp_path / "test-0.parquet", rows_of([9]), list(WORDS))
    data = load(tmp_path, validation_fraction=0.25)
    assert (len(data.train), len(data.validation), len(data.test)) == (18, 6, 3)
    assert data.validation.labels.tolist() == [0, 1, 2] * 2, "two whole speakers"
    sound, _ = soundfile.read(io.BytesIO(rows_of([9])[1][0]), dtype="float32")
    assert torch.equal(data.test.images[1:2], data.processor.to_spectrograms(sound, RATE))


def test_words_choose_classes_and_their_order(folder, tmp_path):
    data = load(folder, words=["up", "left"], validation_fraction=0)
    assert data.class_names == ["up", "left"]
    everything = load(folder, validation_fraction=0)
    ups = everything.train.images[everything.train.labels == 2]
    assert torch.equal(data.train.images[data.train.labels == 0], ups)
    assert len(data.train) == 2 * len(ups)
    with pytest.raises(ValueError, match="mini has no word 'down'; its words are left, right, up"):
        load(folder, words=["up", "down"])
    with pytest.raises(ValueError, match=r"words must name some words, each once, got \['up', 'up'\]"):
        DataArguments(words=["up", "up"])


def test_the_named_set_is_the_hubs_with_eight_words(monkeypatch):
    """Of all words of the Hub's data set; those that are no word have no speaker."""
    words = [*reversed(MINI_WORDS), "bed", "_silence_"]
    asked = []

    def fake_load_dataset(path, **options):
        asked.append((path, options))
        columns = {"audio": [], "label": [], "speaker_id": []}
        for speaker in ("ab", "cd", "ef", None):
            for word in words[:-1] if speaker else words[-1:]:
                sound = tone(300 + 100 * words.index(word))
                columns["audio"].append({"bytes": encoded(sound), "path": f"{word}/x.wav"})
                columns["label"].append(words.index(word))
                columns["speaker_id"].append(speaker)
        features = {"audio": Audio(decode=False), "label": ClassLabel(names=words), "speaker_id": Value("string")}
        table = Dataset.from_dict(columns).cast(Features(features))
        return datasets.DatasetDict(train=table, validation=table, test=table)

    monkeypatch.setattr("haba_hf.data.sources.load_dataset", fake_load_dataset)
    data = load("mini_speech_commands")
    assert asked == [("google/speech_commands", {"name": "v0.02", "revision": "refs/convert/parquet"})]
    assert data.class_names == ["down", "go", "left", "no", "right", "stop", "up", "yes"]
    assert (len(data.train), len(data.validation), len(data.test)) == (24, 24, 24)
    assert sorted(data.train.labels.tolist()) == sorted(list(range(8)) * 3)


def test_several_channels_are_averaged_and_rates_converted(tmp_path):
    folder = write_clips(tmp_path / "own" / "train", range(3)).parent
    write_clips(folder / "test", range(3, 4))
    mono = tone(700, rate=8000)
    stereo = np.stack([1.5 * mono, 0.5 * mono], axis=1)
    soundfile.write(folder / "test" / "up" / "stereo.wav", stereo, 8000, subtype="FLOAT")
    data = load(folder, validation_fraction=0)
    assert data.test.labels.tolist() == [0, 1, 2, 2]
    torch.testing.assert_close(data.test.images[3:], data.processor.to_spectrograms(mono, 8000))


def corrupt(path):
    path.write_bytes(b"RIFF of nothing")


def cut_off(path):
    path.write_bytes(path.read_bytes()[:20])


def empty(path):
    soundfile.write(path, np.zeros(0, dtype=np.float32), RATE)


def not_finite(path):
    soundfile.write(path, np.full(RATE, np.nan, dtype=np.float32), RATE, subtype="FLOAT")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (corrupt, "cannot be read: Error opening"),
        (cut_off, "cannot be read: Error opening"),
        (lambda path: path.write_bytes(b""), "cannot be read: Error opening"),
        (empty, "is unfit: The sound is empty"),
        (not_finite, "is unfit: The sound has values that are NaN"),
    ],
    ids=["corrupt", "cut off", "no bytes", "no sound", "not finite"],
)
def test_an_unfit_clip_is_named(tmp_path, damage, says):
    folder = write_clips(tmp_path / "own" / "train", range(3)).parent
    write_clips(folder / "test", range(3, 4))
    path = folder / "train" / "right" / "00000001_nohash_0.wav"
    damage(path)
    with pytest.raises(ValueError, match=rf"The clip of row \d+ of the train split \({path}\) {says}"):
        load(folder)


def test_a_clip_of_another_length_can_be_refused(folder):
    path = folder / "up" / "00000000_nohash_0.wav"
    soundfile.write(path, tone(500, seconds=0.5), RATE)
    load(folder)
    with pytest.raises(ValueError, match=r"00000000_nohash_0\.wav\) is unfit: The sound has 0\.5 s and not the 1 s"):
        load(folder, fit_clips="refuse")


def test_silence_is_data_but_not_alone(tmp_path):
    folder = write_clips(tmp_path / "own" / "train", range(3)).parent
    write_clips(folder / "test", range(3, 4))
    paths = sorted((folder / "train").glob("*/*.wav"))
    for path in paths[:-1]:
        soundfile.write(path, np.zeros(RATE), RATE)
    silent = load(folder, validation_fraction=0).train.images[0]
    assert silent.unique().tolist() == [pytest.approx(np.log(1e-3))]
    soundfile.write(paths[-1], np.zeros(RATE), RATE)
    with pytest.raises(ValueError, match="All training clips of own are silent"):
        load(folder)


def test_the_fingerprint_is_of_sounds_and_front_end(folder):
    first = load(folder)
    assert load(folder).fingerprint == first.fingerprint
    assert load(folder, front_end="mel").fingerprint != first.fingerprint
    assert load(folder, data_seed=1).fingerprint != first.fingerprint, "other training clips"
    for path in folder.glob("*/*.wav"):
        sound, _ = soundfile.read(path, dtype="float32")
        soundfile.write(path, sound * 0.5, RATE)
    assert load(folder).fingerprint != first.fingerprint


def test_clear_errors(folder, tmp_path):
    with pytest.raises(ValueError, match="words chooses words of speech, but digits has no clips: leave it out"):
        load_image_data(DataArguments(dataset="digits", words=["one"]))
    for word in WORDS:
        for path in sorted((folder / word).iterdir())[1:]:
            path.unlink()
    with pytest.raises(ValueError, match="clips of too few speakers to hold some out for testing"):
        load(folder)
    with pytest.raises(ValueError, match=r"fewer than a frame of n_fft 255: raise clip_seconds"):
        DataArguments(clip_seconds=0.001)


@pytest.mark.parametrize("seed", [0, 1])
def test_hold_out_speakers(seed):
    """About the fraction of every class, whole speakers, something of every class left; speakers differ in size."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 12, (80,), generator=generator)
    speakers = [f"speaker {i}" for i, size in enumerate(sizes.tolist()) for _ in range(size)]
    labels = torch.randint(0, 5, (len(speakers),), generator=generator)
    kept, held_out = hold_out_speakers(labels, speakers, TEST_FRACTION, seed)
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(len(speakers)))
    assert not {speakers[i] for i in kept} & {speakers[i] for i in held_out}
    shares = torch.bincount(labels[held_out]) / torch.bincount(labels)
    assert ((shares - TEST_FRACTION).abs() < 0.05).all(), shares
    again = hold_out_speakers(labels, speakers, TEST_FRACTION, seed)
    assert torch.equal(again[1], held_out)
    assert hold_out_speakers(labels, speakers, 0.0, seed)[1].numel() == 0
    alone = hold_out_speakers(torch.tensor([0, 0, 1]), ["a", "b", "c"], 0.9, seed)[0]
    assert 2 in alone and len(alone) == 2, "the only speaker of a class stays"
