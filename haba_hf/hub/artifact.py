"""An artifact's folder: which files belong to it, and what they say about it."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ..artifact.loading import HabaProcessor, load_model_and_processor
from ..artifact.modeling_haba import HabaModel
from ..artifact.whitening_haba import WHITENING
from ..evaluation import ArchitectureRow, ReportRow, RobustnessResult, hallucinator_variety
from ..utils.files import json_bytes
from ..utils.fingerprints import weights_fingerprint
from .records import (
    CORESET,
    DISTILLATION,
    RECIPE,
    RECORDS,
    RESULTS,
    ROBUSTNESS,
    ROWS,
    labels_on_record,
    read_measurements,
    read_origin,
)

WEIGHTS, PROCESSOR = "model.safetensors", "preprocessor_config.json"
REQUIRED = ("config.json", WEIGHTS, PROCESSOR)
GALLERY, TRAINING_CURVES = "gallery.png", "training_curves.png"
FIGURES = (GALLERY, TRAINING_CURVES, "robustness.png")
CARD = "README.md"
Files = dict[str, Path | bytes]  # what a repository gets: names in it, and the content or the file that has it

PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")  # reading one can run code


@dataclass(frozen=True)
class Artifact:
    """
    An artifact that has been read whole: its weights load, and its records are about it.

    Args:
        directory (`Path`): its folder.
        model ([`HabaModel`]): on the CPU.
        processor ([`HabaImageProcessor`] or [`HabaAudioProcessor`]): to and from model space.
        recipe (`dict`): `recipe.yaml`, empty if there is none.
        distillation (`dict`): `distillation.json`, empty if there is none.
        coreset (`dict`): `coreset.json`, empty if the artifact was not chosen.
        measurements (`dict[str, dict]`): `results.json`, `cross_architecture.json` and `robustness.json` of the
            folder, or of the run whose artifact it is; those that are there, by name.
        rows (`list[ReportRow]`): of the results, the artifact's own first.
        architectures (`list[ArchitectureRow]`): students of other architectures.
        robustness (`list[RobustnessResult]`): students under corruption, the artifact's own first.
        figures (`dict[str, Path]`): the pictures that are there, by name.
    """

    directory: Path
    model: HabaModel
    processor: HabaProcessor
    recipe: dict[str, Any] = field(default_factory=dict)
    distillation: dict[str, Any] = field(default_factory=dict)
    coreset: dict[str, Any] = field(default_factory=dict)
    measurements: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[ReportRow] = field(default_factory=list)
    architectures: list[ArchitectureRow] = field(default_factory=list)
    robustness: list[RobustnessResult] = field(default_factory=list)
    figures: dict[str, Path] = field(default_factory=dict)

    @property
    def origin(self) -> dict[str, Any]:
        """What was run, on which data, where and how long: of the distillation or of the choice."""
        return self.coreset or self.distillation

    @property
    def labels(self) -> str:
        """What its students learn from, one of `haba_hf.evaluation.report.LABELS`."""
        return labels_on_record(self.model.config.label_kind, self.origin)

    @cached_property
    def hallucinator_variety(self) -> float | None:
        """[`hallucinator_variety`] of its model, computed once."""
        return hallucinator_variety(self.model)

    @property
    def results(self) -> dict[str, Any]:
        """`results.json`, empty if there is none."""
        return self.measurements.get(RESULTS, {})

    def row(self, system: str) -> ReportRow | None:
        """The row of one system, such as `"full data"`."""
        return next((row for row in self.rows if row.system == system), None)


def read_artifact(directory: str | Path) -> Artifact:
    """
    Reads and checks an artifact's folder. No code of the folder is run.

    Raises:
        `FileNotFoundError`: if the folder or one of its required files is missing.
        `ValueError`: if it holds damaged weights, a processor of another space, or records of another artifact.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"There is no artifact {directory}: give the folder that distillation wrote.")
    missing = [name for name in REQUIRED if not (directory / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{directory} is no whole artifact, it lacks {', '.join(missing)}: give the folder that distillation "
            "wrote (output_dir/artifact), or save model and processor there with save_pretrained."
        )
    model, processor = load_model_and_processor(directory, local_files_only=True)
    recipe, distillation, coreset = read_origin(directory)
    origin, found = distillation or coreset, fingerprints(model, processor)
    check_fingerprints(directory, found, origin)
    measurements = read_measurements(directory, found["weights_fingerprint"], origin)
    artifact = Artifact(
        directory=directory,
        model=model,
        processor=processor,
        recipe=recipe,
        distillation=distillation,
        coreset=coreset,
        measurements={path.name: record for path, (record, _) in measurements.items()},
        figures=_figures(directory, list(measurements)),
        **{ROWS[path.name][0]: rows for path, (_, rows) in measurements.items()},
    )
    if artifact.rows and not _is_of(artifact.rows[0], model):
        raise ValueError(f"{directory} is not the artifact that its results.json is of: evaluate it again.")
    artifact.rows[:1] = [replace(row, labels=artifact.labels) for row in artifact.rows[:1]]  # older ones do not say
    return artifact


def fingerprints(model: HabaModel, processor: HabaProcessor) -> dict[str, str]:
    """Of the two files that an artifact is, for the record of where it comes from."""
    text = json.dumps(processor_settings(processor), sort_keys=True, default=str)
    return {
        "weights_fingerprint": weights_fingerprint(model),
        "processor_fingerprint": hashlib.sha256(text.encode()).hexdigest()[:16],
    }


def processor_settings(processor: HabaProcessor) -> dict[str, Any]:
    """
    Without where its code lies, which is no setting: that changes with what is published, and with where it is loaded
    from.
    """
    return {name: value for name, value in processor.to_dict().items() if name != "auto_map"}


def check_fingerprints(directory: str | Path, fingerprints: dict[str, str], origin: dict[str, Any]) -> None:
    """
    Holds weights and processor against the record of where they come from; older records carry no fingerprints.

    Raises:
        `ValueError`: if they are not what that is about.
    """
    words = {"weights_fingerprint": "other weights", "processor_fingerprint": "another processor"}
    for name, found in fingerprints.items():
        if origin.get(name, found) != found:
            raise ValueError(
                f"{directory} holds {words[name]} than distilled or chosen there ({found}, on record {origin[name]}): "
                "a file was changed or damaged, so fetch or make it again."
            )


def published_records(artifact: Artifact) -> Files:
    """Figures and records as they are published; what was measured comes along from the run's folder."""
    files: Files = {**artifact.figures}
    origins = {DISTILLATION: artifact.distillation, CORESET: artifact.coreset}
    records = origins | artifact.measurements
    files |= {name: json_bytes(without_machine_paths(record)) for name, record in records.items() if record}
    if artifact.recipe:
        recipe = without_machine_paths(artifact.recipe)
        files[RECIPE] = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).encode()
    return files


