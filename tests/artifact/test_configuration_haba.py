import itertools
import tracemalloc

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig

from haba_hf import HabaConfig, HabaModel


def hallucinator_floats(**kwargs):
    """Floats that one more hallucinator costs."""
    one, two = (HabaConfig(num_hallucinators=count, **kwargs).num_floats for count in (1, 2))
    return two - one


# The counts that the paper prints (depth and channels of its ablations), and those that follow from its formula.
@pytest.mark.parametrize(
    ("expected", "kwargs"),
    [
        (6_144, {"hallucinator_depth": 0}),
        (6_312, {"hallucinator_depth": 1}),
        (6_312, {"hallucinator_channels": 3}),
        (10_963, {"hallucinator_depth": 2}),
        (16_131, {"hallucinator_depth": 3}),
        (16_827, {"hallucinator_channels": 8}),
        (33_651, {"hallucinator_channels": 16}),
        (6_258, {"basis_channels": 1}),
        (10_819, {"basis_channels": 1, "hallucinator_depth": 2}),
        (1_588, {"sample_channels": 1, "sample_height": 28, "sample_width": 28}),
        (98_472, {"sample_height": 128, "sample_width": 128}),
        (8_212, {"sample_channels": 1, "sample_height": 64, "sample_width": 64}),
    ],
)
def test_published_hallucinator_sizes(expected, kwargs):
    assert hallucinator_floats(**kwargs) == expected
    hallucinator = HabaModel(HabaConfig(num_hallucinators=1, **kwargs)).hallucinators[0]
    assert sum(parameter.numel() for parameter in hallucinator.parameters()) == expected


@pytest.mark.parametrize("num_hallucinators", [1, 2, 5])
def test_shared_convolutions_cost_168_floats_once(num_hallucinators):
    config = HabaConfig(num_hallucinators=num_hallucinators, share_encoder_decoder=True)
    expected = num_hallucinators * 6_144 + 168
    assert HabaModel(config).storage().parts["hallucinators"] == expected
    assert config.num_floats == config.num_bases * 3_072 + expected + 1


# Floats of BPC bases per class and 5 hallucinators against plain images per class, from the paper's data sets.
@pytest.mark.parametrize(
    ("num_labels", "channels", "side", "bases_per_class", "expected"),
    [
        (10, 1, 28, 9, 78_500),
        (10, 3, 32, 9, 308_040),
        (10, 3, 128, 1, 491_520 + 492_360),
        (8, 1, 64, 1, 32_768 + 41_060),
    ],
)
def test_published_budgets(num_labels, channels, side, bases_per_class, expected):
    config = HabaConfig(
        num_labels=num_labels,
        bases_per_class=bases_per_class,
        sample_channels=channels,
        sample_height=side,
        sample_width=side,
    )
    assert config.num_floats - 1 == expected  # the paper leaves the student learning rate out


GRID = list(
    itertools.product(
        [0, 1, 3],  # hallucinators
        [0, 1, 2, 3],  # depth
        [None, 5],  # channels
        [False, True],  # shared
        [None, 1],  # basis channels
        ["hard", "soft"],
    )
)


def test_num_floats_is_what_the_model_holds():
    checked = 0
    for count, depth, channels, shared, basis_channels, label_kind in GRID:
        if basis_channels == 1 and (count == 0 or depth == 0):
            continue
        config = HabaConfig(
            num_labels=3,
            bases_per_class=2,
            num_hallucinators=count,
            hallucinator_depth=depth,
            hallucinator_channels=channels,
            share_encoder_decoder=shared,
            basis_channels=basis_channels,
            sample_height=7,
            sample_width=10,
            label_kind=label_kind,
        )
        model = HabaModel(config)
        assert config.num_floats == model.storage().floats, config
        assert config.num_floats == sum(parameter.numel() for parameter in model.parameters()), config
        checked += 1
    assert checked > 100


def test_derived_sizes():
    config = HabaConfig(
        num_labels=3, bases_per_class=4, num_hallucinators=2, hallucinator_depth=3, sample_height=9, sample_width=14
    )
    assert config.num_bases == 12
    assert config.num_samples == 24
    assert config.sample_shape == config.basis_shape == (3, 9, 14)
    assert config.feature_channels == [8, 16, 32]
    assert config.feature_shape == (32, 3, 4)  # 9 -> 5 -> 3 and 14 -> 7 -> 4
    assert HabaConfig(num_labels=3, bases_per_class=4, num_hallucinators=0).num_samples == 12
    assert HabaConfig(basis_channels=1).basis_shape == (1, 32, 32)


@pytest.mark.parametrize(
    ("axes", "factor", "grid"), [("both", 1, (1, 1)), ("both", 3, (3, 3)), ("time", 1, (1, 1)), ("time", 3, (1, 3))]
)
def test_formations_store_nothing(axes, factor, grid):
    sizes = {"num_labels": 3, "bases_per_class": 2, "num_hallucinators": 4, "sample_height": 9, "sample_width": 6}
    config = HabaConfig(**sizes, formation_factor=factor, formation_axes=axes)
    assert config.formation_grid == grid
    assert config.num_formations == grid[0] * grid[1]
    assert config.num_samples == 3 * 2 * 4 * config.num_formations
    assert config.num_floats == HabaConfig(**sizes).num_floats == HabaModel(config).storage().floats


