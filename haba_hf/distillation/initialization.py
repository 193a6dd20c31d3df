"""The artifact before its first step."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..artifact.configuration_haba import HabaConfig
from ..artifact.modeling_haba import HabaModel
from ..data.image_data import ImageData
from ..utils.seeds import seeded_generator
from .arguments import ModelArguments


def initial_model(arguments: ModelArguments, data: ImageData, seed: int) -> HabaModel:
    """
    A [`HabaModel`] for `data` on the CPU, the same for the same seed on every process; the global random state is left
    as it was.

    Bases are `bases_per_class` random training images of each class without replacement (`basis_init="real"`; their
    channel mean if bases have one channel and samples three), or N(0, 1). With multi-formation, `basis_init="mix"`
    makes a basis of as many of them as it has tiles (IDC; Kim et al., ICML 2022), each reduced to its tile by keeping
    every f-th pixel. Soft labels start near their class or, with `label_init="uniform"`, alike for all classes.

    Raises:
        `ValueError`: if a class has fewer training images than its bases are made of.
    """
    channels, height, width = data.image_shape
    config = HabaConfig(
        id2label=dict(enumerate(data.class_names)),
        label2id={name: index for index, name in enumerate(data.class_names)},
        bases_per_class=arguments.bases_per_class,
        num_hallucinators=arguments.num_hallucinators,
        hallucinator_depth=arguments.hallucinator_depth,
        hallucinator_channels=arguments.hallucinator_channels,
        share_encoder_decoder=arguments.share_encoder_decoder,
        basis_channels=arguments.basis_channels,
        sample_channels=channels,
        sample_height=height,
        sample_width=width,
        formation_factor=arguments.formation_factor,
        formation_axes=arguments.formation_axes,
        label_kind=arguments.label_kind,
        hallucinator_init=arguments.hallucinator_init,
        student_learning_rate=arguments.student_learning_rate,
        num_step_sizes=arguments.num_step_sizes,
        whitening=data.processor.whitening_fingerprint,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = HabaModel(config)
    if arguments.basis_init != "noise":
        count = config.num_formations if arguments.basis_init == "mix" else 1
        images = data.draw_per_class(config.bases_per_class * count, seeded_generator(seed))
        if arguments.basis_init == "mix":
            images = _tiled(images, *config.formation_grid)
        if config.basis_shape[0] != channels:
            images = images.mean(dim=1, keepdim=True).expand(-1, config.basis_shape[0], -1, -1)
        model.bases.data.copy_(images)
    if arguments.label_init == "uniform" and model.label_logits is not None:
        model.label_logits.data.zero_()
    return model


def _tiled(images_XCHW: Tensor, rows: int, columns: int) -> Tensor:
    """Every rows x columns images in one: each reduced to its tile, which nearest neighbours do pixel by pixel."""
    height, width = images_XCHW.shape[2] // rows, images_XCHW.shape[3] // columns
    tiles = F.interpolate(images_XCHW, (height, width), mode="nearest").unflatten(0, (-1, rows, columns))
    return tiles.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
