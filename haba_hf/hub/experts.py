"""Expert trajectories to the Hub and back: a data set repository of safetensors files and a card that says what
trained them."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import DatasetCardData
from safetensors import SafetensorError, safe_open

from ..distillation import ExpertArguments
from ..distillation.experts import PRECISIONS, expert_path, network_signature, training_signature
from ..networks import NetworkArguments, build_network
from ..utils.files import atomic_directory, check_empty
from .artifact import CARD, Files
from .cards import fill_template
from .repositories import check_destination, fetch_files, is_of, push_files

KNOWN = ("expert-*.safetensors", CARD)
SHARED = ("network", "data", "training", "mixed_precision")  # what all experts of a run agree in, by their headers

ACCURACY = "validation_accuracy"


@dataclass(frozen=True)
class ExpertSet:
    """
    A folder of experts that has been read whole: one network, data and training, and no number is NaN or infinite.

    Args:
        paths (`list[Path]`): the files, expert 0 first.
        network ([`NetworkArguments`]): what they are; of image shape `image_shape` and `num_labels` classes.
        training ([`ExpertArguments`]): how they were trained, and how many there are.
        data_fingerprint (`str`): of the real images and labels.
        mixed_precision (`str`): of the arithmetic.
        num_snapshots, num_parameters (`int`): S and P.
        dataset (`str`, *optional*): the name of the data, if it is on record.
        accuracies (`list[float]`): of each expert's last snapshot on the validation images; empty without record.
    """

    paths: list[Path]
    network: NetworkArguments
    image_shape: tuple[int, int, int]
    num_labels: int
    training: ExpertArguments
    data_fingerprint: str
    mixed_precision: str
    num_snapshots: int
    num_parameters: int
    dataset: str | None
    accuracies: list[float]

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths)

    @property
    def fields(self) -> dict[str, Any]:
        """Those of a recipe that a run has to share with these experts."""
        network, training = asdict(self.network), asdict(self.training)
        if self.network.network != "convnet":  # only it has them
            del network["network_depth"], network["network_width"]
        del training["experts_dir"]
        return network | training


def read_experts(folder: str | Path) -> ExpertSet:
    """
    Reads and checks a folder of experts, a snapshot at a time.

    Raises:
        `FileNotFoundError`: if it holds none.
        `ValueError`: if one is damaged, missing between others, no expert of this package or unlike the first.
    """
    folder = Path(folder)
    found = sorted(folder.glob(KNOWN[0]))
    if not found:
        raise FileNotFoundError(f"{folder} holds no experts: give the folder that haba experts wrote (experts_dir).")
    paths = [expert_path(folder, index) for index in range(len(found))]
    if found != paths:
        lacking = next(path for path in paths if path not in found)
        raise ValueError(f"{folder} lacks {lacking.name}, for experts are numbered from 0 on: record it again.")
    try:
        headers, sizes = zip(*(_read_expert(path) for path in paths), strict=True)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder} holds a damaged expert ({error}): record or fetch it again.") from error
    dataset = next((header["dataset"] for header in headers if "dataset" in header), None)  # older files do not say it
    expected = {name: headers[0][name] for name in SHARED} | {"dataset": dataset}
    for path, header in zip(paths, headers, strict=True):
        for name, wanted in expected.items():
            if header.get(name, wanted) != wanted:
                raise ValueError(f"{path} is of another {name} than the experts before: keep each kind in a folder.")
    network, image_shape, num_labels = _network_of(paths[0], headers[0])
    training = _training_of(paths[0], headers[0], len(paths))
    with torch.device("meta"):
        parameters = sum(of.numel() for of in build_network(network, image_shape, num_labels, seed=0).parameters())
    for path, (_, size, dtype) in zip(paths, sizes, strict=True):
        if size != parameters or PRECISIONS[training.expert_precision] != dtype:
            raise ValueError(
                f"{path} holds {size:,} parameters of {dtype} where its network has {parameters:,} and its training "
                f"says {training.expert_precision}: record or fetch it again."
            )
    return ExpertSet(
        paths=paths,
        network=network,
        image_shape=image_shape,
        num_labels=num_labels,
        training=training,
        data_fingerprint=headers[0]["data"],
        mixed_precision=headers[0]["mixed_precision"],
        num_snapshots=min(snapshots for snapshots, _, _ in sizes),
        num_parameters=parameters,
        dataset=dataset,
        accuracies=[_accuracy_of(*of) for of in zip(paths, headers, strict=True) if ACCURACY in of[1]],
    )


def push_experts(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    token: str | bool | None = None,
) -> str:
    """
    Publishes a folder of experts as a data set repository, in one commit: their files and a card.

    Args:
        folder (`str`): `experts_dir` of a recipe.
        repo_id, private, revision, create_pr, commit_message, token: as of [`push_artifact`].

    Returns:
        The repository's address, or the pull request's.

    Raises:
        `ValueError`, `FileNotFoundError`: if `repo_id` is no name, `create_pr` comes with a branch, or the folder is
            unfit (see [`read_experts`]), before anything is sent.
        `OSError`: if the Hub cannot be reached or refuses, as of [`push_artifact`].
    """
    check_destination(repo_id, revision, create_pr)
    experts = read_experts(folder)
    files: Files = {path.name: path for path in experts.paths}
    files[CARD] = render_experts_card(experts, repo_id).encode()
    return push_files(
        files,
        repo_id,
        "dataset",
        KNOWN,
        private=private,
        revision=revision,
        create_pr=create_pr,
        commit_message=commit_message or "Publish experts of haba_hf",
        token=token,
    )


def pull_experts(repo_id: str, folder: str | Path, revision: str | None = None) -> Path:
    """
    Fetches experts from the Hub into a new or empty folder, whole or not at all; experts that are there already are
    never replaced, for they may have taken days.

    Returns:
        `folder`, as `experts_dir` of a recipe takes it.

    Raises:
        `ValueError`: if the repository holds no experts or unfit ones (see [`read_experts`]), or `folder` is not
            empty.
        `OSError`: if the Hub cannot be reached or refuses, or the folder cannot be written.
    """
    folder = Path(folder)
    check_empty(folder, "experts")
    required = (expert_path("", 0).name,)
    snapshot = fetch_files(repo_id, "dataset", KNOWN, required, "experts", revision)
    read_experts(snapshot)
    with atomic_directory(folder) as aside:
        for path in snapshot.iterdir():
            if is_of(path.name, KNOWN):
                shutil.copyfile(path, aside / path.name)  # the cache holds links
    return folder


def render_experts_card(experts: ExpertSet, repo_id: str) -> str:
    """The card of a repository of experts."""
    metadata = DatasetCardData(
        license="unknown",
        pretty_name=repo_id.split("/")[-1],
        tags=["dataset-distillation", "expert-trajectories", "haba"],
        viewer=False,
    )
    return fill_template(
        "experts_card.md.jinja",
        metadata=metadata.to_yaml().strip(),
        name=repo_id.split("/")[-1],
        repo_id=repo_id,
        experts=experts,
        fields=yaml.safe_dump(experts.fields, sort_keys=False).strip(),
        epochs=(experts.num_snapshots - 1) / experts.training.snapshots_per_epoch,
        accuracies=torch.tensor(experts.accuracies, dtype=torch.float64),
    )


def _read_expert(path: Path) -> tuple[dict[str, str], tuple[int, int, torch.dtype]]:
    """The header of an expert file, and how many snapshots of how many parameters of which type it holds."""
    with safe_open(path, framework="pt") as file:
        header, names = file.metadata() or {}, set(file.keys())
        shape = file.get_slice("snapshots").get_shape() if "snapshots" in names else []
        if names != {"snapshots"} or len(shape) != 2 or not shape[0] or not set(SHARED) <= header.keys():
            raise ValueError(f"{path} is not an expert file of haba_hf: take it out of the folder.")
        rows = file.get_slice("snapshots")
        for moment in range(shape[0]):
            snapshot = rows[moment : moment + 1]
            if not torch.isfinite(snapshot).all():
                raise ValueError(f"{path} holds NaN or infinity in snapshot {moment}: delete it and record it again.")
    return header, (shape[0], shape[1], snapshot.dtype)


def _network_of(path: Path, header: Mapping[str, str]) -> tuple[NetworkArguments, tuple[int, int, int], int]:
    """What [`network_signature`] wrote; anything else is refused."""
    try:
        name, *sizes, image_shape, num_labels = json.loads(header["network"])
        network = NetworkArguments(name, *sizes)
        known = network_signature(network, tuple(image_shape), num_labels) == header["network"]
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} names no network that is known here ({error}): do not use it.") from error
    if not known or not all(isinstance(size, int) and 0 < size < 2**16 for size in (*image_shape, num_labels)):
        raise ValueError(f"{path} names no network that is known here ({header['network']}): do not use it.")
    return network, tuple(image_shape), num_labels


def _training_of(path: Path, header: Mapping[str, str], num_experts: int) -> ExpertArguments:
    """What [`training_signature`] wrote; anything else is refused."""
    try:
        settings = dict(json.loads(header["training"]))
        snapshots_per_epoch = settings.pop("snapshots_per_epoch")
        fields = {f"expert_{name}": value for name, value in settings.items()}
        training = ExpertArguments(num_experts=num_experts, snapshots_per_epoch=snapshots_per_epoch, **fields)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} does not say how it was trained ({error}): do not use it.") from error
    if training_signature(training) != header["training"]:
        raise ValueError(f"{path} does not say how it was trained ({header['training']}): do not use it.")
    return training


def _accuracy_of(path: Path, header: Mapping[str, str]) -> float:
    try:
        accuracy = float(header[ACCURACY])
    except ValueError:
        accuracy = -1.0
    if not 0 <= accuracy <= 1:
        raise ValueError(f"{path} states a validation accuracy of {header[ACCURACY]!r}: do not use it.")
    return accuracy
