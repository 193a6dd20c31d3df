"""Writing files so that nothing half-written is ever left under a final name."""

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

# Beside `name`: `.name.<process>.tmp` of a file, `.name.<process>.<random>.tmp` and `.old` of a folder.
LEFTOVER = re.compile(r"\.(?P<name>.+?)\.(?P<process>\d{1,9})(\.[^.]+)?\.(?P<kind>tmp|old)")


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """
    Yields a path beside `path` to write to; on success it takes the place of `path`, on any error it is removed.

    Raises:
        `OSError`: naming the file, if it cannot be written (no permission, no space).
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    remove_leftovers(path.parent, path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        os.replace(aside, path)
    except (OSError, SafetensorError) as error:
        raise _cannot_write(path, error) from error
    finally:
        with suppress(OSError):  # it must not hide the error above
            aside.unlink()


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """
    Yields a new directory beside `path` to fill; on success it takes the place of `path`, on any error it is removed.
    A link to a directory stays one: what it points to is replaced.

    Raises:
        `OSError`: naming the directory, if it cannot be written (no permission, no space) or `path` is a file.
    """
    path = Path(path).resolve()
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        remove_leftovers(path.parent, path.name)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.{os.getpid()}.", suffix=".tmp", dir=path.parent))
        aside.chmod(0o755)
        yield aside
        _exchange(path, aside)
    except (OSError, SafetensorError) as error:
        raise _cannot_write(path, error) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """
    Removes what processes that were killed left beside a file or folder of this name, or beside any: what they had
    half written, and what they were about to replace, which comes back where nothing took its place.
    """
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        found = LEFTOVER.fullmatch(path.name)
        if found is None or name not in (None, found["name"]) or _runs(int(found["process"])):
            continue
        if found["kind"] == "old" and not (folder / found["name"]).exists():
            os.replace(path, folder / found["name"])
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs, and is another user's
    return True


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """
    Holds a folder for one run; the lock goes with its process, however that ends.

    Raises:
        `OSError`: if another run holds it, or it cannot be written.
    """
    path = Path(folder) / ".lock"
    is_new = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OSError(
            f"Another run is writing to {folder}: wait for it, stop it, or choose another output_dir."
        ) from error
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()
        if is_new:  # and still empty: what was refused leaves nothing
            with suppress(OSError):
                path.parent.rmdir()


def json_bytes(content: Any) -> bytes:
    """
    The bytes of a JSON file.

    Raises:
        `ValueError`: if a number is NaN or infinite, which JSON does not have.
    """
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: str | Path, content: Any) -> None:
    """
    Writes JSON in one piece: the file is either the old or the new one.

    Raises:
        `OSError`: if the file cannot be written.
        `ValueError`: if a number is NaN or infinite, which JSON does not have.
    """
    written = json_bytes(content)
    with atomic_file(path) as aside:
        aside.write_bytes(written)


def check_recorded(
    path: str | Path,
    expected: Mapping[str, str],
    shapes: Mapping[str, tuple[int | None, ...]],
    what: str,
    folder_field: str,
) -> dict[str, tuple[int, ...]]:
    """
    Checks a safetensors file that one run records and others read: it is whole, and of what this run would record.

    Args:
        path (`str`): the file.
        expected (`dict[str, str]`): what must stand in its header, by name.
        shapes (`dict[str, tuple]`): the tensors that it must hold, by name, with their shapes, `None` for any length.
        what (`str`): what the file is, for messages.
        folder_field (`str`): the field of a recipe that names its folder.

    Returns:
        The shapes that those tensors have.

    Raises:
        `ValueError`: if it is damaged, another kind of file, or of something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
            has = {name: tuple(file.get_slice(name).get_shape()) for name in shapes.keys() & set(file.keys())}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and record it again.") from error
    if not expected.keys() <= found.keys():
        raise ValueError(f"{path} is not {what} of haba_hf: choose another {folder_field}.")
    for name, wanted in expected.items():
        if found[name] != wanted:
            raise ValueError(
                f"{path} was recorded with another {name} ({found[name]}) than this recipe's ({wanted}): choose "
                f"another {folder_field}, or delete it and record it again."
            )
    for name, wanted_shape in shapes.items():
        lengths = has.get(name, ())
        fits = all(of in (None, length) for length, of in zip(lengths, wanted_shape, strict=False))
        if len(lengths) != len(wanted_shape) or not fits:
            sizes = " x ".join("any" if of is None else str(of) for of in wanted_shape)
            raise ValueError(
                f"{path} holds {name} of shape {list(lengths)} in place of {sizes}: delete it and record it again."
            )
    return has


def check_empty(directory: Path, content: str) -> None:
    """
    Raises:
        `ValueError`: if there is anything in a folder that is to hold some content alone.
    """
    if directory.is_dir() and any(directory.iterdir()):
        raise ValueError(f"{directory} is not empty: name a new folder for the {content}.")


def check_writable(directory: str | Path) -> None:
    """
    Makes `directory` and writes a byte there, so that a long run fails at its start and not at its end.

    Raises:
        `OSError`: naming the directory, if that does not work.
    """
    with atomic_file(Path(directory) / ".writable") as aside:
        aside.write_bytes(b"0")
    (Path(directory) / ".writable").unlink(missing_ok=True)


def check_free_disk(folder: str | Path, needed: int, what: str, advice: str) -> None:
    """
    Refuses to begin writing what the disk has no room for.

    Args:
        folder (`str`): where it goes; it is there already.
        needed (`int`): bytes.
        what (`str`), advice (`str`): for the message: what is written, and what else may be done than to free some.

    Raises:
        `OSError`: if fewer bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        sizes = f"{what} take {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free in {folder}"
        raise OSError(errno.ENOSPC, f"{sizes}; {advice}")


def _exchange(path: Path, aside: Path) -> None:
    """Puts `aside` in the place of `path`, whose old content goes only when that has worked."""
    if not path.exists():
        os.replace(aside, path)
        return
    replaced = aside.with_suffix(".old")
    os.replace(path, replaced)
    try:
        os.replace(aside, path)
    except BaseException:
        os.replace(replaced, path)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _cannot_write(path: Path, error: OSError | SafetensorError) -> OSError:
    """The error that names `path`; safetensors reports a full disk by an error of its own."""
    if isinstance(error, SafetensorError) or error.errno is None:
        return OSError(f"Cannot write {path}: {error}. Nothing was changed there.")
    place = f" ({error.filename})" if error.filename else ""
    return OSError(error.errno, f"Cannot write {path}: {error.strerror or error}{place}. Nothing was changed there")
