"""Raw images to model space and back: what an artifact needs to meet real data."""

# Shape suffixes: B images, C channels, H height, W width.

import os
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import is_pil_image
from transformers.processing_utils import ImagesKwargs
from transformers.utils import IMAGE_PROCESSOR_NAME

from .configuration_haba import HabaConfig
from .files_haba import checked_size, read_as_settings, read_settings
from .whitening_haba import WHITENING, ZcaWhitening

# ITU-R 601 luma in Pillow's 16-bit fixed point, so that a grey image is bit-equal to `image.convert("L")`.
LUMA = (19595, 38470, 7471)
ORIENTATION = 0x0112  # of EXIF
SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
GREY_MODES = ("1", "L", *SIXTEEN_BIT_MODES)
COLOR_MODES = ("RGB", "P", "CMYK", "YCbCr", "HSV", "LAB")


class HabaImageProcessorKwargs(ImagesKwargs, total=False):
    num_channels: int
    rgba_background: list[int] | None


def upright(image: Any) -> Any:
    """A PIL image turned as its EXIF data say that the camera was held, which is how `datasets` decodes it."""
    if image.getexif().get(ORIENTATION) is None:
        return image
    from PIL import ImageOps  # the rest works without Pillow

    return ImageOps.exif_transpose(image)


