"""The artifact before its first step: of real images, of noise, or as another artifact ends."""

import dataclasses

import torch
from torch import Tensor

from ..artifact.budget import affordable_bases_per_class
from ..artifact.configuration_haba import HabaConfig
from ..artifact.loading import check_same_space, load_model_and_processor
from ..artifact.modeling_haba import HabaModel
from ..artifact.planning import measured_layout
from ..coresets import config_for, store_real_images
from ..data.image_data import ImageData
from ..utils.seeds import seeded_generator
from .arguments import ModelArguments

# Settings that say what the bases of an artifact are, and what its hallucinators are.
BASES = (
    "bases_per_class",
    "basis_channels",
    "basis_storage",
    "basis_height",
    "basis_width",
    "chroma_height",
    "chroma_width",
    "basis_frequencies",
    "chroma_frequencies",
    "formation_factor",
    "formation_axes",
)
HALLUCINATORS = (
    "num_hallucinators",
    "hallucinator_depth",
    "hallucinator_channels",
    "hallucinator_map_height",
    "hallucinator_map_width",
    "hallucinate_at",
    "share_encoder_decoder",
)


def model_config(arguments: ModelArguments, data: ImageData) -> HabaConfig:
    """
    The config of an artifact of some data: what the recipe says, and the data's classes, shape and whitening. With
    `bases_per_class="auto"` it is what `storage_budget` pays for.

    Raises:
        `ValueError`: if sizes do not fit together, or the budget pays for less than one basis per class.
    """
    known = {field.name for field in dataclasses.fields(HabaConfig)}
    settings = {name: value for name, value in vars(arguments).items() if name in known}
    settings["label_kind"] = "hard" if arguments.label_kind == "hard" else "soft"
    if arguments.bases_per_class == "auto":
        if arguments.storage_budget is None:
            raise ValueError(
                "bases_per_class auto is what a budget pays for: set storage_budget, in images per class."
            )
        if all(getattr(arguments, name) == getattr(ModelArguments, name) for name in BASES[1:]):
            settings |= measured_layout(data.image_shape, arguments.storage_budget)
        one = config_for(data, **settings | {"bases_per_class": 1})
        settings["bases_per_class"] = affordable_bases_per_class(one, arguments.storage_budget)
    return config_for(data, **settings)


def initial_model(arguments: ModelArguments, data: ImageData, seed: int) -> HabaModel:
    """
    A [`HabaModel`] for `data` on the CPU, the same for the same seed on every process; the global random state is left
    as it was.

    Bases are `bases_per_class` random training images of each class without replacement (`basis_init="real"`), or
    N(0, 1), and stored as the config says. With `repeat_images`, a class of fewer images gives all of them again and
    again, each copy with noise N(0, 0.1^2) of its own, so that no two bases start, and stay, alike. With
    multi-formation, `basis_init="mix"` makes a basis of as many images as it has tiles (IDC; Kim et al., ICML 2022).
    Soft labels start near their class or, with `label_init="uniform"`, alike for all classes; where a teacher gives
    them at the end (`label_kind="teacher"`) labels are hard until then. With `init_from`, bases, soft labels and
    hallucinators are those of another artifact; if that has no hallucinators or hard labels, these start anew, and if
    it has more bases the first of each class are taken.

    Raises:
        `ValueError`: if a class has fewer training images than its bases are made of and `repeat_images` is not set,
            or the artifact of `init_from` is damaged, of other data, or of other bases or hallucinators than the
            recipe says.
        `OSError`: if there is no such artifact.
    """
    config = model_config(arguments, data)
    if arguments.label_kind == "teacher":
        config = HabaConfig.from_dict(config.to_dict() | {"label_kind": "hard"})
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = HabaModel(config)
    if arguments.init_from is None and arguments.basis_init != "noise":
        count = config.num_formations if arguments.basis_init == "mix" else 1
        generator, repeat = seeded_generator(seed), arguments.repeat_images
        rows = data.draw_rows_per_class(config.bases_per_class * count, generator, repeat)
        model.bases.data.copy_(store_real_images(data, rows, config, generator if repeat else None))
    if arguments.label_init == "uniform" and model.label_logits is not None:
        model.label_logits.data.zero_()
    if arguments.init_from is not None:
        _start_from(model, arguments.init_from, data)
    return model


@torch.no_grad()
def _start_from(model: HabaModel, artifact: str, data: ImageData) -> None:
    """Gives a model another artifact's bases and, if that has any, its hallucinators and soft labels."""
    other, processor = load_model_and_processor(artifact)
    config, theirs = model.config, other.config
    names = [theirs.id2label[label] for label in range(theirs.num_labels)]
    if names != data.class_names or theirs.sample_shape != config.sample_shape:
        raise ValueError(f"The artifact {artifact} is of other classes or another shape than {data.name}: choose one.")
    check_same_space(processor, data.processor)
    probes = data.extremes()
    same_values = torch.equal(processor.normalize(probes), data.processor.normalize(probes))
    if not same_values or theirs.whitening != config.whitening:
        raise ValueError(
            f"The samples of {artifact} are not in the space of the recipe's {data.name}: load the data as its recipe "
            "says (normalization, zca, front end)."
        )
    compared = BASES + (HALLUCINATORS if theirs.num_hallucinators else ())
    for name in compared:
        ours, its = getattr(config, name), getattr(theirs, name)
        if ours != its and not (name == "bases_per_class" and ours < its):
            raise ValueError(
                f"{name} is {ours} in the recipe, but {its} in {artifact}, which init_from starts from: set {name} to "
                f"that{' or less' if name == 'bases_per_class' else ''}."
            )
    model.bases.copy_(_first_of_each_class(other.bases, config, theirs))
    if theirs.num_hallucinators:
        for name in ("hallucinators", "encoder", "decoder"):
            if getattr(model, name) is not None:
                getattr(model, name).load_state_dict(getattr(other, name).state_dict())
    if model.label_logits is not None and other.label_logits is not None:
        model.label_logits.copy_(_first_of_each_class(other.label_logits, config, theirs))


def _first_of_each_class(rows: Tensor, config: HabaConfig, theirs: HabaConfig) -> Tensor:
    """Of one row a basis, class by class, those of as many bases as `config` has in each class."""
    return rows.unflatten(0, (theirs.num_labels, theirs.bases_per_class))[:, : config.bases_per_class].flatten(0, 1)
