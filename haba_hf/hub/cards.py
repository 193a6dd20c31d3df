"""Model and dataset cards: templates of hub_cards/ filled from an artifact's own files, and nothing else."""

import re
from collections.abc import Sequence
from typing import Any

import yaml
from huggingface_hub import (
    DatasetCardData,
    EvalResult,
    EvalResultEntry,
    ModelCard,
    ModelCardData,
    eval_result_entries_to_yaml,
)
from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import SandboxedEnvironment

from ..artifact.budget import StorageFigures, describe_basis, describe_storage
from ..artifact.processing_audio_haba import HabaAudioProcessor
from ..data.image_data import MOST_CLASSES_LISTED
from ..evaluation import (
    RANDOM_EQUAL_BYTES,
    RANDOM_REAL,
    RANDOM_STORED_ALIKE,
    in_percent,
)
from ..evaluation.report import HARD
from ..evaluation.scores import scores_of
from ..utils.shipped import hub_cards_folder
from ..utils.text import escape_markdown
from .artifact import Artifact, without_machine_paths
from .records import CROSS_ARCHITECTURE
from .sources import source_of
from .summary import labels_in_words, measured_tables

DISTILLED_TAGS, CORESET_TAGS = ["dataset-distillation", "haba"], ["coreset", "haba"]
EXACT, IMAGES = "exact", "images"  # configs of a dataset repository
PAPER = """@inproceedings{liu2022dataset,
  title     = {Dataset Distillation via Factorization},
  author    = {Liu, Songhua and Wang, Kai and Yang, Xingyi and Ye, Jingwen and Wang, Xinchao},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022}
}"""


def render_model_card(
    artifact: Artifact, repo_id: str, has_code: bool = True, tags: Sequence[str] | None = None
) -> str:
    """
    The card of a model repository: metadata with model-index, and Markdown.

    Args:
        artifact ([`Artifact`]): what it states is on record there.
        repo_id (`str`): the name the card's code loads: a Hub id, or a folder.
        has_code (`bool`, *optional*, defaults to `True`): whether the repository carries the code that
            `trust_remote_code=True` runs.
        tags (`list[str]`, *optional*): besides those that all artifacts have.
    """
    name = repo_id.rstrip("/").split("/")[-1]
    source = source_of(artifact.recipe, artifact.origin)
    metadata = ModelCardData(
        library_name="haba_hf",
        license=source.license_id if source else "unknown",
        datasets=[source.hub_id] if source and source.hub_id else None,
        tags=_tags(artifact, tags),
        metrics=["accuracy"] if artifact.rows else None,
        model_name=name,
        eval_results=_eval_results(artifact),
    )
    return _render("model_card.md.jinja", artifact, repo_id, metadata.to_yaml(), name=name, has_code=has_code)


def render_dataset_card(artifact: Artifact, repo_id: str, tags: Sequence[str] | None = None) -> str:
    """The card of a dataset repository with the configs `exact` and `images`; arguments as of a model card."""
    name = repo_id.rstrip("/").split("/")[-1]
    source = source_of(artifact.recipe, artifact.origin)
    num_samples = artifact.model.config.num_samples
    bounds = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
    metadata = DatasetCardData(
        license=source.license_id if source else "unknown",
        source_datasets=[source.hub_id] if source and source.hub_id else None,
        pretty_name=name,
        tags=_tags(artifact, tags),
        task_categories=[_task(artifact)],
        size_categories=[next((size for bound, size in bounds.items() if num_samples < bound), "n>1M")],
        configs=[
            {
                "config_name": config,
                "data_files": [{"split": "train", "path": f"{config}/train-*.parquet"}],
                **({"default": True} if config == EXACT else {}),
            }
            for config in (EXACT, IMAGES)
        ],
    )
    return _render("dataset_card.md.jinja", artifact, repo_id, metadata.to_yaml(), name=name)


def eval_results_yaml(artifact: Artifact) -> str | None:
    """The accuracy in the format of `.eval_results/*.yaml`; `None` without one on a Hub data set's test split."""
    source = source_of(artifact.recipe, artifact.origin)
    rows, of_test = artifact.rows, _split(artifact.results) == "test"
    if not rows or source is None or source.hub_id is None or source.is_part or not of_test:
        return None
    accuracy = artifact.rows[0].accuracy
    entry = EvalResultEntry(
        dataset_id=source.hub_id,
        task_id="default",
        value=round(accuracy.mean, 4),
        notes=f"accuracy of {len(accuracy.accuracies)} students trained on the artifact, mean",
    )
    return yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)