def processor_files(artifact: Artifact) -> Files:
    """The processor as it was saved: its settings and, if it whitens, its whitening."""
    names = [PROCESSOR] if artifact.processor.whitening is None else [PROCESSOR, WHITENING]
    return {name: artifact.directory / name for name in names}


def write_files(folder: Path, files: Files) -> None:
    """Writes files into a folder, copies of those that lie elsewhere."""
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())


def without_machine_paths(value: Any) -> Any:
    """A record with absolute paths cut to their last part: where it lay is private."""
    if isinstance(value, dict):
        return {name: without_machine_paths(part) for name, part in value.items()}
    if isinstance(value, list):
        return [without_machine_paths(part) for part in value]
    if isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~")):
        return Path(value).name
    return value


def refuse_unsafe_files(directory: str | Path) -> None:
    """
    Refuses what must not be published: pickles, which someone might read, and links to files outside the folder.

    Raises:
        `ValueError`: naming the file.
    """
    directory = Path(directory)
    for path in sorted(directory.rglob("*")):
        if path.suffix.lower() in PICKLES:
            raise ValueError(
                f"{path} is a pickle, which can run code when it is read: an artifact holds safetensors alone, so "
                "move the file elsewhere."
            )
    folders = [directory]
    if directory.resolve().name == "artifact":
        folders.append(directory.resolve().parent)  # the run's, of which measurements are taken
    for path in (folder / name for folder in folders for name in (*REQUIRED, WHITENING, *RECORDS, *FIGURES)):
        if not path.resolve().is_relative_to(path.parent.resolve()):
            raise ValueError(f"{path} is a link out of its folder: put a copy of the file in its place.")


def _is_of(row: ReportRow, model: HabaModel) -> bool:
    """Whether a row of results can be an artifact's own."""
    of_its_classes = len(row.accuracy.class_accuracies) in (0, model.config.num_labels)  # older results have none
    return row.storage.floats == model.storage().floats and of_its_classes


def _figures(directory: Path, measurements: list[Path]) -> dict[str, Path]:
    """The folder's pictures; that of a measurement lies beside it."""
    paths = [directory / "gallery.png", directory / "training_curves.png"]
    paths += [path.with_suffix(".png") for path in measurements if path.name == ROBUSTNESS]
    return {path.name: path for path in paths if path.is_file()}
