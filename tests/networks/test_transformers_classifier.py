import pytest
import torch
from torch.nn import functional as F
from transformers import ViTForImageClassification

from haba_hf.networks import FeatureNetwork, NetworkArguments, TransformersClassifier, build_network


def build(model_type, shape=(3, 32, 32), num_labels=10, seed=0):
    return build_network(NetworkArguments(f"transformers/{model_type}"), shape, num_labels, seed)


def parameters_of(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("model_type", "shape"),
    [("resnet", (3, 32, 32)), ("resnet", (1, 8, 8))]
    + [(name, shape) for name in ("vit", "convnext") for shape in ((3, 32, 32), (1, 28, 28), (1, 8, 8), (3, 30, 36))],
)
def test_shapes_and_gradients(model_type, shape):
    network = build(model_type, shape, num_labels=6)
    assert isinstance(network, TransformersClassifier) and not isinstance(network, FeatureNetwork)
    assert network.training and network.model.training
    images = torch.randn(3, *shape, requires_grad=True)
    logits = network(images)
    assert logits.shape == (3, 6)
    F.cross_entropy(logits, torch.tensor([0, 5, 2])).backward()
    assert images.grad.abs().max() > 0


def test_sizes():
    # ResNet18 with a 7x7 stem: 9,408 + 128 for the stem, the stages and the classifier as in ResNet18.
    stages = parameters_of(build_network(NetworkArguments("resnet18"), (3, 32, 32), 10, 0)) - (3 * 64 * 9 + 128)
    assert parameters_of(build("resnet")) == 3 * 64 * 49 + 128 + stages
    width, hidden, patch, tokens = 128, 256, 4, 8 * 8 + 1
    layer = 4 * (width * width + width) + (width * hidden + hidden) + (hidden * width + width) + 4 * width
    embeddings = 3 * patch**2 * width + width + tokens * width + width
    assert parameters_of(build("vit")) == 6 * layer + embeddings + 2 * width + width * 10 + 10


def test_the_wrapped_model_is_transformers_own():
    network = build("vit")
    assert isinstance(network.model, ViTForImageClassification)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network(images), network.model(pixel_values=images).logits)


@pytest.mark.parametrize(("shape", "patch"), [((3, 32, 32), 4), ((1, 28, 28), 4), ((3, 64, 64), 8), ((3, 30, 36), 3)])
def test_patches_cover_the_whole_image(shape, patch):
    network = build("vit", shape)
    assert network.model.config.patch_size == patch
    images = torch.zeros(1, *shape, requires_grad=True)
    network(images).square().sum().backward()
    assert (images.grad.abs().amax(dim=(0, 1)) > 0).all()


def test_the_seed_decides_the_weights_and_nothing_else_is_random():
    def weights(seed):
        return torch.cat([p.detach().flatten() for p in build("vit", (1, 8, 8), seed=seed).parameters()])

    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert torch.equal(weights(3), weights(3)) and not torch.equal(weights(3), weights(4))
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_is_off():
    """MobileNetV2's classifier has dropout by default."""
    network = build("mobilenet_v2", (3, 16, 16), num_labels=3)
    assert not any(module.p for module in network.modules() if isinstance(module, torch.nn.Dropout))
    images = torch.randn(4, 3, 16, 16)
    assert torch.equal(network(images), network(images))


def test_unknown_model_types_are_refused_with_near_ones():
    with pytest.raises(ValueError, match=r"no image classifier 'convnet'; did you mean .*convnext"):
        NetworkArguments("transformers/convnet")
    with pytest.raises(ValueError, match=r"no image classifier 'bert'; did you mean"):
        NetworkArguments("transformers/bert")


def test_images_that_do_not_fit_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"transformers/convnext does not classify 3x4x4 images .* resize the images"):
        build("convnext", (3, 4, 4))
