"""To the Hub and back: what of an artifact's folder is uploaded, in one commit, and what of a repository is taken.
And the same without a Hub, into a folder."""

import hashlib
import inspect
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

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
from transformers.dynamic_module_utils import get_relative_import_files

from ..artifact import modeling_haba
from ..artifact.loading import HabaProcessor
from ..artifact.processing_audio_haba import HabaAudioProcessor
from ..artifact.processing_haba import HabaImageProcessor
from ..artifact.whitening_haba import WHITENING
from ..utils.files import atomic_directory, json_bytes
from .artifact import (
    CARD,
    FIGURES,
    PROCESSOR,
    REQUIRED,
    WEIGHTS,
    Artifact,
    Files,
    processor_files,
    published_records,
    read_artifact,
    refuse_unsafe_files,
    write_files,
)
from .cards import eval_results_yaml, render_model_card
from .records import RECORDS
from .tables import materialize_artifact

EVAL_RESULTS = ".eval_results/haba.yaml"
CODE = "*_haba.py"
TABLES = ("exact/*.parquet", "images/*.parquet")
KNOWN = (*REQUIRED, WHITENING, *RECORDS, *FIGURES, CARD, EVAL_RESULTS, CODE)  # all that is read of a repository
LOCAL = (*KNOWN, ".eval_results")  # names in a folder that was pulled

MODEL_CLASSES = {"AutoConfig": "configuration_haba.HabaConfig", "AutoModel": "modeling_haba.HabaModel"}
PROCESSOR_CLASSES: dict[type, dict[str, str]] = {
    HabaImageProcessor: {"AutoImageProcessor": "processing_haba.HabaImageProcessor"},
    HabaAudioProcessor: {"AutoFeatureExtractor": "processing_audio_haba.HabaAudioProcessor"},
}