def test_defaults_are_the_papers():
    config = HabaConfig()
    assert (config.num_hallucinators, config.hallucinator_depth, config.feature_channels) == (5, 1, [3])
    assert HabaConfig(sample_channels=1).feature_channels == [1]


def test_saved_and_loaded(tmp_path):
    config = HabaConfig(
        id2label={0: "cat", 1: "dog"},
        label2id={"cat": 0, "dog": 1},
        bases_per_class=3,
        hallucinator_depth=2,
        basis_channels=1,
        label_kind="soft",
        student_learning_rate=1,
    )
    config.save_pretrained(tmp_path)
    for loaded in (HabaConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is HabaConfig
        assert loaded.to_diff_dict() == config.to_diff_dict()
        assert loaded.id2label == {0: "cat", 1: "dog"}
        assert (loaded.num_labels, loaded.num_floats) == (2, config.num_floats)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_labels": 0}, "num_labels must be at least 1"),
        ({"num_labels": -3}, "num_labels must be at least 1"),
        ({"bases_per_class": 0}, "bases_per_class must be at least 1, got 0"),
        ({"sample_channels": 0}, "sample_channels must be at least 1"),
        ({"sample_height": -1}, "sample_height must be at least 1, got -1"),
        ({"sample_width": 0}, "sample_width must be at least 1"),
        ({"num_hallucinators": -1}, "num_hallucinators must be 0 .bases alone. or more, got -1"),
        ({"hallucinator_depth": 4}, "hallucinator_depth must be 0, 1, 2 or 3, got 4"),
        ({"hallucinator_depth": -1}, "hallucinator_depth must be 0, 1, 2 or 3, got -1"),
        ({"hallucinator_channels": 0}, "hallucinator_channels must be at least 1 or left out"),
        ({"basis_channels": 0}, "basis_channels must be at least 1 or left out"),
        ({"basis_channels": 1, "hallucinator_depth": 0}, "set hallucinator_depth or leave basis_channels out"),
        ({"basis_channels": 1, "num_hallucinators": 0}, "set hallucinator_depth or leave basis_channels out"),
        ({"bases_per_class": 10**6}, "asks for 6,144,.* floats, more than the 1,073,741,824"),
        ({"formation_factor": 0}, "formation_factor must be at least 1, got 0"),
        ({"formation_factor": 3}, r"32x32 cannot be cut into 3x3 equal tiles: choose a formation_factor that divides"),
        ({"formation_factor": 3, "sample_width": 33}, "32x33 cannot be cut into 3x3"),
        ({"formation_factor": 3, "formation_axes": "time"}, "32x32 cannot be cut into 1x3"),
        ({"formation_axes": "width"}, "formation_axes must be 'both' or 'time', got 'width'"),
        ({"label_kind": "fuzzy"}, "label_kind must be 'hard' or 'soft', got 'fuzzy'"),
        ({"hallucinator_init": "zeros"}, "hallucinator_init must be 'default' or 'identity', got 'zeros'"),
        ({"hallucinator_init": "identity", "hallucinator_depth": 2}, "identity' needs depth 0 or 1"),
        (
            {"hallucinator_init": "identity", "hallucinator_channels": 2},
            "as many hallucinator_channels as basis channels",
        ),
        ({"hallucinator_init": "identity", "sample_channels": 1, "basis_channels": 3}, "bases of one channel"),
        ({"hallucinator_noise": 0}, "hallucinator_noise must be positive, got 0"),
        ({"hallucinator_noise": float("nan")}, "hallucinator_noise must be positive"),
        ({"student_learning_rate": 0}, "student_learning_rate must be positive, got 0"),
        ({"student_learning_rate": -0.1}, "student_learning_rate must be positive"),
        ({"student_learning_rate": float("nan")}, "student_learning_rate must be positive"),
        ({"student_learning_rate": float("inf")}, "student_learning_rate must be positive"),
    ],
)
def test_what_does_not_fit_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message) as raised:
        HabaConfig(**kwargs)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "kwargs",
    [{"bases_per_class": 2.0}, {"bases_per_class": True}, {"sample_height": "32"}, {"share_encoder_decoder": 1}],
)
def test_wrong_types_are_refused(kwargs):
    (name,) = kwargs
    with pytest.raises(StrictDataclassFieldValidationError, match=f"Field '{name}' expected"):
        HabaConfig(**kwargs)


def test_absurd_sizes_are_refused_before_memory_is_taken():
    tracemalloc.start()
    for name in ("num_labels", "bases_per_class", "num_hallucinators", "sample_channels", "sample_width"):
        with pytest.raises(
            ValueError, match=r"num_(labels|hallucinators) must be at most|more than the 1,073,741,824"
        ):
            HabaConfig.from_dict({"model_type": "haba", name: 10**12})
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_config_changed_later_is_checked_by_the_model():
    config = HabaConfig()
    config.hallucinator_depth = 7
    with pytest.raises(ValueError, match="hallucinator_depth must be 0, 1, 2 or 3, got 7"):
        HabaModel(config)


def test_config_of_another_model(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "hidden_size": 8}')
    with pytest.raises(ValueError, match="config of a bert model, not of a haba artifact"):
        HabaConfig.from_pretrained(tmp_path)
