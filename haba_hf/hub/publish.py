"""An artifact to the Hub and back: what of its folder is uploaded, and what of a repository is taken. And the same
without a Hub, into a folder."""

import inspect
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

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
from .repositories import RepoType, check_destination, fetch_files, is_of, push_files
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
    check_destination(repo_id, revision, create_pr)
    refuse_unsafe_files(directory)
    artifact = read_artifact(directory)
    repo_type: RepoType = "dataset" if as_dataset else "model"
    with tempfile.TemporaryDirectory() as folder:
        if as_dataset:
            files = _dataset_files(artifact, repo_id, tags, Path(folder))
        else:
            files = _model_files(artifact, repo_id, include_code, tags)
        return push_files(
            files,
            repo_id,
            repo_type,
            (*KNOWN, *TABLES),
            private=private,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message or f"Publish {'samples' if as_dataset else 'an artifact'} of haba_hf",
            commit_description=commit_description,
            token=token,
        )


def export_artifact(
    directory: str | Path, folder: str | Path, *, repo_id: str | None = None, include_code: bool = True
) -> Path:
    """
    Writes what [`push_artifact`] uploads of an artifact into a folder: weights, card, figures, and what was measured
    in the run. The folder can be loaded and pushed as it is; exported onto itself, its card is written anew.

    Args:
        directory (`str`): the artifact's folder.
        folder (`str`): a new or empty folder, or one that holds an artifact alone, which is replaced.
        repo_id (`str`, *optional*): the name that the card's code loads, by default `folder`.
        include_code (`bool`, *optional*, defaults to `True`): as of a push.

    Returns:
        `folder`.

    Raises:
        `ValueError`: if `directory` is unfit, as of a push, or `folder` holds something else than an artifact.
        `OSError`: if a file cannot be read or written; `folder` then is as it was.
    """
    folder = Path(folder)  # a slash at its end is no part of the name
    refuse_unsafe_files(directory)
    artifact = read_artifact(directory)
    _refuse_other_folders(folder)
    files = _model_files(artifact, repo_id or str(folder), include_code)
    with atomic_directory(folder) as aside:
        write_files(aside, files)
    return folder


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
            if is_of(name, KNOWN) and path.is_file():
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
    return fetch_files(repo_id, "model", KNOWN, REQUIRED, "artifact", revision, token=token, most_bytes=most_bytes)


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
    if names and (not names.issuperset(REQUIRED) or not all(is_of(name, LOCAL) for name in names)):
        raise ValueError(f"{folder} holds other files than an artifact's: name a new folder.")
