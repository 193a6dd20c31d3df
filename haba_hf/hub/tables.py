"""An artifact's samples as parquet files that `datasets` loads: exact floats, and pictures to look at."""

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, Features, Image

from ..utils.files import atomic_directory, check_empty
from .artifact import CARD, Artifact, Files, processor_files, published_records, write_files
from .cards import EXACT, IMAGES, render_dataset_card

PARQUET = "train-00000-of-00001.parquet"


def materialize_artifact(
    artifact: Artifact, directory: str | Path, repo_id: str | None = None, tags: Sequence[str] | None = None
) -> Path:
    """
    Writes all samples as a folder that `load_dataset(directory, "exact")` and `load_dataset(directory, "images")`
    read, with processor, records and card: what a dataset repository holds.

    Args:
        artifact ([`Artifact`]): whose samples.
        directory (`str`): a new or empty folder.
        repo_id (`str`, *optional*): the name that the card's code loads, by default `directory`.
        tags (`list[str]`, *optional*): tags of the card besides those it has.

    Raises:
        `ValueError`: if the folder holds anything.
        `OSError`: if it cannot be written.
    """
    directory = Path(directory)
    check_empty(directory, "samples")
    samples = artifact.model.to_dataset().with_format(None)
    with atomic_directory(directory) as aside:
        for config, table in {EXACT: samples, IMAGES: _as_images(samples, artifact)}.items():
            (aside / config).mkdir()
            table.to_parquet(aside / config / PARQUET)
        files: Files = {
            **published_records(artifact),
            **processor_files(artifact),
            CARD: render_dataset_card(artifact, repo_id or str(directory), tags).encode(),
        }
        write_files(aside, files)
    return directory


def _as_images(samples: Dataset, artifact: Artifact) -> Dataset:
    """The same rows with pictures of 8 bits in place of floats."""
    pictures = artifact.processor.to_pil(artifact.model.materialize()["samples"])
    others = samples.remove_columns("pixel_values")
    columns = {"image": pictures, **{name: others[name][:] for name in others.column_names}}
    return Dataset.from_dict(columns, features=Features({"image": Image(), **others.features}))
