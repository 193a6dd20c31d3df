import itertools

import pytest

from haba_hf import HabaConfig, HabaModel
from haba_hf.artifact.budget import (
    affordable_bases_per_class,
    check_budget,
    describe_storage,
    describe_training_set,
    equal_storage_images_per_class,
    plan_storage,
)
from naive_artifact import make_model

# (num_labels, C, H, W)
MNIST, CIFAR10, CIFAR100 = (10, 1, 28, 28), (10, 3, 32, 32), (100, 3, 32, 32)
IMAGENET10, SPEECH = (10, 3, 128, 128), (8, 1, 64, 64)


def make_config(shape, bases_per_class=1, **kwargs):
    num_labels, channels, height, width = shape
    return HabaConfig(
        num_labels=num_labels,
        bases_per_class=bases_per_class,
        sample_channels=channels,
        sample_height=height,
        sample_width=width,
        **kwargs,
    )


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


@pytest.mark.parametrize(
    ("shape", "bases_per_class", "budget", "times"),
    [
        (CIFAR10, 1, 1, 2.03),
        (MNIST, 1, 1, 2.01),
        (CIFAR10, 9, 10, 1.003),
        (CIFAR10, 49, 50, 1.0005),
        (SPEECH, 1, 1, 2.25),
    ],
)
def test_the_papers_rows_exceed_their_budget(shape, bases_per_class, budget, times):
    """5 hallucinators and one basis fewer per class, or 1, are set against 1, 10 and 50 images per class."""
    config = make_config(shape, bases_per_class)
    with pytest.raises(ValueError, match=f"images per class.*raise the budget|lower bases_per_class to {budget - 2}"):
        check_budget(config, budget)
    check_budget(config, budget * times * 1.01)
    (plan,) = plan_storage(
        shape[0],
        shape[1:],
        images_per_class=budget,
        depths=[1],
        num_hallucinators=[5],
        basis_channels=[shape[1]],
        share_encoder_decoder=[False],
        strict=False,
    )
    assert plan.config.bases_per_class == bases_per_class
    assert plan.budget_share == pytest.approx(times, rel=0.003)
    assert plan.budget_share > 1


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


def test_the_plan_of_supplementary_figure_1():
    """Depth x hallucinators x basis channels at the storage of 2, 11 and 51 images per class of CIFAR-10."""
    expected = {
        2: {(1, 2, 1): 4, (1, 2, 3): 1, (1, 5, 1): 2, (2, 2, 1): 3, (2, 2, 3): 1},
        11: {(1, 2, 1): 31, (1, 2, 3): 10, (1, 5, 1): 29, (1, 5, 3): 9}
        | {(2, 2, 1): 30, (2, 2, 3): 10, (2, 5, 1): 27, (2, 5, 3): 9},
        51: {(1, 2, 1): 151, (1, 2, 3): 50, (1, 5, 1): 149, (1, 5, 3): 49}
        | {(2, 2, 1): 150, (2, 2, 3): 50, (2, 5, 1): 147, (2, 5, 3): 49},
    }
    for budget, grid in expected.items():
        plans = plan_storage(10, (3, 32, 32), images_per_class=budget, share_encoder_decoder=[False])
        found = {
            (plan.config.hallucinator_depth, plan.config.num_hallucinators, plan.config.basis_channels): plan
            for plan in plans
        }
        assert {key: plan.config.bases_per_class for key, plan in found.items()} == grid
        for plan in plans:
            report = HabaModel(plan.config).storage()
            assert (plan.floats, plan.bytes) == (report.floats, report.bytes)
            assert plan.images_per_class == pytest.approx(report.images_per_class)
            assert plan.budget_share == pytest.approx(report.floats / (budget * 30_720), rel=1e-4)
            assert plan.budget_share <= 1
            check_budget(plan.config, budget)
            with pytest.raises(ValueError, match="lower bases_per_class"):
                plan.config.bases_per_class += 1
                check_budget(plan.config, budget)


def test_plans_are_sorted_and_sharing_makes_room():
    plans = plan_storage(10, (3, 32, 32), images_per_class=2, depths=(0, 1, 2, 3), num_hallucinators=(2, 5))
    samples = [plan.config.num_samples for plan in plans]
    assert samples == sorted(samples, reverse=True)
    equal = [(a, b) for a, b in itertools.pairwise(plans) if a.config.num_samples == b.config.num_samples]
    assert equal and all(a.floats <= b.floats for a, b in equal)
    settings = {
        (
            plan.config.hallucinator_depth,
            plan.config.num_hallucinators,
            plan.config.basis_channels,
            plan.config.share_encoder_decoder,
        ): plan.config.bases_per_class
        for plan in plans
    }
    assert len(settings) == len(plans), "no row twice"
    assert {key for key in settings if key[0] == 0} == {(0, 2, 3, False), (0, 5, 3, False)}, "nothing to share"
    assert (2, 5, 1, False) not in settings, "0.72 bases fit"
    assert settings[2, 5, 1, True] == 1, "5 x 8,192 + 2,627 floats of 61,440 leave room for 1.74"


def test_a_budget_in_bytes_pays_for_every_float():
    grid = {"depths": [1], "num_hallucinators": [5], "basis_channels": [1], "share_encoder_decoder": [False]}
    (plan,) = plan_storage(10, (1, 28, 28), max_bytes=63_124, **grid)
    assert plan.config.bases_per_class == 1
    assert (plan.floats, plan.bytes, plan.budget_share) == (15_781, 63_124, 1)
    assert plan_storage(10, (1, 28, 28), max_bytes=63_123, **grid) == []
    (over,) = plan_storage(10, (1, 28, 28), max_bytes=40_000, strict=False, **grid)
    assert over.config.bases_per_class == 1 and over.budget_share == pytest.approx(1.5781)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "either as images_per_class or as max_bytes"),
        ({"images_per_class": 1, "max_bytes": 4}, "either as images_per_class or as max_bytes"),
        ({"images_per_class": 0}, "positive number of images"),
        ({"max_bytes": 3}, "got 3 bytes"),
        ({"max_bytes": 4000, "num_hallucinators": [0]}, "at least one hallucinator"),
        ({"images_per_class": 2, "depths": [4]}, "hallucinator_depth must be 0, 1, 2 or 3"),
    ],
)
def test_plans_that_make_no_sense(settings, problem):
    with pytest.raises(ValueError, match=problem):
        plan_storage(10, (3, 32, 32), **settings)


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