def push_artifact(
    directory: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    as_dataset: bool = False,
    include_code: bool = True,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
    tags: Sequence[str] | None = None,
    token: str | bool | None = None,
) -> str:
    """
    Publishes an artifact in one commit, and makes the repository if there is none.

    Only files of an artifact go up: config, weights, processor, recipe, records, figures and a card rendered from
    them; absolute paths in the records are cut to their last part. A file of that kind that the artifact no longer
    has is deleted there, any other file of the repository is left alone. What the repository has already is not
    sent again, and without a difference there is no commit.

    Args:
        directory (`str`): the artifact's folder.
        repo_id (`str`): `owner/name`.
        private (`bool`, *optional*): whether a new repository is private; by default as its owner has it set.
        as_dataset (`bool`, *optional*, defaults to `False`):
            Publish the samples as a dataset repository (parquet, exact floats and pictures) in place of the model.
        include_code (`bool`, *optional*, defaults to `True`):
            Add the code that loads the artifact where haba_hf is not installed (`trust_remote_code=True`): this
            package's own files, whatever Python files are in the folder.
        revision (`str`, *optional*): branch to commit to; it is made if it is new.
        create_pr (`bool`, *optional*, defaults to `False`): open a pull request with the commit.
        commit_message (`str`, *optional*): what the commit says.
        commit_description (`str`, *optional*): and what it says below that.
        tags (`list[str]`, *optional*): tags of the card besides those it has.
        token (`str`, *optional*): by default the one of `hf auth login` or `HF_TOKEN`.

    Returns:
        The repository's address, or the pull request's.

    Raises:
        `ValueError`: if `repo_id` is no name, `create_pr` comes with a branch, or the folder is unfit (see
            [`read_artifact`]) or holds a pickle or a link out of it, before anything is sent.
        `OSError`: if the Hub cannot be reached or refuses; the repository then is as it was, or, if it is new, empty,
            which is said.
    """
    repo_id = checked_repo_id(repo_id)
    if create_pr and revision not in (None, "main"):
        raise ValueError(f"A pull request is opened against main: give create_pr, or the branch {revision!r}.")
    refuse_unsafe_files(directory)
    artifact = read_artifact(directory)
    api = HfApi(token=token, library_name="haba_hf")
    repo_type = "dataset" if as_dataset else "model"
    with tempfile.TemporaryDirectory() as folder:
        if as_dataset:
            files = _dataset_files(artifact, repo_id, tags, Path(folder))
        else:
            files = _model_files(artifact, repo_id, include_code, tags)
        with clear_hub_errors(repo_id, revision):
            is_new = not api.repo_exists(repo_id, repo_type=repo_type)
            url = api.create_repo(repo_id, private=private, repo_type=repo_type, exist_ok=True)
        try:
            with clear_hub_errors(repo_id, revision):
                if revision is not None:
                    _make_branch(api, repo_id, repo_type, revision)
                there = api.list_repo_files(repo_id, repo_type=repo_type, revision=revision)
                stale = sorted(name for name in there if _is_of(name, (*KNOWN, *TABLES)) and name not in files)
                commit = api.create_commit(
                    repo_id,
                    [CommitOperationAdd(name, content) for name, content in files.items()]
                    + [CommitOperationDelete(name) for name in stale],
                    commit_message=commit_message
                    or f"Publish {'samples' if as_dataset else 'an artifact'} of haba_hf",
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


def export_artifact(
    directory: str | Path, folder: str | Path, *, repo_id: str | None = None, include_code: bool = True
) -> Path:
    """
    Writes what [`push_artifact`] uploads of an artifact into a folder: weights, card, figures, and what was measured
    in the run. The folder can be loaded and pushed as it is; exported onto itself, its card is written anew.

    Args:
        directory (`str`): the artifact's folder.
        folder (`str`): a new or empty folder, or one that holds an artifact alone, which is replaced.
        repo_id (`str`, *optional*): the name that the card's code loads, by default `folder` as it is given.
        include_code (`bool`, *optional*, defaults to `True`): as of a push.

    Returns:
        `folder`.

    Raises:
        `ValueError`: if `directory` is unfit, as of a push, or `folder` holds something else than an artifact.
        `OSError`: if a file cannot be read or written; `folder` then is as it was.
    """
    refuse_unsafe_files(directory)
    artifact = read_artifact(directory)
    _refuse_other_folders(Path(folder))
    files = _model_files(artifact, repo_id or str(folder), include_code)
    with atomic_directory(folder) as aside:
        write_files(aside, files)
    return Path(folder)


def pull_artifact(repo_id: str, local_dir: str | Path, revision: str | None = None) -> Path:
    """
    Fetches an artifact from the Hub into a folder of its own, whole or not at all. No code of the repository is run.

    Args:
        repo_id (`str`): `owner/name`.
        local_dir (`str`): a new or empty folder, or one that holds an artifact alone, which is replaced.
        revision (`str`, *optional*): branch, tag or commit.

    Returns:
        `local_dir`.

    Raises:
        `ValueError`: if the repository holds no artifact or a file name that leaves its folder, or `local_dir` holds
            something else.
        `OSError`: if the Hub cannot be reached or refuses; `local_dir` then is as it was.
    """
    local_dir = Path(local_dir)
    _refuse_other_folders(local_dir)
    snapshot = fetch_artifact(repo_id, revision)
    read_artifact(snapshot)
    with atomic_directory(local_dir) as aside:
        for path in snapshot.rglob("*"):
            name = path.relative_to(snapshot).as_posix()
            if _is_of(name, KNOWN) and path.is_file():
                (aside / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(path, aside / name)  # the cache holds links
    return local_dir


def fetch_artifact(
    repo_id: str, revision: str | None = None, *, token: str | bool | None = None, most_bytes: int | None = None
) -> Path:
    """
    An artifact's files in the Hub's cache, which the client fills file by file and resumes; errors as of a pull.

    Args:
        repo_id (`str`): `owner/name`.
        revision (`str`, *optional*): branch, tag or commit.
        token (`str`, *optional*): by default the one of `hf auth login` or `HF_TOKEN`; `False`: none, for a stranger.
        most_bytes (`int`, *optional*): refuse, before anything is fetched, an artifact that takes more.
    """
    repo_id = checked_repo_id(repo_id)
    with clear_hub_errors(repo_id, revision):
        api = HfApi(token=token, library_name="haba_hf")
        info = api.model_info(repo_id, revision=revision)
        tree = api.list_repo_tree(repo_id, recursive=True, revision=info.sha)
        listed = [entry for entry in tree if isinstance(entry, RepoFile)]
        names = [file.path for file in listed]
        for name in names:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
                raise ValueError(f"{repo_id} holds a file {name!r} that would leave its folder: do not use it.")
        missing = [name for name in REQUIRED if name not in names]
        if missing:
            pickles = " (pickled weights are not read)" if WEIGHTS in missing else ""
            raise ValueError(f"{repo_id} holds no artifact, it lacks {', '.join(missing)}{pickles}.")
        files = [file for file in listed if _is_of(file.path, KNOWN)]
        size = sum(file.size for file in files)
        if most_bytes is not None and size > most_bytes:
            raise ValueError(f"{repo_id} takes {size:,} bytes, more than the {most_bytes:,} that are fetched here.")
        snapshot = Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(KNOWN), token=token))
        _verify(snapshot, repo_id, files)
        return snapshot


