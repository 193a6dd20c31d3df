"""Probes of tiny backbones, beside transformers' own models called by hand."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    ResNetModel,
    SegformerConfig,
    SegformerModel,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
)

from haba_hf.artifact.processing_audio_haba import HabaAudioProcessor
from haba_hf.artifact.processing_haba import HabaImageProcessor
from haba_hf.networks import NetworkArguments, Probe, build_feature_network, build_network, register_network
from tiny import tiny_data
from tiny_backbones import SMALL, STATISTICS, resnet, save_backbone, vit

MEAN, STD = (torch.tensor(STATISTICS[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))


def build(folder, data, seed=0):
    return build_network(NetworkArguments(f"probe/{folder}"), data.image_shape, 4, seed, data.processor)


def test_features_of_a_vit_are_its_class_token(tmp_path):
    data = tiny_data(side=12)  # the backbone's own size: nothing is resized
    probe = build(vit(tmp_path), data)
    pixels = data.test.images / 255
    model = ViTModel.from_pretrained(tmp_path, add_pooling_layer=False)
    expected = model(pixel_values=(pixels - MEAN) / STD).last_hidden_state[:, 0]
    found = probe.features(data.processor.normalize(data.test.images))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert probe.classifier.weight.shape == (4, 8)


@pytest.mark.parametrize("channels", [1, 3])
def test_features_of_a_resnet_are_its_pooled_output_at_its_own_size(tmp_path, channels):
    data = tiny_data(channels, side=8)
    probe = build(resnet(tmp_path, side=13), data)
    model = ResNetModel.from_pretrained(tmp_path)
    expected = []
    for image in data.test.images:  # enlarged by another hand: Pillow's bilinear, in floating point
        planes = [Image.fromarray(plane.float().numpy()) for plane in image.expand(3, -1, -1)]
        enlarged = [np.asarray(plane.resize((13, 13), Image.Resampling.BILINEAR)) for plane in planes]
        pixels = torch.from_numpy(np.stack(enlarged))[None] / 255
        expected.append(model(pixel_values=(pixels - MEAN) / STD).pooler_output.flatten(1))
    found = probe.features(data.processor.normalize(data.test.images))
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-3, atol=1e-4)


def test_whitened_samples_are_taken_back_to_pixels(tmp_path):
    plain, whitened = tiny_data(side=12), tiny_data(side=12, zca=True)
    vit(tmp_path)
    features = [
        build(tmp_path, data).features(data.processor.normalize(data.test.images)) for data in (plain, whitened)
    ]
    torch.testing.assert_close(*features, rtol=1e-3, atol=1e-4)


def test_images_beyond_white_are_not_clamped(tmp_path):
    data = tiny_data()
    samples = torch.full((2, *data.image_shape), 9.0, requires_grad=True)
    build(vit(tmp_path), data).features(samples).square().sum().backward()
    assert (samples.grad != 0).any(dim=(1, 2, 3)).all()


@pytest.mark.parametrize("backbone", [vit, resnet])
def test_only_the_classifier_is_trained(tmp_path, backbone):
    """Neither dropout nor the statistics of a batch, in training mode as in evaluation."""
    data = tiny_data()
    probe = build(backbone(tmp_path), data)
    before = {name: value.clone() for name, value in probe.state_dict().items()}
    images = torch.randn(5, *data.image_shape)
    features = probe.eval().features(images)
    assert torch.equal(probe.train().features(images), features)
    torch.testing.assert_close(probe.features(images[:1]), features[:1])
    assert probe.training and probe.classifier.training and not any(m.training for m in probe.backbone.modules())
    F.cross_entropy(probe(images), torch.arange(5) % 4).backward()
    assert {name for name, p in probe.named_parameters() if p.grad is not None} == {
        "classifier.weight",
        "classifier.bias",
    }
    for name, value in probe.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_weights_are_decided_by_the_seed_and_the_global_state_stays(tmp_path):
    data = tiny_data()
    vit(tmp_path)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = (build(tmp_path, data, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert isinstance(
        build_feature_network(NetworkArguments(f"probe/{tmp_path}"), (3, 8, 8), 4, 0, data.processor), Probe
    )


def test_the_part_of_clip_that_sees(tmp_path):
    text = {"vocab_size": 9, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vision = SMALL | {"image_size": 12, "patch_size": 4}
    save_backbone(CLIPModel(CLIPConfig(text_config=SMALL | text, vision_config=vision)), tmp_path)
    data = tiny_data(side=12)
    samples = data.processor.normalize(data.test.images)
    model = CLIPModel.from_pretrained(tmp_path).vision_model
    expected = model(pixel_values=(data.test.images / 255 - MEAN) / STD).pooler_output
    torch.testing.assert_close(build(tmp_path, data).features(samples), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"size": {"shortest_edge": 14}, "crop_size": {"height": 12, "width": 12}, "do_center_crop": True}, (12, 12)),
        ({"size": {"shortest_edge": 12}, "crop_size": {"height": 9, "width": 9}}, (12, 12)),
        ({"size": 12}, (12, 12)),
    ],
)
def test_sizes_as_processors_write_them(tmp_path, settings, size):
    assert build(vit(tmp_path, **settings), tiny_data()).backbone.size == size


def test_without_a_normalization_of_its_own_it_takes_pixels(tmp_path):
    backbone = build(vit(tmp_path, do_normalize=False), tiny_data()).backbone
    assert not backbone.own_mean.any() and (backbone.own_std == 1).all()


LISTS = ("depths", "sr_ratios", "strides", "num_attention_heads", "mlp_ratios")


def other_model(model):
    return lambda folder: save_backbone(model, folder)


REFUSALS = {
    "nothing there": (lambda folder: folder / "no" / "such", "There is no backbone .*such: it is neither a folder"),
    "a name of the Hub, offline": (lambda folder: "me/not-there", "There is no backbone me/not-there"),
    "no vision": (other_model(BertModel(BertConfig(vocab_size=9, **SMALL))), "is a bert, which is no vision model"),
    "features by chance": (
        other_model(ViTMAEModel(ViTMAEConfig(image_size=12, patch_size=4, **SMALL))),
        "differ from call to call",
    ),
    "no class token": (
        other_model(
            SegformerModel(
                SegformerConfig(
                    **{name: [1] for name in LISTS}, num_encoder_blocks=1, hidden_sizes=[8], patch_sizes=[3]
                )
            )
        ),
        "neither a pooled output nor a class token",
    ),
    "grey": (lambda folder: vit(folder, channels=1, image_mean=[0.5], image_std=[0.5]), "1 channel.*samples have 3"),
    "another size": (lambda folder: vit(folder, size=16), "does not take images of"),
    "no statistics": (lambda folder: vit(folder, image_mean=None), "does not say which size, image_mean"),
    "no size": (lambda folder: vit(folder, size={}), "does not say which size, image_mean"),
    "pixels to 255": (lambda folder: vit(folder, rescale_factor=1), r"pixels are not in \[0, 1\]"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_no_backbone_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    make, problem = REFUSALS[name]
    with pytest.raises((ValueError, FileNotFoundError), match=problem) as refusal:
        build(make(tmp_path), tiny_data())
    assert "\n" not in str(refusal.value)


def test_missing_weights_and_files_are_refused(tmp_path):
    data = tiny_data()
    for name in ("model.safetensors", "preprocessor_config.json"):
        folder = vit(tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match="There is no backbone"):
            build(folder, data)
    folder = vit(tmp_path / "deeper")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match="lacks weights of its model"):
        build(folder, data)
    shutil.copy(folder / "preprocessor_config.json", folder / "model.safetensors")
    with pytest.raises(ValueError, match="no backbone that transformers can load"):
        build(folder, data)


def test_a_probe_is_of_images_and_of_a_name(tmp_path):
    arguments = NetworkArguments(f"probe/{vit(tmp_path)}")
    with pytest.raises(ValueError, match="these are spectrograms"):
        build_network(arguments, (1, 8, 8), 4, 0, HabaAudioProcessor())
    with pytest.raises(ValueError, match="is a probe, whose backbone needs the processor"):
        build_network(arguments, (3, 8, 8), 4, 0)
    with pytest.raises(ValueError, match="name its folder or Hub id"):
        NetworkArguments("probe/")
    with pytest.raises(ValueError, match="is a network of haba_hf"):
        register_network("probe/mine", lambda shape, labels: None)


def test_what_the_example_saves_is_a_backbone(tmp_path):
    """`HabaImageProcessor` writes what a backbone's own space is read from."""
    model = ResNetModel.from_pretrained(resnet(tmp_path))
    model.save_pretrained(tmp_path)
    HabaImageProcessor(size={"height": 9, "width": 11}, **STATISTICS).save_pretrained(tmp_path)
    backbone = build(tmp_path, tiny_data()).backbone
    assert backbone.size == (9, 11) and torch.equal(backbone.own_mean, MEAN) and torch.equal(backbone.own_std, STD)
    assert type(AutoModel.from_pretrained(tmp_path)) is type(backbone.model)
