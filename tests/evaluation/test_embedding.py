import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.manifold import TSNE

from haba_hf.evaluation import REAL, Embedding, embed_samples
from haba_hf.hub import plot_embedding
from haba_hf.networks import NetworkArguments, build_feature_network
from haba_hf.utils.seeds import seeded_generator
from tiny import tiny_data, tiny_model


def make_teacher(data):
    arguments = NetworkArguments(network_depth=2, network_width=4)
    return build_feature_network(arguments, data.image_shape, data.num_labels, seed=0)


def embed(model, data, classes=(0,), images=20, perplexity=5.0, seed=0, teacher=None):
    return embed_samples(model, data, teacher or make_teacher(data), classes, images, perplexity, seed)


def test_real_images_come_first_and_then_the_samples():
    data = tiny_data(images_per_class=30)
    model = tiny_model(data)
    embedding = embed(model, data, classes=(2, 0), images=10)
    samples = 2 * 2 * 3  # classes, bases and hallucinators
    assert embedding.points.shape == (20 + samples, 2) and embedding.points.isfinite().all()
    assert embedding.labels.tolist() == [2] * 10 + [0] * 10 + [0] * 6 + [2] * 6
    assert embedding.sources.tolist() == [REAL] * 20 + [0, 1, 2] * 4


def test_the_points_are_scikit_learns_tsne_of_the_teachers_features():
    data = tiny_data(images_per_class=12)
    model, teacher = tiny_model(data), make_teacher(data).train()
    embedding = embed(model, data, classes=(1,), images=50, teacher=teacher, seed=3)
    assert teacher.training
    real = data.train.images[data.train.of_class(1)]
    assert len(embedding.points) == 12 + 6  # all twelve, as there are no fifty
    order = torch.randperm(12, generator=seeded_generator(3))  # as the real images are drawn
    with torch.no_grad():  # in one batch of the same order: t-SNE makes much of the last bit
        output = model()
        inside = output.labels == 1
        features = teacher.eval().features(torch.cat([data.processor.normalize(real[order]), output.samples[inside]]))
    expected = TSNE(perplexity=5.0, init="pca", random_state=3)
    assert embedding.points.numpy() == pytest.approx(expected.fit_transform(features.numpy()), abs=1e-3)


def test_near_features_stay_near():
    """Two groups that the teacher keeps far apart, here by brightness, do not mix in the plane."""
    data = tiny_data(images_per_class=25, num_labels=2)
    embedding = embed(tiny_model(data, num_hallucinators=0), data, classes=(0, 1), images=25)
    real = embedding.sources == REAL
    centers = [embedding.points[real & (embedding.labels == label)].mean(dim=0) for label in (0, 1)]
    spreads = [embedding.points[real & (embedding.labels == label)].std(dim=0).norm() for label in (0, 1)]
    assert (centers[0] - centers[1]).norm() > max(spreads)


def test_the_seed_decides():
    data = tiny_data(images_per_class=30)
    model = tiny_model(data)
    first = embed(model, data, images=15)
    assert torch.equal(embed(model, data, images=15).points, first.points)
    assert not torch.equal(embed(model, data, images=15, seed=1).points, first.points)


def test_plain_pixels_have_one_source():
    data = tiny_data(images_per_class=10)
    embedding = embed(tiny_model(data, num_hallucinators=0), data, images=10)
    assert embedding.sources.tolist() == [REAL] * 10 + [0] * 2


def test_what_cannot_be_embedded_is_refused():
    data = tiny_data()
    model = tiny_model(data)
    with pytest.raises(ValueError, match="no class 4: embedded_classes are numbers from 0 to 3"):
        embed(model, data, classes=(0, 4))
    with pytest.raises(ValueError, match="t-SNE of 12 points needs a perplexity below that, got 30"):
        embed(model, data, perplexity=30.0)


def test_the_picture(tmp_path):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    sources = torch.arange(60) % 4 - 1
    embedding = Embedding(torch.randn(60, 2, generator=generator), labels, sources)
    plot_embedding(embedding, ["$ {x", "b"], tmp_path / "one.png")
    picture = np.asarray(Image.open(tmp_path / "one.png").convert("RGB"))
    assert picture.shape == (500, 650, 3)
    for color in ((31, 119, 180), (255, 127, 14)):  # the classes
        assert (picture == color).all(axis=2).sum() > 20
    pale = 255 - 0.35 * (255 - np.array([31, 119, 180]))  # its only real images are of the first class
    assert (np.abs(picture - pale) < 2).all(axis=2).sum() > 20
    assert list(tmp_path.iterdir()) == [tmp_path / "one.png"]
