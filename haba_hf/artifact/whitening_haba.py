"""ZCA whitening: pixels to a space in which they hardly correlate, and back.

Shape suffixes: n training images, B images, C channels, H height, W width, D = C x H x W pixel values of an image.
"""

import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .files_haba import find_file

WHITENING = "whitening.safetensors"  # beside the processor's preprocessor_config.json
EPSILON = 0.1  # added to each variance, as in the released code of MTT and HaBa, which took kornia's whitening
MAX_VALUES = 3 * 64 * 64  # of an image: a matrix of 604 MB
FIT_BATCH_SIZE = 1024


class ZcaWhitening:
    r"""
    The linear map `z = (x - mean) matrix` of pixels in [0, 1], with `matrix = U (S + epsilon)^(-1/2) U^T` for the
    covariance `U S U^T` of the training images (Krizhevsky, 2009), regularized as in the released code of MTT.

    It is never changed after construction, so copies share one.

    Args:
        mean (`torch.Tensor` `[C, H, W]`): of every pixel over the training images.
        matrix (`torch.Tensor` `[D, D]`): symmetric.

    Raises:
        `ValueError`: if the two do not fit each other, or hold NaN.
    """

    def __init__(self, mean: torch.Tensor, matrix: torch.Tensor) -> None:
        if mean.ndim != 3 or tuple(matrix.shape) != (mean.numel(), mean.numel()):
            raise ValueError(
                f"A whitening is a mean [C, H, W] and a matrix [D, D] with D = C x H x W, got {list(mean.shape)} and "
                f"{list(matrix.shape)}."
            )
        if not bool(mean.isfinite().all() and matrix.isfinite().all()):
            raise ValueError("A whitening must be finite, this one holds NaN or infinity: fit it again.")
        self.mean_CHW = mean.detach().to("cpu", torch.float32).contiguous()
        self.matrix_DD = matrix.detach().to("cpu", torch.float32).contiguous()
        self._on_device: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    @classmethod
    def fit(cls, images: torch.Tensor, epsilon: float = EPSILON) -> "ZcaWhitening":
        """
        The whitening of some training images; memory for two matrices of D x D in float64 and a batch.

        Args:
            images (`torch.Tensor`): uint8 [n, C, H, W], two or more.
            epsilon (`float`, *optional*, defaults to 0.1): added to each variance, in pixels of [0, 1].

        Raises:
            `ValueError`: if the images are too large for a matrix, or too few.
        """
        shape = images.shape[1:]
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) < 2:
            raise ValueError(
                f"ZCA takes two uint8 images [n, C, H, W] or more, got {images.dtype} {list(images.shape)}."
            )
        if shape.numel() > MAX_VALUES:
            raise ValueError(
                f"ZCA of images {list(shape)} needs a matrix of {4 * shape.numel() ** 2 / 1e9:.1f} GB: resize them to "
                "64x64 or less, or leave zca out."
            )
        # Bytes less 128, in batches of 1024: sums of their products are whole numbers of at most 2^24, which float32
        # holds exactly, in whatever order they are added.
        sum_D = torch.zeros(shape.numel(), dtype=torch.float64)
        products_DD = torch.zeros(shape.numel(), shape.numel(), dtype=torch.float64)
        for batch in images.split(FIT_BATCH_SIZE):
            values_BD = batch.flatten(1).cpu().float() - 128
            sum_D += values_BD.sum(dim=0)
            products_DD += values_BD.T @ values_BD
        mean_D = sum_D / len(images)
        covariance_DD = products_DD.addr_(mean_D, mean_D, alpha=-len(images)).div_((len(images) - 1) * 255**2)
        variances_D, axes_DD = torch.linalg.eigh(covariance_DD)
        scales_D = (variances_D.clamp(min=0) + epsilon).rsqrt()  # rounding takes a variance of 0 below it
        return cls(((mean_D + 128) / 255).view(shape), (axes_DD * scales_D) @ axes_DD.T)

    @property
    def num_floats(self) -> int:
        """Floats stored: D + D x D."""
        return self.mean_CHW.numel() + self.matrix_DD.numel()

    @cached_property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of mean and matrix: which space samples live in."""
        digest = hashlib.sha256(repr(tuple(self.mean_CHW.shape)).encode())
        digest.update(self.mean_CHW.numpy().data)
        digest.update(self.matrix_DD.numpy().data)
        return digest.hexdigest()[:16]

    def whiten(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Pixels in [0, 1] to whitened space: float32 [B, C, H, W], on their device."""
        device = images_BCHW.device
        if device not in self._on_device:
            self._on_device[device] = self.mean_CHW.to(device), self.matrix_DD.to(device)
        mean_CHW, matrix_DD = self._on_device[device]
        return _product(images_BCHW - mean_CHW, matrix_DD)

    def unwhiten(self, samples_BCHW: torch.Tensor) -> torch.Tensor:
        """The inverse of [`whiten`]; pixels of samples may leave [0, 1]."""
        device = samples_BCHW.device
        return _product(samples_BCHW, self._inverse_DD.to(device)) + self.mean_CHW.to(device)

    @cached_property
    def _inverse_DD(self) -> torch.Tensor:
        # Not stored. The matrix is well conditioned: epsilon bounds its eigenvalues.
        return torch.linalg.inv(self.matrix_DD.double()).float()

    def save(self, path: str | os.PathLike) -> None:
        """Writes `mean` and `matrix` to a safetensors file, in one piece."""
        path = Path(path)
        aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            save_file({"mean": self.mean_CHW, "matrix": self.matrix_DD}, aside)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ZcaWhitening":
        """
        Reads what [`save`] wrote.

        Raises:
            `ValueError`: if the file is damaged, or no whitening.
        """
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}): save or download it again.") from error
        if tensors.keys() != {"mean", "matrix"}:
            raise ValueError(
                f"{path} holds {', '.join(tensors) or 'nothing'}, not the mean and matrix of a whitening."
            )
        return cls(tensors["mean"], tensors["matrix"])

    @classmethod
    def of_processor(cls, source: str | os.PathLike, fingerprint: str, options: dict[str, Any]) -> "ZcaWhitening":
        """
        The whitening that a saved processor names.

        Args:
            source (`str`): folder, repository or settings file of the processor.
            fingerprint (`str`): what its settings name.
            options (`dict`): arguments of `from_pretrained`, of which those about places and access are used.

        Raises:
            `ValueError`: if the file is missing, damaged or another whitening's.
        """
        try:
            path = find_file(source, WHITENING, options)
        except OSError as error:
            raise ValueError(
                f"The processor of {source} whitens images, but its {WHITENING} is missing: without it images "
                "would be noise to students, so fetch that file too, or save the processor again."
            ) from error
        whitening = cls.load(path)
        if whitening.fingerprint != fingerprint:
            raise ValueError(
                f"{WHITENING} of {source} is another whitening ({whitening.fingerprint}) than its settings name "
                f"({fingerprint}): put back the file that was saved with them."
            )
        return whitening

    def __deepcopy__(self, memo: dict) -> Any:
        return self


def _product(images_BCHW: torch.Tensor, matrix_DD: torch.Tensor) -> torch.Tensor:
    with torch.autocast(images_BCHW.device.type, enabled=False):  # it would round the product to bfloat16
        return (images_BCHW.to(torch.float32).flatten(1) @ matrix_DD).view(images_BCHW.shape)
