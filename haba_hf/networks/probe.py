"""A linear classifier over the features of a pretrained vision model of transformers, which stays as it is: a probe.

Shape legend: B batch, C/H/W of a sample, D features.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel
from transformers.utils import IMAGE_PROCESSOR_NAME, logging

from ..artifact.files_haba import read_settings
from ..artifact.loading import HabaProcessor
from ..artifact.processing_haba import HabaImageProcessor
from .feature_network import FeatureNetwork

PROBE = "probe/"
CLASS_TOKENS = ("cls_token", "class_embedding")  # what models call the parameter of their first token


class Backbone(nn.Module):
    """
    A pretrained vision model from samples in model space to features. Its parameters take no gradient, and it stays in
    evaluation mode: no dropout, batch norm by its running statistics, so that an image's features do not depend on the
    batch.

    Samples are taken back to pixels, enlarged or reduced to the model's own size (bilinear, antialiased, stretched if
    that is of other proportions) and normalized by its own statistics, as its `preprocessor_config.json` says, all
    of it differentiable and without a clamp. Grey samples are repeated for a model of colors.

    The features are the model's pooled output; or its first token, if that is a class token and the model has no
    pooled output or the weights of its pooler are not in the folder (a ViT saved with a classifier). Of a model of
    images and text (CLIP) it is the part that sees.

    Args:
        name (`str`): a folder, or a model on the Hub; only safetensors are read, and no code of theirs is run.
        image_shape (`tuple[int, int, int]`): (C, H, W) of samples.
        processor ([`HabaImageProcessor`]): says what model space is.

    Attributes:
        num_features (`int`): D.

    Raises:
        `FileNotFoundError`: if there is no such folder or model, or it lacks a file.
        `ValueError`: if it is no vision model, has no features by the rule above, lacks weights, is of other channels,
            or has features that differ from call to call.
    """

    sample_mean: Tensor
    sample_std: Tensor
    own_mean: Tensor
    own_std: Tensor

    def __init__(self, name: str, image_shape: tuple[int, int, int], processor: HabaProcessor):
        super().__init__()
        if not isinstance(processor, HabaImageProcessor):
            raise ValueError(f"{PROBE}{name} takes images, and these are spectrograms: choose another network.")
        mean, std, self.size = _own_space(name)
        channels = image_shape[0]
        if channels not in (1, len(mean)):
            raise ValueError(
                f"{PROBE}{name} takes images of {len(mean)} channel(s), and samples have {channels}: choose another "
                "backbone, or other data."
            )
        self.whitening = processor.whitening
        statistics = {"sample_mean": processor.image_mean, "sample_std": processor.image_std}
        for buffer, values in (statistics | {"own_mean": mean, "own_std": std}).items():
            self.register_buffer(buffer, torch.tensor(values).view(-1, 1, 1))
        self.model, missing = _load(name)
        weights = self.model.state_dict()
        for key in missing:  # of a pooler that nothing asks: the same in every student, not by chance
            weights[key].zero_()
        self.requires_grad_(False).eval()
        images = torch.linspace(-1, 1, 2 * channels * image_shape[1] * image_shape[2]).view(2, *image_shape)
        try:
            with torch.no_grad():
                output = self.model(pixel_values=self._own_images(images))
        except Exception as error:
            raise ValueError(f"{PROBE}{name} does not take images of {self.size}: {_first_line(error)}.") from error
        self.pooled = "pooler_output" in output and not any("pooler" in key.split(".") for key in missing)
        tokens = {key.rpartition(".")[2] for key, _ in self.model.named_parameters()}.intersection(CLASS_TOKENS)
        if not self.pooled and not (tokens and "last_hidden_state" in output and output.last_hidden_state.ndim == 3):
            raise ValueError(f"{PROBE}{name} has neither a pooled output nor a class token: choose another backbone.")
        with torch.no_grad():
            features = self(images)
            if not torch.equal(features, self(images)):
                raise ValueError(f"The features of {PROBE}{name} differ from call to call: choose another backbone.")
        self.num_features = features.shape[1]

    def _own_images(self, samples_BCHW: Tensor) -> Tensor:
        """Samples in model space to what the model takes."""
        if self.whitening is not None:
            samples_BCHW = self.whitening.unwhiten(samples_BCHW)
        pixels = samples_BCHW * self.sample_std + self.sample_mean
        if pixels.shape[2:] != self.size:
            pixels = F.interpolate(pixels, self.size, mode="bilinear", antialias=True)
        return (pixels - self.own_mean) / self.own_std  # which repeats grey

    def forward(self, samples_BCHW: Tensor) -> Tensor:
        """`[B, C, H, W]` to features `[B, D]`."""
        output = self.model(pixel_values=self._own_images(samples_BCHW))
        return output.pooler_output.flatten(1) if self.pooled else output.last_hidden_state[:, 0]


class Probe(FeatureNetwork):
    """
    A [`Backbone`] and a freshly initialized linear classifier, the only part that is trained.

    Args:
        name (`str`), image_shape (`tuple[int, int, int]`), processor ([`HabaImageProcessor`]): of the backbone.
        num_labels (`int`): classes.

    Raises:
        `FileNotFoundError`, `ValueError`: as of [`Backbone`].
    """

    def __init__(self, name: str, image_shape: tuple[int, int, int], num_labels: int, processor: HabaProcessor):
        super().__init__()
        self.backbone = Backbone(name, image_shape, processor)
        self.classifier = nn.Linear(self.backbone.num_features, num_labels)

    def train(self, mode: bool = True) -> "Probe":
        """The classifier's mode; the backbone keeps its own."""
        super().train(mode)
        self.backbone.eval()
        return self

    def features(self, images: Tensor) -> Tensor:
        return self.backbone(images)


