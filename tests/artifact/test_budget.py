import pytest

from budget_configs import CIFAR10, CIFAR100, IMAGENET10, MNIST, SPEECH, make_config
from haba_hf import HabaModel
from haba_hf.artifact.budget import (
    affordable_bases_per_class,
    check_budget,
    describe_real_images,
    describe_storage,
    describe_training_set,
    equal_bytes_images_per_class,
    equal_storage_images_per_class,
    same_storage_config,
)
from naive_artifact import make_model


@pytest.mark.parametrize(
    ("shape", "bases_per_class", "floats", "ratio_to_one_image", "equal"),
    [
        (MNIST, 1, 15_780, 2.01, 2),
        (MNIST, 9, 78_500, 10.01, 10),
        (CIFAR10, 1, 62_280, 2.03, 2),
        (CIFAR10, 9, 308_040, 10.03, 10),
        (CIFAR10, 49, 1_536_840, 50.03, 50),
        (CIFAR100, 1, 338_760, 1.10, 1),
        (IMAGENET10, 1, 983_880, 2.00, 2),
        (SPEECH, 1, 73_828, 2.25, 2),
    ],
)
def test_the_papers_budgets(shape, bases_per_class, floats, ratio_to_one_image, equal):
    config = make_config(shape, bases_per_class)
    report = HabaModel(config).storage()
    assert report.parts["bases"] + report.parts["hallucinators"] == floats
    assert report.floats == floats + 1  # the learned student learning rate
    assert report.images_per_class == pytest.approx(ratio_to_one_image, abs=0.005)
    assert equal_storage_images_per_class(config) == equal


@pytest.mark.parametrize("images_per_class", [1, 2, 10])
def test_plain_pixels_equal_themselves(images_per_class):
    config = make_config(CIFAR10, images_per_class, num_hallucinators=0)
    assert equal_storage_images_per_class(config) == images_per_class
    assert affordable_bases_per_class(config, images_per_class) == images_per_class


def test_equal_storage_is_at_least_one_image():
    config = make_config(CIFAR10, 1, num_hallucinators=1, hallucinator_depth=2, basis_channels=1)
    assert HabaModel(config).storage().images_per_class < 1
    assert equal_storage_images_per_class(config) == 1


def test_soft_labels_are_storage():
    hard, soft = (make_config(CIFAR100, 30, label_kind=kind, num_hallucinators=0) for kind in ("hard", "soft"))
    assert HabaModel(soft).storage().floats - HabaModel(hard).storage().floats == 30 * 100 * 100
    assert equal_storage_images_per_class(soft) == 30  # 0.98 of an image more
    assert affordable_bases_per_class(soft, 31) == 30


@pytest.mark.parametrize(("dtype", "label_bytes"), [("float32", 4), ("int8", 2)])
def test_soft_labels_of_what_is_compared_are_storage_too(dtype, label_bytes):
    """Fashion-MNIST at the floats of one image per class: 12 bases of 64 frequencies, or 10 of them with labels."""
    stored = {"num_hallucinators": 0, "basis_storage": "frequencies", "basis_frequencies": 64, "storage_dtype": dtype}
    scales = 1 if dtype == "int8" else 0
    hard, soft = (make_config(MNIST, label_kind=kind, **stored) for kind in ("hard", "soft"))
    assert affordable_bases_per_class(hard, 1) == 7840 // (10 * (64 + scales))
    assert affordable_bases_per_class(soft, 1) == 7840 // (10 * (64 + 10 + scales)) == 10
    artifact = make_config(MNIST, 30, label_kind="soft", **stored)
    assert artifact.num_floats == 30 * 10 * (64 + 10 + scales) + 1
    assert artifact.num_bytes == 30 * 10 * (64 * (4 if dtype == "float32" else 1) + 4 * scales + 10 * label_bytes) + 4

    # Plain images of 28 x 28: of floats, and of bytes one a pixel.
    assert equal_storage_images_per_class(artifact) == (artifact.num_floats - 1) // 7840
    assert equal_storage_images_per_class(artifact, "soft") == (artifact.num_floats - 1) // (10 * (784 + 10))
    assert equal_bytes_images_per_class(artifact) == artifact.num_bytes // 7840
    most = equal_bytes_images_per_class(artifact, 1, "soft")
    figures = describe_real_images(10 * most, 60_000, (1, 28, 28), 10, 1, label_bytes)
    assert figures.bytes == most * 10 * (784 + 10 * label_bytes) <= artifact.num_bytes
    assert figures.bytes + 10 * (784 + 10 * label_bytes) > artifact.num_bytes, "one more is too many"
    assert figures.floats == most * 10 * (784 + 10)
    assert figures.images_per_class == pytest.approx(most * 794 / 784)
    assert (figures.ratio, figures.bytes_ratio) == (figures.floats / 47_040_000, figures.bytes / 47_040_000)

    alike = same_storage_config(artifact, 6000, "soft")
    assert (alike.bases_per_class, alike.num_floats) == (30, artifact.num_floats)
    with_hard = same_storage_config(artifact, 6000)
    assert with_hard.num_floats <= artifact.num_floats < with_hard.num_floats + 10 * (64 + scales)


