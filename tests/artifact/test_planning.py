import itertools

import pytest

from budget_configs import CIFAR10, MNIST, SPEECH, make_config
from haba_hf import HabaConfig, HabaModel
from haba_hf.artifact.budget import check_budget, describe_basis, storage_of
from haba_hf.artifact.planning import PLAIN, measured_layout, plan_storage, storage_layouts


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
        ({"max_bytes": 4000, "num_hallucinators": [-1]}, "num_hallucinators must be 0"),
        ({"images_per_class": 2, "depths": [4]}, "hallucinator_depth must be 0, 1, 2 or 3"),
    ],
)
def test_plans_that_make_no_sense(settings, problem):
    with pytest.raises(ValueError, match=problem):
        plan_storage(10, (3, 32, 32), **settings)


def test_every_way_of_storing_fits_its_budget_and_decodes_what_it_says():
    for shape in ((3, 32, 32), (1, 28, 28), (1, 64, 64), (3, 9, 7)):
        plans = plan_storage(
            10,
            shape,
            images_per_class=2,
            layouts=storage_layouts(shape),
            num_hallucinators=(0, 5),
            depths=(1,),
            map_sizes=(None, 1),
            share_encoder_decoder=(False,),
        )
        assert len({str(plan.config.to_diff_dict()) for plan in plans}) == len(plans) > 10
        for plan in plans:
            model = HabaModel(plan.config)
            assert (plan.floats, plan.bytes) == (model.storage().floats, model.storage().bytes)
            assert storage_of(plan.config) == model.storage()
            assert plan.budget_share <= 1
            assert plan.config.samples_per_class == len(model.materialize().samples) // 10
        names = {describe_basis(plan.config) for plan in plans}
        assert any("frequencies" in name for name in names)
        assert any("luma" in name for name in names) == (shape[0] == 3)
    assert PLAIN in storage_layouts((3, 32, 32)) and {"formation_factor": 2} not in storage_layouts((3, 9, 7))
    for shape, images in itertools.product(((3, 32, 32), (1, 28, 28), (3, 9, 7), (1, 1, 2)), (1, 9.9, 10)):
        layout = measured_layout(shape, images)
        HabaConfig(sample_channels=shape[0], sample_height=shape[1], sample_width=shape[2], **layout)
        assert ("basis_frequencies" in layout) == (images < 10)


def test_fewer_bits_pay_for_more_bases():
    def samples(dtype):
        layouts = [{"basis_storage": "frequencies", "basis_frequencies": 64}]
        grid = {"layouts": layouts, "num_hallucinators": [0], "basis_channels": [3], "storage_dtype": dtype}
        (plan,) = plan_storage(10, (3, 32, 32), max_bytes=30_720, **grid)
        assert plan.bytes <= 30_720 and plan.budget_share == plan.bytes / 30_720
        return plan.config.samples_per_class

    assert [samples(dtype) for dtype in ("float32", "bfloat16", "int8")] == [7, 15, 28]
