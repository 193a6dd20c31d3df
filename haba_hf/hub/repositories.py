"""Repositories of the Hub: files into one in one commit, files out of one whole, and what goes wrong on the way in one
sentence."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from .artifact import Files

RepoType = Literal["model", "dataset"]


def check_destination(repo_id: str, revision: str | None, create_pr: bool) -> None:
    """
    Raises:
        `ValueError`: if `repo_id` is no name, or a pull request is asked for that is not against main.
    """
    checked_repo_id(repo_id)
    if create_pr and revision not in (None, "main"):
        raise ValueError(f"A pull request is opened against main: give create_pr, or the branch {revision!r}.")


def push_files(
    files: Files,
    repo_id: str,
    repo_type: RepoType,
    known: tuple[str, ...],
    *,
    private: bool | None,
    revision: str | None,
    create_pr: bool,
    commit_message: str,
    commit_description: str | None = None,
    token: str | bool | None = None,
) -> str:
    """
    Commits files to a repository, which is made if there is none; what it has already is not sent again.

    Args:
        files (`dict[str, Path | bytes]`): by name.
        known (`tuple[str]`): patterns of what such a repository holds: of these, files that are not among `files` are
            deleted; any other is left alone.

    Returns:
        The repository's address, or the pull request's.

    Raises:
        `OSError`: if the Hub cannot be reached or refuses; the repository then is as it was, or, if it is new, empty,
            which is said.
    """
    api = HfApi(token=token, library_name="haba_hf")
    with clear_hub_errors(repo_id, revision):
        is_new = not api.repo_exists(repo_id, repo_type=repo_type)
        url = api.create_repo(repo_id, private=private, repo_type=repo_type, exist_ok=True)
    try:
        with clear_hub_errors(repo_id, revision):
            if revision is not None:
                _make_branch(api, repo_id, repo_type, revision)
            there = api.list_repo_files(repo_id, repo_type=repo_type, revision=revision)
            stale = sorted(name for name in there if is_of(name, known) and name not in files)
            commit = api.create_commit(
                repo_id,
                [CommitOperationAdd(name, content) for name, content in files.items()]
                + [CommitOperationDelete(name) for name in stale],
                commit_message=commit_message,
                commit_description=commit_description,
                repo_type=repo_type,
                revision=revision,
                create_pr=create_pr,
            )
    except OSError as error:
        if is_new:  # not deleted: the token may have no right to, and the name is the user's
            raise OSError(f"{error} The new repository is empty: push again, or delete it on the Hub.") from error
        raise
    return commit.pr_url or str(url)


def fetch_files(
    repo_id: str,
    repo_type: RepoType,
    known: tuple[str, ...],
    required: tuple[str, ...],
    what: str,
    revision: str | None = None,
    *,
    token: str | bool | None = None,
    most_bytes: int | None = None,
) -> Path:
    """
    Files of a repository in the Hub's cache, which the client fills file by file and resumes.

    Args:
        known (`tuple[str]`): patterns of those that are fetched.
        required (`tuple[str]`): names of those without which it holds none of `what`.
        what (`str`): `"artifact"` or `"experts"`, for messages.
        revision (`str`, *optional*): branch, tag or commit.
        token (`str`, *optional*): by default the one of `hf auth login` or `HF_TOKEN`; `False`: none, for a stranger.
        most_bytes (`int`, *optional*): refuse, before anything is fetched, what takes more.

    Raises:
        `ValueError`: if `repo_id` is no name, or the repository holds none of `what` or a file name that leaves its
            folder.
        `OSError`: if the Hub cannot be reached or refuses, or a file arrives damaged.
    """
    repo_id = checked_repo_id(repo_id)
    with clear_hub_errors(repo_id, revision):
        api = HfApi(token=token, library_name="haba_hf")
        info = api.repo_info(repo_id, repo_type=repo_type, revision=revision)
        tree = api.list_repo_tree(repo_id, recursive=True, revision=info.sha, repo_type=repo_type)
        listed = [entry for entry in tree if isinstance(entry, RepoFile)]
        names = [file.path for file in listed]
        for name in names:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
                raise ValueError(f"{repo_id} holds a file {name!r} that would leave its folder: do not use it.")
        missing = [name for name in required if name not in names]
        if missing:
            lacks_weights = any(name.endswith(".safetensors") for name in missing)
            pickles = " (pickled weights are not read)" if lacks_weights else ""
            raise ValueError(f"{repo_id} holds no {what}, it lacks {', '.join(missing)}{pickles}.")
        files = [file for file in listed if is_of(file.path, known)]
        size = sum(file.size for file in files)
        if most_bytes is not None and size > most_bytes:
            raise ValueError(f"{repo_id} takes {size:,} bytes, more than the {most_bytes:,} that are fetched here.")
        path = snapshot_download(
            repo_id, repo_type=repo_type, revision=revision, allow_patterns=list(known), token=token
        )
        _verify(Path(path), repo_id, files)
        return Path(path)


def is_of(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a file's name is one of ours; `*` stands for a part of a name, never for a folder."""
    path = PurePosixPath(name)
    return any(len(path.parts) == pattern.count("/") + 1 and path.match(pattern) for pattern in patterns)


