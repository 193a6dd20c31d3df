"""An artifact's folder: which files belong to it, and what they say about it."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from ..evaluation import AccuracyResult, ReportRow
from ..modeling_haba import HabaModel
from ..processors import HabaProcessor, load_processor
from ..storage import StorageFigures
from ..whitening_haba import WHITENING

WEIGHTS, PROCESSOR = "model.safetensors", "preprocessor_config.json"
REQUIRED = ("config.json", WEIGHTS, PROCESSOR)
RECORDS = ("recipe.yaml", "distillation.json", "results.json")
FIGURES = ("gallery.png", "training_curves.png")
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
        results (`dict`): `results.json` of the folder, or of the run whose artifact it is; empty if there is none.
        rows (`list[ReportRow]`): of the results, the artifact's own first.
        figures (`list[str]`): names of the pictures that are there.
    """

    directory: Path
    model: HabaModel
    processor: HabaProcessor
    recipe: dict[str, Any] = field(default_factory=dict)
    distillation: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    rows: list[ReportRow] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)

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
    model = HabaModel.from_pretrained(directory, local_files_only=True)
    processor = load_processor(directory, local_files_only=True)
    processor.check_fits(model.config)
    distillation = _read_record(directory / "distillation.json")
    results, rows = _read_results(directory, model, distillation)
    return Artifact(
        directory=directory,
        model=model,
        processor=processor,
        recipe=_read_record(directory / "recipe.yaml"),
        distillation=distillation,
        results=results,
        rows=rows,
        figures=[name for name in FIGURES if (directory / name).is_file()],
    )


def weights_fingerprint(model: HabaModel) -> str:
    """
    The first 16 hexadecimal digits of the SHA-256 of all weights, by name: ties results to the artifact they are of.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {list(values.shape)} ".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def published_records(artifact: Artifact) -> Files:
    """Figures and records as they are published; `results.json` comes along from the run's folder."""
    files: Files = {name: artifact.directory / name for name in artifact.figures}
    records = {"distillation.json": artifact.distillation, "results.json": artifact.results}
    files |= {name: as_json(without_machine_paths(record)) for name, record in records.items() if record}
    if artifact.recipe:
        recipe = without_machine_paths(artifact.recipe)
        files["recipe.yaml"] = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).encode()
    return files


def processor_files(artifact: Artifact) -> Files:
    """The processor as it was saved: its settings and, if it whitens, its whitening."""
    names = [PROCESSOR] if artifact.processor.whitening is None else [PROCESSOR, WHITENING]
    return {name: artifact.directory / name for name in names}


def as_json(content: dict[str, Any]) -> bytes:
    """The bytes of a JSON file."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def without_machine_paths(value: Any) -> Any:
    """A record with absolute paths cut to their last part: where it lay is nobody else's affair."""
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
    for name in (*REQUIRED, WHITENING, *RECORDS, *FIGURES):
        if not (directory / name).resolve().is_relative_to(directory.resolve()):
            raise ValueError(f"{directory / name} is a link out of its folder: put a copy of the file in its place.")


def _read_record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        record = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read ({' '.join(str(error).split())}): mend or remove it.") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} is not a record of names and values: mend or remove it.")
    return record


def _read_results(
    directory: Path, model: HabaModel, distillation: dict[str, Any]
) -> tuple[dict[str, Any], list[ReportRow]]:
    """The folder's own results, else those of the run (`output_dir/results.json`), if they are of these weights."""
    path = directory / "results.json"
    if not path.is_file() and directory.resolve().name == "artifact":
        path = directory.resolve().parent / "results.json"
    results = _read_record(path)
    if not results:
        return {}, []
    try:
        rows = [
            ReportRow(row["system"], AccuracyResult(**row["accuracy"]), StorageFigures(**row["storage"]))
            for row in results["rows"]
        ]
        floats = rows[0].storage.floats
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{path} is not what an evaluation writes: evaluate the artifact again.") from error
    same_data = results.get("data_fingerprint") == distillation.get("data_fingerprint")
    # Results of before weights were fingerprinted are held against the data and the size alone.
    same_weights = results.get("weights_fingerprint", weights_fingerprint(model)) == weights_fingerprint(model)
    if not (same_data and same_weights and floats == model.storage().floats):
        raise ValueError(f"{path} is of another artifact than {directory}: evaluate this one again.")
    return results, rows
