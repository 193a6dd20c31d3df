"""Samples as Hugging Face `datasets` objects, which need that library only when they are asked for."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from .configuration_haba import HabaConfig

# Samples, labels and where they come from: a HabaOutput, whose fields are also keys.
Output = Any


def samples_as_dataset(output: Output, config: HabaConfig) -> Any:
    """A `datasets.Dataset` of one row per sample."""
    return _library().Dataset.from_dict(_columns(output), features=_features(config)).with_format("torch")


def pairings_as_dataset(
    paired_epoch: Callable[[torch.Generator], Output], config: HabaConfig, seed: int, epochs: int
) -> Any:
    """A `datasets.IterableDataset` of `epochs` epochs, each drawn by `paired_epoch`; epochs are its shards."""
    keywords = {"paired_epoch": paired_epoch, "seed": seed, "epochs": list(range(epochs))}
    return _library().IterableDataset.from_generator(_rows, gen_kwargs=keywords, features=_features(config))


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError("Data sets of samples need the datasets library: pip install datasets") from error
    return datasets


def _rows(paired_epoch: Callable[[torch.Generator], Output], seed: int, epochs: list[int]) -> Iterator[dict]:
    for epoch in epochs:
        columns = _columns(paired_epoch(torch.Generator().manual_seed(seed * 1_000_003 + epoch)))
        for row in range(len(columns["pixel_values"])):
            yield {name: column[row] for name, column in columns.items()}


def _columns(output: Output) -> dict:
    labels = output["labels"]
    columns = {
        "pixel_values": output["samples"].float().cpu().numpy(),
        "labels": (labels.float() if labels.is_floating_point() else labels).cpu().numpy(),  # numpy has no bfloat16
        "basis": output["basis_ids"].cpu().numpy(),
    }
    for name in ("hallucinator", "formation"):
        if f"{name}_ids" in output:
            columns[name] = output[f"{name}_ids"].cpu().numpy()
    return columns


def _features(config: HabaConfig) -> Any:
    library = _library()
    names = [config.id2label[i] for i in range(config.num_labels)]
    features = {
        "pixel_values": library.Array3D(config.sample_shape, "float32"),
        "labels": library.ClassLabel(names=names)
        if config.label_kind == "hard"
        else library.List(library.Value("float32")),
        "basis": library.Value("int64"),
    }
    if config.num_hallucinators:
        features["hallucinator"] = library.Value("int64")
    if config.num_formations > 1:
        features["formation"] = library.Value("int64")
    return library.Features(features)
