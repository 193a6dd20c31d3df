"""One student trained by the artifact's own schedule (DD; Wang et al., 2018): T steps of plain gradient descent, each
with the step size and on the share of the bases that it was learned with.

Shape legend: T steps, B samples of a step, C/H/W of a sample, L classes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..artifact.modeling_haba import HabaModel
from ..data.augmentation import DsaAugmentation
from ..networks import logits_of


def stored_step_sizes(model: HabaModel) -> list[float]:
    """
    The artifact's T step sizes.

    Raises:
        `ValueError`: if it has none.
    """
    if model.step_sizes is None:
        raise ValueError(
            "The artifact has no step sizes to train students by: set evaluation_protocol to sgd, or distil it with "
            "objective dd and num_step_sizes above 0."
        )
    return model.step_sizes.tolist()


@torch.no_grad()
def scheduled_batch(model: HabaModel, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """
    The share of a step, each formation of a basis with a hallucinator drawn anew: samples float32 `[B, C, H, W]`, and
    labels `[B]` (hard) or `[B, L]` (soft).
    """
    output = model.restore(model.pair(model.share(step), generator))
    labels = output.labels
    return output.samples.float(), labels.float() if labels.is_floating_point() else labels


def train_by_schedule(
    network: nn.Module,
    batch_of_step: Callable[[int], tuple[Tensor, Tensor]],
    step_sizes: Sequence[float],
    *,
    augmentation: DsaAugmentation | None = None,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, float], None] | None = None,
) -> nn.Module:
    """
    Trains a network by gradient descent, theta_{t+1} = theta_t - eta_t grad loss_t(theta_t).

    Args:
        network (`nn.Module`): images `[B, C, H, W]` to logits `[B, L]`; moved to `device` and trained in place.
        batch_of_step (`Callable[[int], tuple]`): gives samples and labels of a step, counted from 0.
        step_sizes (`Sequence[float]`): eta, one for each step.
        augmentation ([`DsaAugmentation`], *optional*): of every batch.
        generator (`torch.Generator`): what the augmentation draws from.
        device (`torch.device`, *optional*, defaults to `"cpu"`): where to train.
        on_step (`Callable[[int, float], None]`, *optional*): told each step and its loss.

    Returns:
        `nn.Module`: the network, in evaluation mode.

    Raises:
        `FloatingPointError`: if a loss becomes NaN or infinite; names the step.
    """
    parameters = [parameter for parameter in network.to(device).train().parameters() if parameter.requires_grad]
    for step, step_size in enumerate(step_sizes):
        samples, labels = (tensor.to(device) for tensor in batch_of_step(step))
        if augmentation is not None:
            samples = augmentation(samples, generator)
        loss = F.cross_entropy(logits_of(network, samples), labels)
        if not loss.isfinite():
            raise FloatingPointError(
                f"The student diverged in step {step + 1} of {len(step_sizes)} of the artifact's schedule: train it "
                "with evaluation_protocol sgd."
            )
        with torch.no_grad():
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.sub_(gradient, alpha=step_size)
        if on_step is not None:
            on_step(step, loss.item())
    return network.eval()