def checked_repo_id(repo_id: str) -> str:
    """`owner/name` as it is; anything else is a `ValueError`."""
    if repo_id.count("/") != 1 or not all(re.fullmatch(r"\w[\w.-]*", part) for part in repo_id.split("/")):
        raise ValueError(f"{repo_id!r} is no name on the Hub: give owner/name, in letters, digits, '-', '_' and '.'.")
    validate_repo_id(repo_id)
    return repo_id


@contextmanager
def clear_hub_errors(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """What the client raises as one sentence, an `OSError`, that says what to do. It never holds a token."""
    try:
        yield
    except Exception as error:
        fault = _fault_of_hub(error, revision)
        if fault is None:
            raise
        raise OSError(f"{repo_id}: {fault}.") from error


def _fault_of_hub(error: BaseException, revision: str | None) -> str | None:
    """
    What went wrong between here and the Hub; `None` of any other error. The client wraps what it met, a status above
    all, in errors of its own, so that all that led to one counts.
    """
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    if isinstance(error, RevisionNotFoundError):
        return f"there is no revision {revision!r} on the Hub: look up its branches and tags"
    answered = next((cause for cause in causes if isinstance(cause, HfHubHTTPError)), None)
    if answered is not None:
        status = answered.response.status_code
        missing = "the Hub lacks a file that it lists or was sent: try again"
        if isinstance(answered, RepositoryNotFoundError):
            missing = "there is no such repository on the Hub, or it is private: check the name or `hf auth login`"
        advice = {
            401: "the Hub does not accept the token, or there is none: run `hf auth login`, or set HF_TOKEN",
            403: "the token has no right to do this: use one that has",
            404: missing,
            429: "too many requests: try again in some minutes",
        }
        unknown = "the Hub has a fault of its own: try again later" if status >= 500 else "the Hub refuses"
        return f"{advice.get(status, unknown)} (HTTP {status})"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so the Hub is not asked: unset it"
    unanswered = next((cause for cause in causes if isinstance(cause, (HTTPError, LocalEntryNotFoundError))), None)
    if unanswered is not None:
        return f"the connection to the Hub failed ({type(unanswered).__name__}): try again, what arrived is kept"
    if isinstance(error, (json.JSONDecodeError, TypeError, LookupError, AttributeError, RuntimeError)):
        return "the Hub answered something else than it should: check HF_ENDPOINT and proxies, or try again later"
    return None


def _make_branch(api: HfApi, repo_id: str, repo_type: str, revision: str) -> None:
    try:
        api.repo_info(repo_id, repo_type=repo_type, revision=revision)
    except RevisionNotFoundError:
        api.create_branch(repo_id, branch=revision, repo_type=repo_type)


def _verify(snapshot: Path, repo_id: str, files: Sequence[RepoFile]) -> None:
    """What arrived is what the Hub has, by its own digests; the client looks at sizes alone."""
    for entry in files:
        path = snapshot / entry.path
        if entry.lfs is not None:
            begin, wanted = hashlib.sha256, entry.lfs.sha256
        else:  # as git names a file's content
            begin, wanted = partial(hashlib.sha1, b"blob %d\0" % path.stat().st_size), entry.blob_id
        with path.open("rb") as file:
            found = hashlib.file_digest(file, begin).hexdigest()
        if found != wanted:
            path.resolve().unlink()  # out of the cache, so that it is fetched anew
            path.unlink(missing_ok=True)
            raise OSError(f"{repo_id}: {entry.path} arrived with other content than the Hub has: try again.")