@pytest.mark.parametrize(
    ("budget", "depth", "num_hallucinators", "basis_channels", "expected"),
    [
        (2, 1, 2, 1, 4.78),
        (2, 1, 2, 3, 1.59),
        (2, 1, 5, 1, 2.94),
        (2, 2, 2, 1, 3.89),
        (2, 2, 2, 3, 1.29),
        (11, 1, 2, 1, 31.8),
        (11, 1, 2, 3, 10.6),
        (11, 1, 5, 3, 9.97),
        (11, 2, 5, 3, 9.2),
        (51, 1, 5, 1, 149.9),
        (51, 1, 5, 3, 49.97),
        (51, 2, 5, 3, 49.2),
    ],
)
def test_the_budget_planner(budget, depth, num_hallucinators, basis_channels, expected):
    """The grid of supplementary Figure 1: the bases per class that each budget has room for."""
    config = make_config(
        CIFAR10,
        bases_per_class=7,
        hallucinator_depth=depth,
        num_hallucinators=num_hallucinators,
        basis_channels=basis_channels,
    )
    planned = affordable_bases_per_class(config, budget)
    assert planned == int(expected)
    largest = make_config(
        CIFAR10,
        bases_per_class=planned,
        hallucinator_depth=depth,
        num_hallucinators=num_hallucinators,
        basis_channels=basis_channels,
    )
    assert largest.num_floats - 1 <= budget * 30_720


@pytest.mark.parametrize(("depth", "basis_channels"), [(1, 3), (2, 1), (2, 3)])
def test_a_budget_that_hallucinators_alone_exceed(depth, basis_channels):
    config = make_config(CIFAR10, hallucinator_depth=depth, basis_channels=basis_channels)
    with pytest.raises(ValueError, match="lower num_hallucinators"):
        affordable_bases_per_class(config, 2)


def test_a_fraction_of_an_image_is_a_budget():
    config = make_config(CIFAR10, num_hallucinators=1, hallucinator_depth=2, basis_channels=1)
    # One hallucinator takes 10,819 floats and a grey basis per class 10,240: 0.6856 of a color image per class.
    check_budget(config, 0.686)
    with pytest.raises(ValueError, match=r"0\.685 images per class pay for 21,043 floats"):
        check_budget(config, 0.685)


def test_the_refusal_says_what_fits():
    with pytest.raises(
        ValueError,
        match=r"9 bases per class with 5 hallucinators take 1 times the storage budget of 10 images per class "
        r"\(308,041 of 307,201 floats\): lower bases_per_class to 8, or raise storage_budget",
    ):
        check_budget(make_config(CIFAR10, 9), 10)
    check_budget(make_config(CIFAR10, 8), 10)
    check_budget(make_config(CIFAR10, 10, num_hallucinators=0), 10)
    for budget in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="a positive number of images per class"):
            check_budget(make_config(CIFAR10), budget)


def test_figures_beside_the_training_set():
    # Fashion-MNIST at 1 basis per class: the paper prints a ratio of 0.034 %.
    model = HabaModel(make_config(MNIST))
    figures = describe_storage(model.storage(), 60_000, (1, 28, 28))
    assert (figures.floats, figures.bytes) == (15_781, 63_124)
    assert figures.ratio == pytest.approx(0.00034, rel=0.02)
    assert figures.bytes_ratio == pytest.approx(4 * figures.ratio)
    assert (figures.floats, figures.bytes) == (15_781, 63_124)

    real = describe_training_set(60_000, (1, 28, 28), 10)
    assert (real.floats, real.bytes, real.images_per_class) == (47_040_000, 47_040_000, 6_000)
    assert real.ratio == real.bytes_ratio == 1

    with pytest.raises(ValueError, match="at least one image"):
        describe_storage(model.storage(), 0, (1, 28, 28))


def test_storage_report():
    report = make_model(label_kind="soft", sample_height=8, sample_width=8).storage()
    hallucinators = 3 * (2 * 3 * 64 + 84 + 84)
    assert report.parts == {
        "bases": 6 * 3 * 64,
        "hallucinators": hallucinators,
        "labels": 6 * 3,
        "student_learning_rate": 1,
    }
    assert report.floats == 6 * 192 + hallucinators + 18 + 1
    assert report.bytes == 4 * report.floats
    assert report.images_per_class == pytest.approx(report.floats / (3 * 192))


def test_plain_pixels_store_nothing_else():
    report = make_model(num_hallucinators=0, share_encoder_decoder=True).storage()
    assert report.parts == {"bases": 6 * 210, "hallucinators": 0, "labels": 0, "student_learning_rate": 1}
    assert report.images_per_class == pytest.approx(2, abs=0.01)
