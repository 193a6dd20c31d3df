import pytest
import torch
from tiny import tiny_data

from haba_hf.distillation import ModelArguments, initial_model


def rows_of(model, data):
    """For each basis the training images it equals."""
    images = data.processor.normalize(data.train.images)
    if model.bases.shape[1] != images.shape[1]:
        images = images.mean(dim=1, keepdim=True).expand(-1, model.bases.shape[1], -1, -1)
    return [[row for row, image in enumerate(images) if torch.equal(image, basis)] for basis in model.bases]


@pytest.mark.parametrize(
    ("channels", "basis_channels"),
    [(1, None), (3, None), (3, 1), (1, 3)],
    ids=["grey", "RGB", "RGB to grey", "widened"],
)
def test_bases_are_images_of_their_class(channels, basis_channels):
    data = tiny_data(channels)
    model = initial_model(ModelArguments(bases_per_class=3, basis_channels=basis_channels), data, seed=0)
    rows = rows_of(model, data)
    assert [len(found) for found in rows] == [1] * 12
    chosen = [row for (row,) in rows]
    assert len(set(chosen)) == 12
    assert data.train.labels[chosen].tolist() == model.class_ids.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


def test_seed_decides_and_the_global_state_does_not():
    data = tiny_data()
    arguments = ModelArguments(bases_per_class=2, label_kind="soft")
    torch.manual_seed(1)
    first = initial_model(arguments, data, seed=7).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = initial_model(arguments, data, seed=7).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    other = initial_model(arguments, data, seed=8).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["bases"], other["bases"])
    weight = "hallucinators.0.decoder.convolutions.0.weight"
    assert not torch.equal(first[weight], other[weight])
    assert not torch.equal(first[weight], first[weight.replace("0", "1", 1)])


def test_noise():
    data = tiny_data(images_per_class=1)
    model = initial_model(ModelArguments(bases_per_class=30, basis_init="noise"), data, seed=0)
    assert model.bases.mean().item() == pytest.approx(0, abs=0.05)
    assert model.bases.std().item() == pytest.approx(1, abs=0.05)


def test_sizes_reach_the_config():
    data = tiny_data(3)
    arguments = ModelArguments(
        bases_per_class=2,
        num_hallucinators=4,
        hallucinator_depth=2,
        hallucinator_channels=5,
        share_encoder_decoder=True,
        basis_channels=1,
        label_kind="soft",
        student_learning_rate=0.25,
        num_step_sizes=6,
    )
    config = initial_model(arguments, data, seed=0).config
    for name in vars(arguments).keys() - {"basis_init", "label_init"}:
        assert vars(config)[name] == vars(arguments)[name]
    assert config.sample_shape == (3, 8, 8)
    assert config.id2label == {0: "class 0", 1: "class 1", 2: "class 2", 3: "class 3"}
    assert config.label2id == {"class 0": 0, "class 1": 1, "class 2": 2, "class 3": 3}


def test_uniform_labels():
    data = tiny_data()
    uniform = initial_model(ModelArguments(label_kind="soft", label_init="uniform"), data, seed=0)
    assert torch.equal(uniform.labels, torch.full((4, 4), 0.25))
    assert initial_model(ModelArguments(label_kind="soft"), data, seed=0).labels.diagonal().min() > 0.89


def test_plain_pixels():
    data = tiny_data()
    model = initial_model(ModelArguments(bases_per_class=2, num_hallucinators=0), data, seed=0)
    assert torch.equal(model.materialize().samples, model.bases)


def test_identity_start_restores_real_images():
    data = tiny_data()
    model = initial_model(ModelArguments(hallucinator_init="identity"), data, seed=0)
    output = model.materialize()
    error = (output.samples - model.bases[output.basis_ids]).abs().mean()
    assert 0 < error < 0.5 * model.bases.std()


def test_fewer_images_than_bases():
    data = tiny_data(images_per_class=3)
    with pytest.raises(ValueError, match=r"Class 'class 0' has 3 training images, fewer than the 4 asked for: lower"):
        initial_model(ModelArguments(bases_per_class=4), data, seed=0)
