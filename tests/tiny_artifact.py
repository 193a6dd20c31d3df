"""A whole artifact, as distillation and evaluation leave it, in milliseconds."""

from pathlib import Path

from haba_hf.evaluation import FULL_DATA, RANDOM_REAL, AccuracyResult, ReportRow, write_json, write_results
from haba_hf.hub import save_gallery
from haba_hf.hub.artifact import weights_fingerprint
from haba_hf.recipe import parse_recipe
from haba_hf.storage import describe_storage, describe_training_set
from tiny import tiny_data, tiny_model

CLASS_NAMES = ["shirt", "boot", "a|b <i>[x](y)", "{{ 7 * 7 }}"]  # the last two want to be more than text
FINGERPRINT = "0123456789abcdef"


def tiny_artifact(folder: Path, evaluated: bool = True, zca: bool = False, **settings) -> Path:
    """Writes `folder/artifact` and, of its evaluation, `folder/results.json`; returns the artifact's folder."""
    data = tiny_data(channels=1, zca=zca)
    model = tiny_model(data, **settings)
    model.config.id2label = dict(enumerate(CLASS_NAMES))
    directory = folder / "artifact"
    model.save_pretrained(directory)
    data.processor.save_pretrained(directory)
    save_gallery(model, data.processor, directory / "gallery.png", bases_per_class=1)
    recipe = ["--dataset", "fashion_mnist", "--data_dir", "/home/someone/private/fashion", "--steps", "12"]
    parse_recipe([*recipe, "--output_dir", str(folder)]).write(directory / "recipe.yaml")
    facts = {"data_fingerprint": FINGERPRINT, "recipe_hash": "0123456789ab"}
    provenance = {"dataset": "fashion_mnist", "train_images": 54_000, "steps": 12, "seconds": 34.5, "device": "a CPU"}
    write_json(directory / "distillation.json", {**facts, **provenance, "versions": {"torch": "2.14.1"}})
    if evaluated:
        shape = data.image_shape
        storage = describe_storage(model.storage(), 54_000, shape)
        rows = [
            ReportRow("HaBa, 3 hallucinators", AccuracyResult(0.8125, 0.0123, [0.8, 0.825], 1.5), storage),
            ReportRow(RANDOM_REAL, AccuracyResult(0.7011, 0.0456, [0.68, 0.7222], 1.25), storage),
            ReportRow(
                FULL_DATA, AccuracyResult(0.9377, 0.0789, [0.9, 0.9754], 9.0), describe_training_set(54_000, shape, 4)
            ),
        ]
        settings = {"network": "convnet", "student_epochs": 40, "evaluation_split": "test", "artifact": None}
        fingerprint = weights_fingerprint(model)
        facts |= {"artifact": str(directory), "weights_fingerprint": fingerprint, "seed": 3, "settings": settings}
        write_results(folder / "results.json", rows, **facts)
    return directory
