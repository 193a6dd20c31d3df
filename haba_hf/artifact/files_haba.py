"""The files of an artifact by their own names: what transformers would let a config put in their place is not read."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers.utils import cached_file

# Arguments of from_pretrained that say where a file is.
PLACES = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder")
MOST_SETTINGS_BYTES = 2**20


def find_file(source: str | os.PathLike, name: str, options: dict[str, Any]) -> str:
    """
    The path of one file of a folder or repository.

    Args:
        source (`str`): folder, repository, or a file beside it.
        name (`str`): the file's.
        options (`dict`): arguments of `from_pretrained`, of which those about places and access are used.

    Raises:
        `OSError`: if it is not there, or cannot be fetched.
    """
    folder = os.path.dirname(source) or os.curdir if os.path.isfile(source) else source
    if os.path.isdir(folder):
        path = os.path.join(folder, options.get("subfolder") or "", name)
        if not os.path.isfile(path):
            raise FileNotFoundError(f"There is no file {name} in {folder}: give the folder of a whole artifact.")
        return path
    return cached_file(folder, name, **{place: options[place] for place in PLACES if place in options})


def read_settings(source: str | os.PathLike, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """
    A file of settings, as [`find_file`] finds it, or `source` itself if that is a file.

    Raises:
        `OSError`: if it is not there, or cannot be fetched.
        `ValueError`: if it holds no names and values.
    """
    path = source if os.path.isfile(source) else find_file(source, name, options)
    try:
        if os.path.getsize(path) > MOST_SETTINGS_BYTES:
            raise ValueError(f"{os.path.getsize(path):,} bytes are too many")
        with open(path, encoding="utf-8") as file:
            settings = json.load(file)
        if not isinstance(settings, dict):
            raise ValueError("it holds no names and values")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} of {source} cannot be read ({error}): save or download it again.") from error
    return settings


def checked_size(size: dict[str, int] | None, side: int) -> dict[str, int]:
    """
    Height and width of a processor, by default `side` both.

    Raises:
        `ValueError`: if it is something else than two positive whole numbers of these names.
    """
    size = {"height": side, "width": side} if size is None else dict(size)
    if size.keys() != {"height", "width"} or not all(type(length) is int and length >= 1 for length in size.values()):
        raise ValueError(f"size must be {{'height': ..., 'width': ...}} with positive numbers, got {size}.")
    return size


@contextmanager
def read_as_settings(name: str) -> Iterator[None]:
    """
    Whoever makes an object of settings from a file: values that fit none of its fields are refused in one sentence.

    Raises:
        `ValueError`: naming the file.
    """
    try:
        yield
    except (StrictDataclassError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{name} holds what no haba artifact has ({reason}): save or download it again.") from error