class HabaImageProcessor(BaseImageProcessor):
    r"""
    Turns images into the space in which bases and samples live: `(image / 255 - image_mean) / image_std`, or, with a
    whitening, `(image / 255 - mean) matrix`, which has a mean for every pixel.

    Images are converted to `num_channels`, resized to `size` (bilinear, antialiased) and rounded to uint8 before they
    are normalized, so `processor(images)` equals `processor.normalize(processor.to_uint8(images))` bit for bit.

    A whitening is saved beside the settings, in `whitening.safetensors`, and comes back with them.

    Args:
        size (`dict`, *optional*, defaults to `{"height": 32, "width": 32}`):
            Height and width of an image in model space.
        num_channels (`int`, *optional*, defaults to 3):
            1 (grey, by ITU-R 601 luma) or 3 (RGB; a grey image is repeated).
        image_mean (`list[float]`, *optional*, defaults to zeros):
            Mean of each channel, for pixels in [0, 1].
        image_std (`list[float]`, *optional*, defaults to ones):
            Standard deviation of each channel, for pixels in [0, 1].
        rgba_background (`list[int]`, *optional*):
            RGB color (0 to 255) over which a transparent image is flattened. Without one, images that are transparent
            anywhere are refused; an alpha channel that is opaque throughout is dropped.
        do_resize (`bool`, *optional*, defaults to `True`):
            Whether images of another size are resized; if not, they are refused.
        do_center_crop (`bool`, *optional*, defaults to `False`):
            Whether resized images keep their proportions: the side that is nearer to `size` is made to fit and the
            other one cut at both ends. If not, images are stretched.
        whitening ([`ZcaWhitening`], *optional*):
            In place of `image_mean` and `image_std`.

    Raises:
        `ValueError`: if an argument has the wrong length or range.
        `TypeError`: if an argument is unknown.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 - the name and form transformers reads
    valid_kwargs = HabaImageProcessorKwargs

    def __init__(
        self,
        size: dict[str, int] | None = None,
        num_channels: int = 3,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        rgba_background: list[int] | None = None,
        do_resize: bool = True,
        do_center_crop: bool = False,
        whitening: ZcaWhitening | None = None,
        **kwargs: Any,
    ) -> None:
        # What transformers itself writes into preprocessor_config.json.
        unknown = kwargs.keys() - {"image_processor_type", "processor_class", "auto_map"}
        if unknown:
            raise TypeError(f"HabaImageProcessor has no argument {', '.join(sorted(unknown))}.")
        super().__init__(**kwargs)
        size = checked_size(size, 32)
        if num_channels not in (1, 3):
            raise ValueError(f"num_channels must be 1 (grey) or 3 (RGB), got {num_channels}.")
        image_mean = [0.0] * num_channels if image_mean is None else [float(value) for value in image_mean]
        image_std = [1.0] * num_channels if image_std is None else [float(value) for value in image_std]
        if len(image_mean) != num_channels or len(image_std) != num_channels:
            raise ValueError(
                f"image_mean and image_std need {num_channels} numbers each (num_channels), "
                f"got {len(image_mean)} and {len(image_std)}."
            )
        if not np.isfinite(image_mean).all() or not np.isfinite(image_std).all() or min(image_std) <= 0:
            raise ValueError(f"image_mean must be finite and image_std positive, got {image_mean} and {image_std}.")
        if rgba_background is not None:
            rgba_background = [int(value) for value in rgba_background]
            if len(rgba_background) != 3 or min(rgba_background) < 0 or max(rgba_background) > 255:
                raise ValueError(f"rgba_background must be three numbers from 0 to 255, got {rgba_background}.")
        if whitening is not None:
            _check_whitening(whitening, (num_channels, size["height"], size["width"]), image_mean, image_std)
        self.size = size
        self.num_channels = num_channels
        self.image_mean = image_mean
        self.image_std = image_std
        self.rgba_background = rgba_background
        self.do_resize = do_resize
        self.do_center_crop = do_center_crop
        self.whitening = whitening

    @property
    def whitening_fingerprint(self) -> str | None:
        """Which whitened space images are taken to; `None` without a whitening."""
        return None if self.whitening is None else self.whitening.fingerprint

    def check_fits(self, config: HabaConfig) -> None:
        """
        Refuses to bring images and the samples of an artifact together that live in different spaces: its students
        would do no better than chance.

        Raises:
            `ValueError`: if images have another size or number of channels than samples, only one of the two is
                whitened, or each in another way.
        """
        found = (self.num_channels, self.size["height"], self.size["width"])
        if found != config.sample_shape:
            raise ValueError(
                f"The processor makes images {list(found)} (C, H, W), but the artifact's samples are "
                f"{list(config.sample_shape)}: use the processor saved with it."
            )
        ours, theirs = self.whitening_fingerprint, config.whitening
        if ours != theirs:
            samples = "are not whitened" if theirs is None else f"live in ZCA-whitened space ({theirs})"
            images = "does not whiten" if ours is None else f"whitens by {ours}"
            raise ValueError(
                f"The artifact's samples {samples}, but the processor {images}: test images must go through the "
                f"processor saved with the artifact, {WHITENING} included (in a recipe: zca, as it was distilled)."
            )

    def preprocess(self, images: Any, return_tensors: str = "pt") -> BatchFeature:
        """
        Converts, resizes and normalizes images; `processor(images)` calls this.

        Args:
            images: one image or a list of images, in any form that [`~HabaImageProcessor.to_uint8`] takes.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"` for torch, `"np"` for numpy.

        Returns:
            `BatchFeature` with `pixel_values`, float32 [B, C, H, W].
        """
        pixel_values_BCHW = self.normalize(self.to_uint8(images))
        return BatchFeature(data={"pixel_values": pixel_values_BCHW}, tensor_type=return_tensors)

    def to_uint8(self, images: Any) -> torch.Tensor:
        """
        Converts and resizes images without normalizing them.

        Args:
            images: one of the following, or a list of them (they may differ in form and size).
                A PIL image (8-bit or 16-bit grey, palette, black and white, RGB, CMYK, YCbCr, HSV, LAB; transparent
                only if `rgba_background` is set; turned as its EXIF orientation says); a numpy array [H, W] or
                [H, W, C] (never [C, H, W]); a torch tensor [C, H, W] or [B, C, H, W]. Arrays and tensors are uint8, or
                floating point in [0, 1].

        Returns:
            `torch.Tensor`, uint8 [B, C, H, W].

        Raises:
            `ValueError`: if an image has the wrong shape, range or mode, or is transparent and there is no
                `rgba_background`.
            `TypeError`: if it is no image or has the wrong dtype.
        """
        images = list(images) if isinstance(images, (list, tuple)) else [images]
        if not images:
            raise ValueError("There are no images to process: the list is empty.")
        blocks_BCHW = self._stack_equal_shapes([self._to_native(image) for image in images])
        return torch.cat([self._resize(self._match_channels(block)) for block in blocks_BCHW])

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """
        Pixels to model space, `(x - image_mean) / image_std` or whitened, on the device of `images`.

        Args:
            images (`torch.Tensor`): [B, C, H, W], uint8, or floating point in [0, 1] (not checked: it may carry
                gradients and augmentation).

        Returns:
            `torch.Tensor`, float32 [B, C, H, W].
        """
        self._check_batch(images)
        if images.dtype == torch.uint8:
            images = images.to(torch.float32) / 255
        elif images.is_floating_point():
            images = images.to(torch.float32)
        else:
            raise TypeError(f"normalize takes uint8 or floating-point images, got {images.dtype}.")
        if self.whitening is not None:
            return self.whitening.whiten(images)
        mean_C11, std_C11 = self._statistics(images.device)
        return (images - mean_C11) / std_C11

    def denormalize(self, samples: torch.Tensor) -> torch.Tensor:
        """
        Model space to pixels, `x * image_std + image_mean` or the whitening undone, clamped.

        Args:
            samples (`torch.Tensor`): floating point [B, C, H, W] in model space.

        Returns:
            `torch.Tensor`, float32 [B, C, H, W] in [0, 1].
        """
        self._check_batch(samples)
        if self.whitening is not None:
            return self.whitening.unwhiten(samples).clamp(0, 1)
        mean_C11, std_C11 = self._statistics(samples.device)
        return (samples.to(torch.float32) * std_C11 + mean_C11).clamp(0, 1)

    def to_pil(self, samples: torch.Tensor) -> list[Any]:
        """Samples [B, C, H, W] in model space to a list of B PIL images, grey ("L") or RGB."""
        from PIL import Image  # the rest of the class works without Pillow

        pixels_BCHW = (self.denormalize(samples.detach()) * 255).round().to(torch.uint8)
        pixels_BHWC = pixels_BCHW.permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(pixels[..., 0] if self.num_channels == 1 else pixels) for pixels in pixels_BHWC]

    def _statistics(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        mean_C = torch.tensor(self.image_mean, dtype=torch.float32, device=device)
        std_C = torch.tensor(self.image_std, dtype=torch.float32, device=device)
        return mean_C[:, None, None], std_C[:, None, None]

    def _check_batch(self, images: torch.Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != self.num_channels:
            raise ValueError(f"Expected images [B, {self.num_channels}, H, W], got {list(images.shape)}.")
        if self.whitening is not None and images.shape[1:] != self.whitening.mean_CHW.shape:
            expected = list(self.whitening.mean_CHW.shape)
            raise ValueError(f"The whitening is of images {expected} (C, H, W), got {list(images.shape[1:])}.")

    def _to_native(self, image: Any) -> torch.Tensor:
        """One image or batch to uint8 [B, C, H, W] with its own size and 1 or 3 channels."""
        if is_pil_image(image):
            return self._from_array(self._pil_to_array(image))
        if isinstance(image, np.ndarray):
            if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] > 4):
                raise ValueError(f"A numpy image must be [H, W] or [H, W, C] with C up to 4, got {list(image.shape)}.")
            return self._from_array(_to_uint8_range(torch.tensor(image)).numpy())
        if isinstance(image, torch.Tensor):
            image_BCHW = image[None] if image.ndim == 3 else image
            if image_BCHW.ndim != 4 or image_BCHW.shape[1] not in (1, 3):
                raise ValueError(
                    f"A torch image must be [C, H, W] or [B, C, H, W] with C 1 or 3, got {list(image.shape)}."
                )
            return _to_uint8_range(image_BCHW)
        raise TypeError(f"Expected PIL images, numpy arrays or torch tensors, got {type(image).__name__}.")

    def _pil_to_array(self, image: Any) -> np.ndarray:
        image = upright(image)
        if image.has_transparency_data:
            return np.asarray(image.convert("RGBA"))
        if image.mode in SIXTEEN_BIT_MODES:
            return (np.asarray(image) >> 8).astype(np.uint8)
        if image.mode in GREY_MODES:
            return np.asarray(image if image.mode == "L" else image.convert("L"))
        if image.mode in COLOR_MODES:
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        raise ValueError(
            f"Images of mode {image.mode} have no fixed range of values; convert them to 8-bit grey (L) or RGB first."
        )

    def _from_array(self, array: np.ndarray) -> torch.Tensor:
        array_HWC = array[..., None] if array.ndim == 2 else array
        if array_HWC.shape[2] in (2, 4):
            array_HWC = self._flatten_alpha(array_HWC)
        # A copy: arrays that Pillow hands out are read-only.
        return torch.from_numpy(array_HWC.transpose(2, 0, 1).copy())[None]

    def _flatten_alpha(self, array_HWC: np.ndarray) -> np.ndarray:
        if (array_HWC[..., -1] == 255).all():
            return array_HWC[..., :-1]
        if self.rgba_background is None:
            raise ValueError(
                "The image is transparent in parts: set rgba_background to the color behind it (e.g. [255, 255, 255]) "
                "or convert the image to RGB."
            )
        color_HWC = array_HWC[..., :-1].astype(np.float64)
        alpha_HW1 = array_HWC[..., -1:].astype(np.float64) / 255
        flat_HWC = color_HWC * alpha_HW1 + np.array(self.rgba_background) * (1 - alpha_HW1)
        return np.rint(flat_HWC).astype(np.uint8)

    def _stack_equal_shapes(self, images_1CHW: list[torch.Tensor]) -> list[torch.Tensor]:
        """Joins neighbors of one shape, so that the usual batch is converted and resized in one go."""
        blocks, block = [], images_1CHW[:1]
        for image in images_1CHW[1:]:
            if image.shape[1:] != block[0].shape[1:]:
                blocks.append(torch.cat(block))
                block = []
            block.append(image)
        return [*blocks, torch.cat(block)]

    def _match_channels(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        if images_BCHW.shape[1] == self.num_channels:
            return images_BCHW
        if self.num_channels == 3:
            return images_BCHW.expand(-1, 3, -1, -1)
        red, green, blue = (images_BCHW[:, channel].to(torch.int32) * LUMA[channel] for channel in range(3))
        return ((red + green + blue + 0x8000) >> 16).to(torch.uint8)[:, None]

    def _resize(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        target = (self.size["height"], self.size["width"])
        if tuple(images_BCHW.shape[2:]) == target:
            return images_BCHW
        if not self.do_resize:
            raise ValueError(
                f"Expected images of {target[0]}x{target[1]}, got {images_BCHW.shape[2]}x{images_BCHW.shape[3]}; "
                "set do_resize=True to resize them."
            )
        height, width = self._size_before_crop(*images_BCHW.shape[2:]) if self.do_center_crop else target
        resized_BCHW = F.interpolate(
            images_BCHW.to(torch.float32), size=(height, width), mode="bilinear", antialias=True
        )
        top, left = (height - target[0]) // 2, (width - target[1]) // 2
        cropped_BCHW = resized_BCHW[:, :, top : top + target[0], left : left + target[1]]
        return cropped_BCHW.round().clamp(0, 255).to(torch.uint8)

    def _size_before_crop(self, height: int, width: int) -> tuple[int, int]:
        """The least size of the same proportions that covers `size`."""
        scale = max(self.size["height"] / height, self.size["width"] / width)
        return round(height * scale), round(width * scale)

    @classmethod
    def get_image_processor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        As in transformers, with the whitening that the settings name.

        Raises:
            `ValueError`: if the settings name a whitening and its file is missing, damaged or another one's.
        """
        source = pretrained_model_name_or_path
        settings = read_settings(source, IMAGE_PROCESSOR_NAME, kwargs)  # no processor_config.json in its place
        _, others = super().get_image_processor_dict(source, **kwargs)
        if settings.get("whitening") is not None:
            settings["whitening"] = ZcaWhitening.of_processor(source, settings["whitening"], kwargs)
        return settings, others

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; settings that fit no field are a `ValueError`."""
        with read_as_settings(IMAGE_PROCESSOR_NAME):
            return super().from_dict(image_processor_dict, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> list:
        """As in transformers; a whitening goes to `whitening.safetensors` beside the settings."""
        # First: a push uploads what is there after the settings are written.
        if self.whitening is not None:
            os.makedirs(save_directory, exist_ok=True)
            self.whitening.save(os.path.join(save_directory, WHITENING))
        return super().save_pretrained(save_directory, push_to_hub, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The settings; of a whitening its fingerprint."""
        settings = super().to_dict()
        if self.whitening is not None:
            settings["whitening"] = self.whitening.fingerprint
        return settings


def _check_whitening(
    whitening: Any, shape: tuple[int, int, int], image_mean: list[float], image_std: list[float]
) -> None:
    if not isinstance(whitening, ZcaWhitening):
        raise ValueError(
            f"whitening must be a ZcaWhitening, got {whitening!r}: load a saved processor by from_pretrained, which "
            f"reads {WHITENING}."
        )
    if whitening.mean_CHW.shape != shape:
        raise ValueError(
            f"The whitening is of images {list(whitening.mean_CHW.shape)}, the size asked for {list(shape)}."
        )
    if any(image_mean) or any(value != 1 for value in image_std):
        raise ValueError("A whitening takes the place of image_mean and image_std: leave them out.")


def _to_uint8_range(image: torch.Tensor) -> torch.Tensor:
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise TypeError(f"Image arrays must be uint8 or floating point in [0, 1], got {image.dtype}.")
    if not bool(((image >= 0) & (image <= 1)).all()):
        raise ValueError("Floating-point images must lie in [0, 1] without NaN; divide by the largest value first.")
    return (image * 255).round().to(torch.uint8)