def _load(name: str) -> tuple[nn.Module, set[str]]:
    """The model, and which weights of a pooler it lacks."""
    try:
        with _quiet():
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
            if "vision_config" in config.sub_configs:
                config = config.vision_config
            model, report = AutoModel.from_pretrained(
                name,
                config=config,
                dtype=torch.get_default_dtype(),
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except OSError as error:
        raise _missing(name, error) from error
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{name} is no backbone that transformers can load: {_first_line(error)}.") from error
    if model.main_input_name != "pixel_values":
        raise ValueError(f"{name} is a {config.model_type}, which is no vision model: choose another backbone.")
    missing = report["missing_keys"]
    absent = sorted(key for key in missing if "pooler" not in key.split("."))
    if absent:
        raise ValueError(f"{name} lacks weights of its model ({absent[0]} and {len(absent) - 1} more): save it again.")
    return model, missing


def _own_space(name: str) -> tuple[list[float], list[float], tuple[int, int]]:
    """Mean and standard deviation of a backbone's channels, for pixels in [0, 1], and its images' size (H, W)."""
    try:
        settings = read_settings(name, IMAGE_PROCESSOR_NAME, {})
    except OSError as error:
        raise _missing(name, error) from error
    try:
        cropped = settings.get("do_center_crop") and settings.get("crop_size")
        size = settings["crop_size"] if cropped else settings["size"]
        if isinstance(size, dict):
            height, width = (
                int(size[side] if side in size else size["shortest_edge"]) for side in ("height", "width")
            )
        else:
            height = width = int(size)
        plain = not settings.get("do_normalize", True)
        mean = [0.0] * 3 if plain else [float(value) for value in settings["image_mean"]]
        std = [1.0] * 3 if plain else [float(value) for value in settings["image_std"]]
        if len(mean) != len(std) or not mean or min(*std, height, width) <= 0:
            raise ValueError("they do not fit each other")
        if abs(255 * settings.get("rescale_factor", 1 / 255) - 1) > 1e-3:
            raise ValueError("its pixels are not in [0, 1]")
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{IMAGE_PROCESSOR_NAME} of {name} does not say which size, image_mean and image_std its images have "
            f"({_first_line(error)}): add them, or choose another backbone."
        ) from error
    return mean, std, (height, width)


def _missing(name: str, error: Exception) -> FileNotFoundError:
    return FileNotFoundError(
        f"There is no backbone {name}: it is neither a folder with config.json, {IMAGE_PROCESSOR_NAME} and "
        f"model.safetensors nor a model of the Hub within reach ({_first_line(error)})."
    )


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report of the classifier's weights that a backbone does not need, once a student."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
