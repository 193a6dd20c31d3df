"""Images beyond memory: mapped from a store, which is whole, of this data and made once."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from haba_hf.data import DataArguments, load_image_data, pixel_store
from image_sets import CLASS_LABEL, encode, load, pixels_of, rows_of, write_parquet


@pytest.fixture
def limit(monkeypatch):
    """Sets what a split may take in memory."""
    return lambda nbytes: monkeypatch.setattr(pixel_store, "MOST_BYTES_IN_MEMORY", nbytes)


@pytest.fixture
def once(monkeypatch):
    """The folders that are written."""
    written, write = [], pixel_store._write

    def counted(folder, source):
        written.append(folder)
        write(folder, source)

    monkeypatch.setattr(pixel_store, "_write", counted)
    return written


def stores():
    folder = Path(datasets.config.HF_DATASETS_CACHE) / pixel_store.FOLDER
    return sorted(path for path in folder.iterdir() if not path.name.endswith(".lock")) if folder.exists() else []


def write_pictures(path, per_class=4):
    for split in ("train", "test"):
        for label, name in enumerate(CLASS_LABEL.names):
            (path / split / name).mkdir(parents=True)
            for index in range(per_class):
                Image.fromarray(pixels_of(label, index)).save(path / split / name / f"{index}.png")
    return path


def in_memory(rows):
    """A table whose bytes lie in memory, as a program gives it."""
    columns = {"image": [{"bytes": row["image"], "path": None} for row in rows], "label": [r["label"] for r in rows]}
    return Dataset.from_dict(columns, features=Features({"image": ImageFeature(), "label": CLASS_LABEL}))


# --- the same as in memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"zca": True}, {"resize": 4, "center_crop": True, "max_train_samples": 9}])
def test_what_is_mapped_is_what_lay_in_memory(folder, limit, settings):
    in_memory = load(folder, **settings)
    limit(0)
    for mapped in (load(folder, **settings), load(folder, **settings)):
        for split in ("train", "validation", "test"):
            expected, found = getattr(in_memory, split), getattr(mapped, split)
            assert torch.equal(found.images, expected.images) and torch.equal(found.labels, expected.labels)
            assert expected.facts is None and found.facts is not None
        assert mapped.fingerprint == in_memory.fingerprint
        assert mapped.processor.to_dict() == in_memory.processor.to_dict()
        assert sum("are mapped from" in note for note in mapped.notes) == 3


def test_later_runs_read_neither_images_nor_statistics_anew(folder, limit, once, monkeypatch):
    limit(0)
    first = load(folder)
    assert len(once) == 3 and stores() == sorted(once)

    def fail(*_):
        raise AssertionError("computed anew")

    monkeypatch.setattr("haba_hf.data.sources.channel_statistics", fail)
    monkeypatch.setattr("haba_hf.data.sources.begin_fingerprint", fail)
    again = load(folder)
    assert len(once) == 3 and again.fingerprint == first.fingerprint


def test_notes_of_the_decoder_are_kept(tmp_path, limit):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}-0.parquet", rows_of(4))
    expected = load(tmp_path, resize=6).notes
    limit(0)
    for notes in (load(tmp_path, resize=6).notes, load(tmp_path, resize=6).notes):
        assert len(expected) == 1 and [note for note in notes if "mapped" not in note] == expected


@pytest.mark.parametrize("most", [10**6, 12 * 30 * 2, 0], ids=["in memory", "mapped once in color", "mapped"])
def test_grey_first_and_color_later(tmp_path, limit, monkeypatch, most):
    monkeypatch.setattr("haba_hf.data.decoding.DECODE_BATCH_SIZE", 4)
    rows = rows_of(4, channels=1)
    rows[10]["image"] = encode(pixels_of(1, 3))
    write_parquet(tmp_path / "train-0.parquet", rows)
    limit(most)
    images = load(tmp_path, needs_test=False, validation_fraction=0).train.images
    for row in range(12):
        channels = 3 if row == 10 else 1
        pixels = torch.from_numpy(pixels_of(row % 3, row // 3, channels=channels))
        expected = pixels.permute(2, 0, 1) if row == 10 else pixels.expand(3, -1, -1)
        assert torch.equal(images[row], expected)
    assert len(stores()) == (most < 1000)
    for store in stores():  # what was grey is gone
        assert (store / pixel_store.PIXELS).stat().st_size == 128 + 12 * 3 * 30


def test_color_first_and_grey_later(tmp_path, monkeypatch):
    monkeypatch.setattr("haba_hf.data.decoding.DECODE_BATCH_SIZE", 4)
    rows = [*rows_of(2), *rows_of(2, first=2, channels=1)]
    write_parquet(tmp_path / "train-0.parquet", rows)
    images = load(tmp_path, needs_test=False, validation_fraction=0).train.images
    assert torch.equal(images[8], torch.from_numpy(pixels_of(2, 2, channels=1)).expand(3, -1, -1))


# --- of this data and no other ---------------------------------------------------------------------------------------


def test_a_file_that_changes_is_decoded_again(tmp_path, limit, once):
    limit(0)
    path = write_pictures(tmp_path / "photos")
    load(path, validation_fraction=0)
    assert len(once) == 2
    picture = path / "train" / "dog" / "1.png"
    state = picture.stat()
    picture.write_bytes(encode(pixels_of(1, 50)))
    data = load(path, validation_fraction=0)
    assert len(once) == 3  # of the test split nothing changed
    assert torch.equal(data.train.images[5], torch.from_numpy(pixels_of(1, 50)).permute(2, 0, 1))
    os.utime(picture, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    load(path, validation_fraction=0)
    assert len(once) == 4


def test_a_table_in_memory_is_known_by_its_contents(limit, once):
    limit(0)
    rows = rows_of(4)

    def loaded():
        return load_image_data(DataArguments("pets", validation_fraction=0), False, splits={"train": in_memory(rows)})

    loaded(), loaded()
    assert len(once) == 1
    rows[3]["image"] = encode(pixels_of(0, 50))
    assert torch.equal(loaded().train.images[3], torch.from_numpy(pixels_of(0, 50)).permute(2, 0, 1))
    assert len(once) == 2


@pytest.mark.parametrize(
    "settings", [{"resize": 4}, {"max_train_samples": 9}, {"data_seed": 1}, {"rgba_background": [0, 0, 0]}]
)
def test_settings_have_stores_of_their_own(folder, limit, once, settings):
    limit(0)
    load(folder, needs_test=False)
    others = load(folder, needs_test=False, **settings)
    assert len(once) == len(set(once)) == (3 if settings.keys() == {"max_train_samples"} else 4)
    assert others.image_shape[1:] == ((4, 4) if "resize" in settings else (6, 5))


def test_labels_are_part_of_what_is_kept(folder, limit):
    limit(0)
    load(folder)
    rows = rows_of(10)
    rows[0]["label"] = 1
    write_parquet(folder / "train-00000-of-00002.parquet", rows[:17])
    relabeled = load(folder).fingerprint
    limit(10**9)
    assert relabeled == load(folder).fingerprint


# --- whole or not at all ---------------------------------------------------------------------------------------------


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def of_another_form(path):
    path.write_text(json.dumps({"shape": [1]}))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (pixel_store.PIXELS, cut),
        (pixel_store.PIXELS, flip),
        (pixel_store.PIXELS, Path.unlink),
        (pixel_store.RECORD, cut),
        (pixel_store.RECORD, of_another_form),
        (pixel_store.RECORD, Path.unlink),
    ],
)
def test_a_damaged_store_is_made_again(folder, limit, once, name, damage):
    limit(0)
    expected = load(folder, needs_test=False, validation_fraction=0).train.images.clone()
    (store,) = stores()
    damage(store / name)
    assert torch.equal(load(folder, needs_test=False, validation_fraction=0).train.images, expected)
    assert once == [store, store] and stores() == [store]


def test_a_copy_of_a_store_is_used(folder, limit, once):
    limit(0)
    load(folder, needs_test=False, validation_fraction=0)
    (store,) = stores()
    shutil.copytree(store, store.with_name("copy"), copy_function=shutil.copyfile)
    shutil.rmtree(store)
    store.with_name("copy").rename(store)
    load(folder, needs_test=False, validation_fraction=0)
    assert len(once) == 1


def test_a_disk_without_room_is_refused(tmp_path, limit, monkeypatch):
    limit(0)
    path = write_pictures(tmp_path / "photos")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(OSError, match=r"decoded images of the train split take .* are free in .*; lower resize"):
        load(path)
    assert not stores()


def in_process(target, *arguments):
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process


needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")


@needs_fork
def test_of_a_killed_writer_nothing_is_used(folder, limit, monkeypatch):
    limit(0)
    monkeypatch.setattr("haba_hf.data.decoding.DECODE_BATCH_SIZE", 4)

    def killed():
        counts = []

        def count(block):
            counts.append(block)
            if len(counts) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return torch.zeros(3, 256, dtype=torch.int64)

        pixel_store.channel_counts = count
        load(folder, needs_test=False, validation_fraction=0)

    process = in_process(killed)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (left,) = stores()
    assert left.name.endswith(".tmp") and (left / pixel_store.PIXELS).exists()
    mapped = load(folder, needs_test=False, validation_fraction=0)
    (store,) = stores()  # and what was left is gone
    assert store != left
    limit(10**9)
    assert torch.equal(mapped.train.images, load(folder, needs_test=False, validation_fraction=0).train.images)


@needs_fork
def test_two_processes_make_one_store(folder, limit, monkeypatch, tmp_path):
    limit(0)
    write = pixel_store._write

    def slow(store, source):
        (tmp_path / f"written-by-{os.getpid()}").touch()
        time.sleep(0.5)
        write(store, source)

    monkeypatch.setattr(pixel_store, "_write", slow)

    def one():
        fingerprint = load(folder, needs_test=False, validation_fraction=0).fingerprint
        (tmp_path / f"read-by-{os.getpid()}").write_text(fingerprint)

    processes = [in_process(one), in_process(one)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(list(tmp_path.glob("written-by-*"))) == 1
    assert len({path.read_text() for path in tmp_path.glob("read-by-*")}) == 1
    assert len(list(tmp_path.glob("read-by-*"))) == 2 and len(stores()) == 1


# --- memory ----------------------------------------------------------------------------------------------------------


def own_memory():
    """Bytes of this process that are no pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells")
def test_memory_does_not_grow_with_the_images(limit, monkeypatch):
    """49 MB of pixels, decoded and read again, in less than half of that."""
    limit(0)
    monkeypatch.setattr("haba_hf.data.decoding.DECODE_BATCH_SIZE", 32)
    colors = [(number % 256, number // 256, number % 7) for number in range(4000)]
    rows = [{"image": encode(Image.new("RGB", (64, 64), color)), "label": color[0] % 3} for color in colors]
    table, seen, count = in_memory(rows), [], pixel_store.channel_counts

    def watched(block):
        seen.append(own_memory())
        return count(block)

    monkeypatch.setattr(pixel_store, "channel_counts", watched)
    before = own_memory()
    data = load_image_data(DataArguments("colors", validation_fraction=0), False, splits={"train": table})
    for rows_B in torch.randperm(4000).split(32):
        images = data.normalized(rows_B, torch.device("cpu"))
        seen.append(own_memory())
    assert images.shape[1:] == (3, 64, 64) and len(seen) == 2 * 125
    assert max(seen) - before < data.train.images.nbytes / 2
