"""What ties records to the weights that they are of."""

import hashlib

import torch
from torch import nn


def weights_fingerprint(module: nn.Module) -> str:
    """
    The first 16 hexadecimal digits of the SHA-256 of all weights, by name: ties results to the artifact they are of.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {list(values.shape)} ".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