def _verify(snapshot: Path, repo_id: str, files: Sequence[RepoFile]) -> None:
    """What arrived is what the Hub has, by its own digests; the client looks at sizes alone."""
    for entry in files:
        path = snapshot / entry.path
        content = path.read_bytes()
        if entry.lfs is not None:
            found, wanted = hashlib.sha256(content).hexdigest(), entry.lfs.sha256
        else:  # as git names a file's content
            found, wanted = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(), entry.blob_id
        if found != wanted:
            path.resolve().unlink()  # out of the cache, so that it is fetched anew
            path.unlink(missing_ok=True)
            raise OSError(f"{repo_id}: {entry.path} arrived with other content than the Hub has: try again.")


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


def _model_files(artifact: Artifact, repo_id: str, include_code: bool, tags: Sequence[str] | None = None) -> Files:
    files = {**published_records(artifact), **processor_files(artifact), WEIGHTS: artifact.directory / WEIGHTS}
    processor = type(artifact.processor)
    for name, auto_map in {"config.json": MODEL_CLASSES, PROCESSOR: PROCESSOR_CLASSES[processor]}.items():
        config = json.loads((artifact.directory / name).read_text(encoding="utf-8"))
        config.pop("auto_map", None)
        if include_code:
            config["auto_map"] = auto_map
        files[name] = json_bytes(config)
    if include_code:
        files |= {path.name: path for path in code_files(processor)}
    files[CARD] = render_model_card(artifact, repo_id, include_code, tags).encode()
    eval_results = eval_results_yaml(artifact)
    if eval_results is not None:
        files[EVAL_RESULTS] = eval_results.encode()
    return files


def _dataset_files(artifact: Artifact, repo_id: str, tags: Sequence[str] | None, folder: Path) -> Files:
    samples = materialize_artifact(artifact, folder / "samples", repo_id, tags)
    return {path.relative_to(samples).as_posix(): path for path in samples.rglob("*") if path.is_file()}


def code_files(processor: type[HabaProcessor] = HabaImageProcessor) -> list[Path]:
    """The files of this package that travel with the weights: model, processor and what they import beside them."""
    roots = [str(modeling_haba.__file__), inspect.getfile(processor)]
    files = {Path(path) for root in roots for path in (root, *get_relative_import_files(root))}
    return sorted(files)


def _refuse_other_folders(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names and (not names.issuperset(REQUIRED) or not all(_is_of(name, LOCAL) for name in names)):
        raise ValueError(f"{folder} holds other files than an artifact's: name a new folder.")


def _make_branch(api: HfApi, repo_id: str, repo_type: str, revision: str) -> None:
    try:
        api.repo_info(repo_id, repo_type=repo_type, revision=revision)
    except RevisionNotFoundError:
        api.create_branch(repo_id, branch=revision, repo_type=repo_type)


def _is_of(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a file's name is one of ours; `*` stands for a part of a name, never for a folder."""
    path = PurePosixPath(name)
    return any(len(path.parts) == pattern.count("/") + 1 and path.match(pattern) for pattern in patterns)