def fill_template(template: str, **variables: Any) -> str:
    """A card of one of the templates in `hub_cards/`."""
    # Sandboxed, and values are only ever printed: a template in a class name stays text.
    environment = SandboxedEnvironment(
        loader=FileSystemLoader(hub_cards_folder()), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["inline"] = escape_markdown
    environment.filters["digits"] = lambda values: ", ".join(f"{value:.4g}" for value in values)
    text = environment.get_template(template).render(**variables)
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    ModelCard(text)  # refuses metadata that the Hub could not read
    return text


def _render(template: str, artifact: Artifact, repo_id: str, metadata: str, **variables: Any) -> str:
    model, measurements = artifact.model, artifact.measurements
    step_sizes = model.step_sizes
    return fill_template(
        template,
        metadata=metadata.strip(),
        repo_id=repo_id,
        config=model.config,
        class_names=[model.config.id2label[label] for label in range(model.config.num_labels)],
        processor=artifact.processor,
        is_speech=_is_speech(artifact),
        coreset=artifact.coreset,
        imported="imported" in artifact.distillation,
        student_learning_rate=model.student_learning_rate.item(),
        step_sizes=None if step_sizes is None else step_sizes.tolist(),
        source=source_of(artifact.recipe, artifact.origin),
        storage=model.storage(),
        basis=describe_basis(model.config),
        to_training_set=_figures(artifact),
        taught=_taught(artifact),
        tables=measured_tables(artifact, escape_markdown),
        measures=_measures(artifact),
        used=_used_by_students(artifact),
        splits={name: _split(record) for name, record in measurements.items()},
        settings={name: _settings(record) for name, record in measurements.items()},
        facts=_facts(artifact),
        labels=labels_in_words(artifact, escape_markdown),
        controls_labelled=any(row.labels != HARD for row in artifact.rows[1:]),
        has_recipe=bool(artifact.recipe),
        figures=artifact.figures,
        citation=PAPER,
        **variables,
    )


def _is_speech(artifact: Artifact) -> bool:
    return isinstance(artifact.processor, HabaAudioProcessor)


def _task(artifact: Artifact) -> str:
    return "audio-classification" if _is_speech(artifact) else "image-classification"


def _tags(artifact: Artifact, others: Sequence[str] | None) -> list[str]:
    return list(dict.fromkeys([*(CORESET_TAGS if artifact.coreset else DISTILLED_TAGS), *(others or ())]))


def _figures(artifact: Artifact) -> StorageFigures | None:
    """Storage beside the training set, from what distillation or evaluation recorded."""
    train_images = artifact.origin.get("train_images")
    if train_images is not None:
        shape, bytes_per_value = artifact.model.config.sample_shape, 4 if _is_speech(artifact) else 1
        return describe_storage(artifact.model.storage(), int(train_images), shape, bytes_per_value)
    return artifact.rows[0].storage if artifact.rows else None


def _measures(artifact: Artifact) -> dict[str, str]:
    """Improvement over random and hard-label recovery, as DD-Ranking defines them, and its score of both."""
    if not artifact.rows:
        return {}
    own = artifact.rows[0]
    measures = dict[str, str]()
    kinds = {
        RANDOM_REAL: "at equal storage",
        RANDOM_STORED_ALIKE: "in the same storage",
        RANDOM_EQUAL_BYTES: "at equal bytes",
    }
    for system, kind in kinds.items():
        random_real = artifact.row(system)
        if random_real is not None:
            gain = own.accuracy.mean - random_real.accuracy.mean
            images = "random images"
            if own.labels != HARD:
                images += " with hard labels" if random_real.labels == HARD else " with the teacher's labels"
            measures[f"improvement over {images} {kind} (higher is better)"] = f"{100 * gain:+.1f} points"
    scores = scores_of(artifact.rows)
    if "hard_label_recovery" in scores:
        gap = f"{100 * scores['hard_label_recovery']:+.1f} points"
        measures["hard-label recovery: full data minus this (lower is better)"] = gap
    if "label_robust_score" in scores:
        measures["label-robust score, 0 to 1, of fractions"] = f"{scores['label_robust_score']:.3f}"
    return measures


def _taught(artifact: Artifact) -> dict[str, str]:
    """What students of each network reach on one split, in percent: first the network of `results.json`."""
    if not artifact.rows:
        return {}
    own, across = artifact.results, artifact.measurements.get(CROSS_ARCHITECTURE, {})
    scored = {own.get("settings", {}).get("network", "its network"): artifact.rows[0].accuracy}
    for row in artifact.architectures if _split(across) == _split(own) else []:
        scored.setdefault(row.architecture, row.accuracy)
    return {network: in_percent(accuracy.mean, accuracy.std) for network, accuracy in scored.items()}


def _split(record: dict[str, Any]) -> str:
    return str(record.get("settings", {}).get("evaluation_split", "test"))


def _used_by_students(artifact: Artifact) -> dict[str, Any] | None:
    """How long and at which rate the students of `results.json` trained; `None` if that is not on record."""
    settings = artifact.results.get("settings", {})
    if "student_epochs" not in settings:
        return None
    learning_rate = settings.get("evaluation_learning_rate") or artifact.model.student_learning_rate.item()
    trained = f"{settings['student_epochs']} epochs"
    if settings.get("evaluation_steps") is not None and artifact.rows:
        trained = f"{artifact.rows[0].accuracy.steps:,} steps of up to {settings['evaluation_batch_size']} samples"
    return {"trained": trained, "learning_rate": learning_rate}


def _settings(record: dict[str, Any]) -> str:
    """How students were trained, as `name value` pairs."""
    settings = without_machine_paths(record.get("settings", {}))
    left_out = ["artifact", "students_of", "references", "evaluation_split", "architectures"]
    if settings.get("references") != "all":
        left_out += [name for name in settings if name.startswith("real_")]  # of students of the full data
    if settings.get("attack_epsilons") is None:
        left_out.append("attack_steps")
    if settings.get("evaluation_steps") is not None:
        left_out.append("student_epochs")  # steps count in their place
    pairs = {name: value for name, value in settings.items() if value is not None and name not in left_out}
    if "seed" in record:
        pairs["seed"] = record["seed"]
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in pairs.items())


