"""CutMix (Yun et al., ICCV 2019), drawn apart from being applied like DSA: a box of each image is replaced by that of
another image of the batch, and the labels are mixed by area.

Shape legend: B batch, C/H/W of an image, L classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class CutMixParameters:
    """
    One drawn mixture.

    Args:
        partners (`torch.LongTensor` `[B]`): the image that each image's box comes from.
        rows, columns (`tuple[int, int]`): first and last (excluded) row and column of the box.
        share (`float`): of the image's area that the box takes.
    """

    partners: Tensor
    rows: tuple[int, int]
    columns: tuple[int, int]
    share: float


class CutMix:
    """
    Draws and applies CutMix.

    Args:
        probability (`float`): of a batch to be mixed; 0 draws nothing.

    Raises:
        `ValueError`: if it is not in 0..1.
    """

    def __init__(self, probability: float):
        if not 0 <= probability <= 1:
            raise ValueError(f"The probability of CutMix must be between 0 and 1, got {probability}.")
        self.probability = probability

    def draw(self, shape: torch.Size, generator: torch.Generator) -> CutMixParameters | None:
        """
        From a CPU generator, for images of shape [B, C, H, W]: `None` if the batch is left as it is, else a partner
        for every image and one box. Its area is 1 - lambda of the image's, lambda ~ Beta(1, 1), before what reaches
        over the border is cut off.
        """
        if not self.probability or float(torch.rand((), generator=generator)) >= self.probability:
            return None
        kept = float(torch.rand((), generator=generator))
        batch_size, _, height, width = shape
        box = []
        for side in (height, width):
            half = int(side * (1 - kept) ** 0.5) // 2
            center = int(torch.randint(side, (), generator=generator))
            box.append((max(center - half, 0), min(center + half, side)))
        (top, bottom), (left, right) = rows, columns = box
        share = (bottom - top) * (right - left) / (height * width)
        return CutMixParameters(torch.randperm(batch_size, generator=generator), rows, columns, share)

    @staticmethod
    def apply(images_BCHW: Tensor, parameters: CutMixParameters | None) -> Tensor:
        """
        Mixed images of the same shape; the same ones if nothing is mixed.

        Raises:
            `ValueError`: if the parameters were drawn for another batch size.
        """
        if parameters is None:
            return images_BCHW
        if len(parameters.partners) != len(images_BCHW):
            raise ValueError(f"This CutMix is for {len(parameters.partners)} images, not {len(images_BCHW)}.")
        (top, bottom), (left, right) = parameters.rows, parameters.columns
        mixed_BCHW = images_BCHW.clone()
        partners_BCHW = images_BCHW[parameters.partners.to(images_BCHW.device)]
        mixed_BCHW[:, :, top:bottom, left:right] = partners_BCHW[:, :, top:bottom, left:right]
        return mixed_BCHW

    @staticmethod
    def mix_labels(labels: Tensor, num_labels: int, parameters: CutMixParameters | None) -> Tensor:
        """
        The labels of mixed images: distributions `[B, L]` from classes `[B]` or distributions, by area; the same
        labels if nothing is mixed.
        """
        if parameters is None:
            return labels
        if not labels.is_floating_point():
            labels = F.one_hot(labels, num_labels).float()
        return (1 - parameters.share) * labels + parameters.share * labels[parameters.partners.to(labels.device)]
