"""Images beyond memory: decoded once into a file below the cache of `datasets`, and mapped from there by every run.

A store is a folder of the pixels, as numpy reads them, and a record of what they are. One process writes it aside and
renames it while others wait, so it is there whole or not at all.
"""

# Shape suffixes: B images of a block, n images, C channels, H height, W width.

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import datasets
import numpy as np
import PIL
import pyarrow.compute as pc
import torch
from datasets import Dataset
from filelock import FileLock, Timeout

from ..utils.files import atomic_directory, check_free_disk, check_writable, write_json
from .decoding import ImageDecoder, encoded_images
from .splits import Split
from .statistics import ImageFacts, begin_fingerprint, channel_counts, end_fingerprint

# Of the decoded images of a split; more are mapped.
MOST_BYTES_IN_MEMORY = 256 << 20
FOLDER, PIXELS, RECORD = "haba_hf", "pixels.npy", "record.json"
# To be raised when the same files and settings give other pixels, or a store is written in another way.
VERSION = 1
ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class SplitSource:
    """
    What a split is decoded from.

    Args:
        decoder ([`ImageDecoder`]): how; its notes get what there is to say.
        table (`Dataset`), column (`str`), rows (`torch.LongTensor` `[n]`): which images, one or more.
        labels (`torch.LongTensor` `[n]`): of these rows.
        name (`str`): what messages call the table.
        shape (`tuple[int, int, int]`, *optional*): C, H, W that they are to have.
    """

    decoder: ImageDecoder
    table: Dataset
    column: str
    rows: torch.Tensor
    labels: torch.Tensor
    name: str
    shape: tuple[int, ...] | None = None

    def blocks(self) -> Generator[torch.Tensor]:
        """See [`ImageDecoder.blocks`]."""
        return self.decoder.blocks(self.table, self.column, self.rows, self.name, self.shape)

    def key(self) -> str:
        """Of everything that decides what is decoded: 32 hexadecimal digits."""
        settings = self.decoder.resize, self.decoder.center_crop, self.decoder.rgba_background, self.shape, self.name
        # `datasets` makes the fingerprint of a table of its contents, or of the files and functions it comes from.
        of = [VERSION, PIL.__version__, torch.__version__, self.table._fingerprint, self.column, *settings]
        digest = hashlib.sha256(json.dumps(of).encode())
        digest.update(self.rows.numpy().data)
        digest.update(self.labels.numpy().data)
        for path in self._files():
            digest.update(_state_of(path).encode())
        return digest.hexdigest()[:32]

    def _files(self) -> Iterator[str]:
        """Those that the table is mapped from, and those that entries only point to, whatever rows are chosen."""
        for file in self.table.cache_files:
            yield file["filename"]
        encoded = encoded_images(self.table, self.column, self.name)
        for batch in encoded.data.to_batches(max_chunksize=ROWS_AT_ONCE):  # the bytes themselves are not read
            entries = batch.column(self.column)
            paths, contents = pc.struct_field(entries, "path"), pc.struct_field(entries, "bytes")
            yield from paths.filter(pc.and_(pc.is_null(contents), pc.is_valid(paths))).to_pylist()


def _state_of(path: str) -> str:
    try:
        found = os.stat(path)
    except OSError:
        return f"{path} cannot be read\n"  # the decoder says so, if it comes to that row
    return f"{path} {found.st_size} {found.st_mtime_ns}\n"


def decode_split(source: SplitSource) -> Split:
    """
    Decodes a split: into memory, or if that takes more than `MOST_BYTES_IN_MEMORY` into a store, where later calls
    find it. What is read is the same.

    Raises:
        `ValueError`: as of [`ImageDecoder.blocks`].
        `OSError`: if the disk has no room for a store, or it cannot be written.
    """
    images_nCHW, done = torch.empty(0), 0
    with closing(source.blocks()) as blocks:
        for block_BCHW in blocks:
            if block_BCHW.shape[1:] != images_nCHW.shape[1:]:
                images_nCHW, done = torch.empty(0), 0  # first, so that there are never two copies
                if len(source.rows) * block_BCHW[0].numel() > MOST_BYTES_IN_MEMORY:
                    break
                images_nCHW = block_BCHW.new_empty(len(source.rows), *block_BCHW.shape[1:])
            images_nCHW[done : done + len(block_BCHW)] = block_BCHW
            done += len(block_BCHW)
        else:
            return Split(images_nCHW, source.labels)
    return _stored_split(source)


