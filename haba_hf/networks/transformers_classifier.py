"""Any image classifier of the transformers library as a student, from a fresh config: nothing is downloaded."""

import difflib
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

PREFIX = "transformers/"


def check_model_type(model_type: str) -> None:
    """
    Raises:
        `ValueError`: if transformers has no image classifier of this model type.
    """
    if model_type not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        near = difflib.get_close_matches(model_type, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, n=3)
        raise ValueError(
            f"transformers has no image classifier {model_type!r}; "
            f"did you mean {' or '.join(near or ['resnet', 'vit', 'convnext'])}?"
        )


def small_sizes(model_type: str, image_size: tuple[int, int]) -> dict[str, Any]:
    """
    Settings that make a model type fit small images on a CPU. Types without settings here keep transformers' defaults,
    made for images of 224x224 pixels.
    """
    height, width = image_size
    if model_type == "resnet":  # ResNet18's
        return {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
    if model_type in ("convnext", "convnextv2"):
        return {
            "patch_size": max(1, min(height, width) // 16),
            "hidden_sizes": [32, 64, 128, 256],
            "depths": [2, 2, 4, 2],
        }
    if model_type in ("vit", "deit"):
        patches = [
            side for side in range(1, max(min(height, width) // 7, 1) + 1) if height % side == width % side == 0
        ]
        return {
            "patch_size": patches[-1],  # the largest that leaves 7 or more along a side
            "hidden_size": 128,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "intermediate_size": 256,
        }
    return {}


class TransformersClassifier(nn.Module):
    """
    A freshly initialized image classifier of transformers, called like any other network of this package.

    Its dropout probabilities are set to zero: all randomness of a run comes from the run's own generators. It has no
    features: transformers' classifiers do not agree on what theirs are.

    Args:
        model_type (`str`): as in a config's `model_type`: `"resnet"`, `"vit"`, `"convnext"`, ...
        in_channels (`int`): C of the input.
        image_size (`tuple[int, int]`): (H, W) of the input, in pixels.
        num_labels (`int`): classes.

    Raises:
        `ValueError`: if there is no such classifier, or it does not turn such images into logits.
    """

    def __init__(self, model_type: str, in_channels: int, image_size: tuple[int, int], num_labels: int):
        super().__init__()
        check_model_type(model_type)
        classes = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[model_type]
        config = CONFIG_MAPPING[model_type](
            architectures=[classes if isinstance(classes, str) else classes[0]],  # of some types there are several
            num_channels=in_channels,
            image_size=image_size[0] if image_size[0] == image_size[1] else list(image_size),
            num_labels=num_labels,
            **small_sizes(model_type, image_size),
        )
        for name, value in vars(config).items():
            if "drop" in name and isinstance(value, float | list):
                setattr(config, name, 0.0 if isinstance(value, float) else [0.0] * len(value))
        try:
            self.model = AutoModelForImageClassification.from_config(config)
            # Not every type takes every size of image: found out now, and not after an epoch of another network.
            with torch.no_grad():
                logits = self.model.eval()(pixel_values=torch.zeros(2, in_channels, *image_size)).logits
            self.model.train()
        except Exception as error:
            raise self._unfit(model_type, in_channels, image_size, str(error)) from error
        if logits.shape != (2, num_labels):
            raise self._unfit(model_type, in_channels, image_size, f"its logits are {list(logits.shape)}")

    @staticmethod
    def _unfit(model_type: str, in_channels: int, image_size: tuple[int, int], problem: str) -> ValueError:
        shape = f"{in_channels}x{image_size[0]}x{image_size[1]}"
        return ValueError(
            f"{PREFIX}{model_type} does not classify {shape} images ({problem.splitlines()[0] if problem else ''}): "
            "resize the images, or choose another network."
        )

    def forward(self, images: Tensor) -> Tensor:
        """`[B, C, H, W]` to logits `[B, num_labels]`."""
        return self.model(pixel_values=images).logits