def _facts(artifact: Artifact) -> dict[str, str]:
    """Where the artifact comes from, line by line."""
    record, recipe = without_machine_paths(artifact.origin), artifact.recipe
    if not record:
        return {}
    # Distillation is of float32 however it was launched, which its older records do not say.
    precision = record.get("mixed_precision", "no") if artifact.coreset else "no"
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    hardware = [
        str(record["device"]) if "device" in record else "",
        f"{record['processes']} processes" if record.get("processes", 1) != 1 else "",
        f"{record['threads']} thread(s)" if "threads" in record else "",
        f"{precision} precision" if precision != "no" else "",
    ]
    memory = record.get("peak_memory_bytes")
    facts = {
        "data": _training_images(artifact) if "train_images" in record else None,
        "pruning": _pruning(record),
        "classes of fewer images": "filled with copies" if recipe.get("repeat_images") else None,
        "hash of the data": record.get("data_fingerprint"),
        **_method(artifact),
        "labels": labels_in_words(artifact),
        "seed": recipe.get("seed"),
        "time": f"{record['seconds']:,.0f} s" if "seconds" in record else None,
        "peak memory": None if memory is None else f"{memory / 1e6:,.0f} MB",
        "hardware": ", ".join(part for part in hardware if part),
        "versions": versions,
        "recipe hash": record.get("recipe_hash"),
    }
    return {label: str(value) for label, value in facts.items() if value not in (None, "")}


def _pruning(record: dict[str, Any]) -> str | None:
    if "kept_images" not in record:
        return None
    expert = f"; their expert took {record['pruning_seconds']:,.0f} s" if "pruning_seconds" in record else ""
    return f"{record['kept_images']:,} images left, those of least loss of each class{expert}"


def _training_images(artifact: Artifact) -> str:
    """How many there were, and of each class: of few classes each, else the least and the most."""
    record, id2label = artifact.origin, artifact.model.config.id2label
    text = f"{record['train_images']:,} training {'clips' if _is_speech(artifact) else 'images'}"
    counts = record.get("train_images_per_class")  # older records have none
    if not counts:
        return text
    if len(set(counts)) == 1:
        return f"{text}, {counts[0]:,} of each class"
    if len(counts) == len(id2label) <= MOST_CLASSES_LISTED:
        return f"{text}; " + ", ".join(f"{id2label[label]} {count:,}" for label, count in enumerate(counts))
    return f"{text}, {min(counts):,} to {max(counts):,} of a class"


def _method(artifact: Artifact) -> dict[str, Any]:
    if artifact.coreset:  # its recipe names an objective too, which had no part in it
        return {"rule": artifact.coreset.get("coreset")}
    if "imported" in artifact.distillation:  # and so does this one
        files = artifact.distillation
        return {"imported from": files["imported"], "SHA-256 of the files": files.get("imported_sha256")}
    recipe, kept = artifact.recipe, artifact.distillation.get("kept_step")
    precision = artifact.distillation.get("experts_mixed_precision", "no")
    return {
        "objective": recipe.get("objective"),
        "steps": artifact.distillation.get("steps"),
        "kept": "the last step" if kept is None else f"step {kept}, the best of the validations",
        "experts": f"trained in {precision}" if precision != "no" else None,
    }


def _eval_results(artifact: Artifact) -> list[EvalResult] | None:
    if not artifact.rows:
        return None
    source, accuracy = source_of(artifact.recipe, artifact.origin), artifact.rows[0].accuracy
    title = source.title if source else "source data"
    return [
        EvalResult(
            task_type=_task(artifact),
            dataset_type=source.hub_id if source and source.hub_id and not source.is_part else title,
            dataset_name=title,
            dataset_split=_split(artifact.results),
            metric_type="accuracy",
            metric_name=f"Accuracy of students trained on it (mean of {len(accuracy.accuracies)})",
            metric_value=round(accuracy.mean, 4),
        )
    ]