# --- stores ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Record:
    """What is kept beside pixels: their shape, the size of the file, when it was written (ns), the SHA-256 of shape
    and pixels, what reading them has told, and the notes of the decoder."""

    shape: list[int]
    size: int
    modified: int
    sha256: str
    facts: ImageFacts
    notes: list[str]


def _stored_split(source: SplitSource) -> Split:
    folder = Path(datasets.config.HF_DATASETS_CACHE).expanduser() / FOLDER / source.key()
    found = _open(folder)
    if found is None:
        with one_process(folder, f"decodes the {source.name} split"):
            found = _open(folder)
            if found is None:  # no other process has made it while this one waited
                _write(folder, source)
                found = _open(folder)
    if found is None:
        raise OSError(f"{folder} was written and cannot be read: look after the disk, or set HF_DATASETS_CACHE.")
    images_nCHW, record = found
    size = f"{record.size / 1e9:.2f} GB of decoded images of the {source.name} split"
    for note in (*record.notes, f"{size} are mapped from {folder}"):
        source.decoder.say(note)
    return Split(images_nCHW, source.labels, record.facts)


@contextmanager
def one_process(folder: Path, does: str) -> Iterator[None]:
    """
    Holds what is about to be made as `folder`, after any other process that does.

    Args:
        does (`str`): what another process does in the meantime, for a user who waits.

    Raises:
        `OSError`: if nothing can be written beside `folder`.
    """
    check_writable(folder.parent)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process, which {does}", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write(folder: Path, source: SplitSource) -> None:
    decoder = replace(source.decoder, notes=[])  # all of them, also those already said
    with atomic_directory(folder) as aside:
        path, shape = aside / PIXELS, [len(source.rows)]
        with path.open("wb") as file:
            for block_BCHW in replace(source, decoder=decoder).blocks():
                if [*block_BCHW.shape[1:]] != shape[1:]:  # the first; or in color after grey ones, which come again
                    shape[1:] = block_BCHW.shape[1:]
                    file.seek(0)
                    file.truncate()
                    what = f"the decoded images of the {source.name} split"
                    advice = "lower resize or max_train_samples, or set HF_DATASETS_CACHE to a folder on a larger disk"
                    check_free_disk(aside, torch.Size(shape).numel(), what, advice)
                    header = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
                    np.lib.format.write_array_header_1_0(file, header)
                    digest = begin_fingerprint(tuple(shape))
                    counts_CV = torch.zeros(shape[1], 256, dtype=torch.int64)
                pixels = block_BCHW.contiguous().numpy().data
                file.write(pixels)
                digest.update(pixels)
                counts_CV += channel_counts(block_BCHW)
            file.flush()
            os.fsync(file.fileno())  # the name must not come before what it names
        facts = ImageFacts(
            channel_counts=counts_CV.tolist(),
            fingerprint=end_fingerprint(digest, source.labels, zca=False),
            whitened_fingerprint=end_fingerprint(digest, source.labels, zca=True),
        )
        state = path.stat()
        record = _Record(shape, state.st_size, state.st_mtime_ns, digest.hexdigest(), facts, decoder.notes)
        write_json(aside / RECORD, asdict(record))


def _open(folder: Path) -> tuple[torch.Tensor, _Record] | None:
    """The images [n, C, H, W], mapped and not to be written to, and their record; `None` if a store is not whole."""
    try:
        kept = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        record = _Record(**kept | {"facts": ImageFacts(**kept["facts"])})
        pixels = np.load(folder / PIXELS, mmap_mode="r")
        state = (folder / PIXELS).stat()
    except (OSError, ValueError, TypeError, KeyError):  # not there, cut off, or something else
        return None
    if [*pixels.shape] != record.shape or pixels.dtype != np.uint8 or state.st_size != record.size:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the tensor must not be written to
        images_nCHW = torch.from_numpy(pixels)
    # A copy of the folder has another time, and so has a file that somebody wrote into.
    if state.st_mtime_ns != record.modified and _sha256(images_nCHW) != record.sha256:
        return None
    return images_nCHW, record


def _sha256(images_nCHW: torch.Tensor) -> str:
    digest = begin_fingerprint(tuple(images_nCHW.shape))
    digest.update(images_nCHW.numpy().data)  # page by page
    return digest.hexdigest()
