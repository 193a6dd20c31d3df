"""Pretrained backbones so small that they are made anew for every test."""

import json

import torch
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

SMALL = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
STATISTICS = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.25, 0.2, 0.15]}


def save_backbone(model, folder, side=12, seed=0, **settings):
    """A model of random weights and statistics, as `save_pretrained` and its processor leave them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                noise = torch.rand(value.shape, generator=generator, dtype=value.dtype)
                value.add_(noise if "running_var" in name else 0.2 * (noise - 0.5))
    model.save_pretrained(folder)
    settings = STATISTICS | {"size": {"height": side, "width": side}} | settings
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def vit(folder, side=12, seed=0, channels=3, **settings):
    """Without its pooler, so that features are the class token; dropout would tell training from evaluation."""
    config = ViTConfig(image_size=side, patch_size=4, num_channels=channels, hidden_dropout_prob=0.5, **SMALL)
    return save_backbone(ViTForImageClassification(config), folder, side, seed, **settings)


def resnet(folder, side=12, seed=0, channels=3, **settings):
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    model = ResNetForImageClassification(ResNetConfig(num_channels=channels, **sizes))
    return save_backbone(model, folder, side, seed, **settings)
