"""Real images that a distillation leaves out: those of greatest loss (Xu et al., ECCV 2024, arXiv 2305.18381).

Shape legend: n training images, N images of one class.
"""

import torch
from accelerate import Accelerator
from safetensors import safe_open
from torch import Tensor

from ..data import ImageData
from ..networks import NetworkArguments
from .expert import LOSSES, CoresetArguments, record_expert_features


def least_loss(losses_N: Tensor, share: float) -> Tensor:
    """
    Indices (int64, in order) of a share of the images, rounded and one at least: those of least loss, of equal ones
    those that come first.
    """
    count = max(int(share * len(losses_N) + 0.5), 1)
    return losses_N.argsort(stable=True)[:count].sort().values


def images_to_keep(
    data: ImageData,
    pruning_ratio: float,
    network_arguments: NetworkArguments,
    arguments: CoresetArguments,
    seed: int,
    accelerator: Accelerator,
) -> tuple[Tensor, float]:
    """
    The training images that are left when a share of every class is pruned: those on which the expert of coresets has
    the greatest loss once it is trained. The main process trains it, if there is none in `coreset_dir`; every process
    must make this call.

    Args:
        pruning_ratio (`float`): the share that is left out, 0 to 1; every class keeps an image.
        seed (`int`): of the expert.

    Returns:
        Rows of the training split (int64, in order), and the seconds that the expert took, whichever run trained it.

    Raises:
        `ValueError`: if a class has no training image, or `coreset_dir` holds another expert.
        `OSError`: if the folder cannot be written.
        `FloatingPointError`: if the expert diverges.
    """
    members = data.rows_of_classes(at_least=1)
    with accelerator.main_process_first():  # the others find its file
        path = record_expert_features(data, network_arguments, arguments, seed, accelerator)
    with safe_open(path, framework="pt") as file:
        losses_n, seconds = file.get_tensor(LOSSES), float(file.metadata()["seconds"])
    kept = torch.cat([rows[least_loss(losses_n[rows], 1 - pruning_ratio)] for rows in members])
    return kept.sort().values, seconds
