"""
Images perturbed so that a student goes wrong, within a distance epsilon of every pixel (L-infinity).

Own code: torchattacks needs torchvision and an old requests, adversarial-robustness-toolbox takes every step through
numpy.

Shape legend: n images, B batch, C/H/W of an image, L classes.
"""

import torch
from torch import Tensor, nn

from ..artifact.loading import HabaProcessor
from ..data.splits import images_at_once
from ..networks import logits_of

FGSM, PGD = "FGSM", "PGD"
ATTACKS = (FGSM, PGD)
# Step size of PGD times steps, over epsilon: more than 2, so that every corner is in reach (Madry et al., 2018).
REACH = 2.5


@torch.enable_grad()
def attack(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    processor: HabaProcessor,
    epsilon: float,
    steps: int | None = None,
    seed: int = 0,
) -> Tensor:
    r"""
    The fast gradient sign method (Goodfellow et al., 2015), or projected gradient descent (Madry et al., 2018):

        x' = clip( x + epsilon sign grad_x CE(f(x), y) )
        x_0 = clip( x + u ),  x_{t+1} = clip( x_t + a sign grad_x CE(f(x_t), y) ),  u ~ U(-epsilon, epsilon),
        a = 2.5 epsilon / steps,

    where clip keeps pixels within epsilon of x and in their range. The gradient goes through the processor, so epsilon
    is a distance of pixels whatever they are normalized by. Perturbed pixels are not rounded.

    Args:
        network (`nn.Module`): images `[B, C, H, W]` in model space to logits `[B, L]`; attacked in evaluation mode,
            left in the mode it was in.
        images (`torch.Tensor`): uint8 `[n, C, H, W]`.
        labels (`torch.Tensor`): int64 `[n]`, which the network is led away from.
        processor ([`HabaImageProcessor`]): takes pixels to the network's space.
        epsilon (`float`): in 1/255 of the range of a pixel.
        steps (`int`, *optional*): of PGD; `None`: FGSM.
        seed (`int`, *optional*, defaults to 0): of PGD's starts, the same for every network.

    Returns:
        `torch.Tensor`: float32 `[n, C, H, W]` in [0, 1], on the network's device.
    """
    device, radius = next(network.parameters()).device, epsilon / 255
    step = radius if steps is None else REACH * radius / steps
    generator = torch.Generator().manual_seed(seed)
    was_training, perturbed = network.training, []
    network.eval()
    size = images_at_once(images.shape)
    for images_BCHW, labels_B in zip(images.split(size), labels.split(size), strict=True):
        clean_BCHW, labels_B = images_BCHW.to(device).float() / 255, labels_B.to(device)
        least_BCHW, most_BCHW = (clean_BCHW - radius).clamp_min(0), (clean_BCHW + radius).clamp_max(1)
        pixels_BCHW = clean_BCHW
        if steps is not None:
            noise_BCHW = torch.rand(clean_BCHW.shape, generator=generator).to(device)
            pixels_BCHW = (clean_BCHW + radius * (2 * noise_BCHW - 1)).clamp(least_BCHW, most_BCHW)
        for _ in range(steps or 1):
            pixels_BCHW.requires_grad_()
            logits_BL = logits_of(network, processor.normalize(pixels_BCHW))
            (gradient_BCHW,) = torch.autograd.grad(_lead_of_others(logits_BL, labels_B).sum(), pixels_BCHW)
            pixels_BCHW = (pixels_BCHW.detach() + step * gradient_BCHW.sign()).clamp(least_BCHW, most_BCHW)
        perturbed.append(pixels_BCHW)
    network.train(was_training)
    return torch.cat(perturbed)


def _lead_of_others(logits_BL: Tensor, labels_B: Tensor) -> Tensor:
    """
    Logsumexp of the other logits less that of the label, `[B]`. Cross-entropy is softplus of it, so the signs of both
    gradients are the same, but those of cross-entropy drown in rounding where a network is sure of itself.
    """
    own_B1 = logits_BL.gather(1, labels_B[:, None])
    others_B = logits_BL.scatter(1, labels_B[:, None], -torch.inf).logsumexp(dim=1)
    return others_B - own_B1[:, 0]
