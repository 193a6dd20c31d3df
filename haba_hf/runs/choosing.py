"""From a recipe to a coreset."""

from contextlib import nullcontext
from pathlib import Path

from accelerate import Accelerator

from ..artifact.budget import check_budget
from ..coresets import choose_coreset, real_images_artifact
from ..distillation import model_config
from ..hub.artifact import GALLERY
from ..hub.galleries import save_gallery
from ..hub.records import CORESET
from ..recipes import Recipe
from ..utils.files import atomic_directory, check_writable, locked, write_json
from .inputs import training_data
from .provenance import draw, environment, source_facts, write_model


def select_coreset(recipe: Recipe, accelerator: Accelerator) -> Path:
    """
    Chooses the recipe's coreset, `bases_per_class` real images of each class, and writes `output_dir/artifact`:
    config, images, processor, recipe, `coreset.json` (which rows of the training split, where and how long it took)
    and gallery. The main process does it, the others wait.

    Returns:
        The artifact's folder.

    Raises:
        `ValueError`: if the recipe asks for more than plain real images or a class has too few, or `output_dir` or
            `coreset_dir` holds something else.
        `OSError`: if a folder cannot be written, or another run is writing to it.
        `FloatingPointError`: if the expert diverges.
    """
    with locked(recipe.distillation.output_dir) if accelerator.is_main_process else nullcontext():
        return _select(recipe, accelerator)


def _select(recipe: Recipe, accelerator: Accelerator) -> Path:
    settings, seed = recipe.model, recipe.distillation.seed
    more = settings.num_hallucinators, settings.basis_channels, settings.num_step_sizes, settings.init_from
    if any(more) or settings.label_kind != "hard" or settings.formation_factor > 1:
        raise ValueError(
            "A coreset is real images with their labels, bases_per_class of each class: set num_hallucinators to 0 "
            "and label_kind to hard, and leave basis_channels, formation_factor, num_step_sizes and init_from out."
        )
    path = Path(recipe.distillation.output_dir) / "artifact"
    if path.exists() and not (path / CORESET).exists():
        raise ValueError(f"{path} is no coreset but was distilled: choose another output_dir, or remove it.")
    data = training_data(recipe)
    accelerator.print(data.summary())
    config = model_config(settings, data)
    if settings.storage_budget is not None:
        check_budget(config, settings.storage_budget)
    if accelerator.is_main_process:
        check_writable(recipe.distillation.output_dir)
        coreset = choose_coreset(
            data, config.bases_per_class, recipe.network, recipe.coreset, seed, accelerator, settings.repeat_images
        )
        rows_of_class = coreset.rows.view(data.num_labels, -1).tolist()
        with atomic_directory(path) as aside:
            model = real_images_artifact(data, coreset.rows, config)
            provenance = {
                **write_model(aside, model, data.processor, recipe),
                "coreset": recipe.coreset.coreset,
                **source_facts(recipe, data),
                "training_rows": dict(zip(data.class_names, rows_of_class, strict=True)),
                "seconds": round(coreset.seconds, 3),
                **environment(accelerator),
            }
            write_json(aside / CORESET, provenance)
        draw(accelerator, path / GALLERY, lambda file: save_gallery(model, data.processor, file))
        accelerator.print(f"{path}: {len(coreset.rows)} of {len(data.train):,} training images")
    accelerator.wait_for_everyone()
    return path
