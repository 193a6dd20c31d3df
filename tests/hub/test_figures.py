import json

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from haba_hf import HabaConfig, HabaModel
from haba_hf.artifact.processing_haba import HabaImageProcessor
from haba_hf.artifact.storage_haba import lowest_frequencies
from haba_hf.hub import plot_training_curves, save_gallery
from haba_hf.hub.galleries import MANY_CLASSES_PIXELS
from haba_hf.hub.plots import _running_mean
from haba_hf.hub.stored import stored_columns, stored_pictures
from haba_hf.hub.tiles import GAP_PIXELS, MAX_SIDE_PIXELS, stretched


def make_model(channels=3, **kwargs):
    torch.manual_seed(0)
    settings = {"num_labels": 3, "bases_per_class": 2, "num_hallucinators": 2, "id2label": dict(enumerate("abc"))}
    return HabaModel(
        HabaConfig(**settings | {"sample_channels": channels, "sample_height": 8, "sample_width": 8} | kwargs)
    )


def make_processor(channels=3):
    return HabaImageProcessor(
        size={"height": 8, "width": 8}, num_channels=channels, image_mean=[0.5] * channels, image_std=[0.25] * channels
    )


def pixels_of(path):
    return np.asarray(Image.open(path).convert("RGB"))


def find(picture, sample):
    """Top and left of a sample [C, 8, 8] in [0, 1], enlarged to 64 x 64, in the picture, or `None`."""
    tile = (sample.expand(3, -1, -1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    tile = tile.repeat(8, axis=0).repeat(8, axis=1)
    corners = (picture[:-63, :-63] == tile[0, 0]).all(axis=2).nonzero()
    places = zip(*corners, strict=True)
    return next((at for at in places if (picture[at[0] :, at[1] :][:64, :64] == tile).all()), None)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_gallery_shows_bases_and_samples_in_place(tmp_path, channels):
    model, processor = make_model(channels), make_processor(channels)
    save_gallery(model, processor, tmp_path / "gallery.png", stretch=False)
    picture = pixels_of(tmp_path / "gallery.png")
    with torch.no_grad():
        bases, samples = processor.denormalize(model.bases), processor.denormalize(model().samples)
    pitch = 64 + GAP_PIXELS
    origin = find(picture, bases[0])
    assert origin is not None
    for row in range(6):
        for column in range(3):
            tile = bases[row] if column == 0 else samples[2 * row + column - 1]
            assert find(picture, tile) == (origin[0] + pitch * row, origin[1] + pitch * column)
    assert (picture[:, : origin[1]] < 128).any() and (picture[: origin[0]] < 128).any()  # names, headings


def test_plain_pixels_have_a_row_for_each_class(tmp_path):
    model, processor = make_model(num_hallucinators=0, bases_per_class=12), make_processor()
    save_gallery(model, processor, tmp_path / "gallery.png", stretch=False)
    picture = pixels_of(tmp_path / "gallery.png")
    images = processor.denormalize(model.bases.detach())
    pitch, origin = 64 + GAP_PIXELS, find(picture, images[0])
    assert find(picture, images[12]) == (origin[0] + pitch, origin[1])
    assert find(picture, images[9]) == (origin[0], origin[1] + 9 * pitch)
    assert find(picture, images[10]) is None  # ten of each class unless told otherwise
    save_gallery(model, processor, tmp_path / "gallery.png", bases_per_class=12)
    assert find(pixels_of(tmp_path / "gallery.png"), images[11]) is not None


@pytest.mark.parametrize("num_hallucinators", [0, 2])
def test_the_gallery_shows_all_formations(tmp_path, num_hallucinators):
    model, processor = make_model(num_hallucinators=num_hallucinators, formation_factor=2), make_processor()
    save_gallery(model, processor, tmp_path / "gallery.png", bases_per_class=1, stretch=False)
    picture = pixels_of(tmp_path / "gallery.png")
    bases, samples = processor.denormalize(model.bases.detach()), processor.denormalize(model().samples.detach())
    pitch = 64 + GAP_PIXELS
    first = samples[0] if num_hallucinators == 0 else bases[0]
    origin = find(picture, first)
    per_basis = max(num_hallucinators, 1) * 4
    for row in range(3):
        for column in range(per_basis):
            place = (origin[0] + pitch * row, origin[1] + pitch * (column + (num_hallucinators > 0)))
            assert find(picture, samples[2 * row * per_basis + column]) == place


def test_class_names_are_no_formulas(tmp_path):
    names = {0: "$x$ {", 1: "$100", 2: "a_b^"}
    save_gallery(make_model(id2label=names), make_processor(), tmp_path / "gallery.png")
    assert (tmp_path / "gallery.png").stat().st_size > 0


def test_one_channel_bases_of_colour_samples_are_shown(tmp_path):
    model, processor = make_model(basis_channels=1), make_processor()
    save_gallery(model, processor, tmp_path / "gallery.png", bases_per_class=1, stretch=False)
    basis = processor.denormalize(model.bases[:1].detach().expand(-1, 3, -1, -1))[0]
    assert find(pixels_of(tmp_path / "gallery.png"), basis) is not None


def test_samples_of_little_contrast_are_spread_each_hallucinators_alike(tmp_path):
    model, processor = make_model(), make_processor()
    with torch.no_grad():
        model.hallucinators[0].scale.mul_(0), model.hallucinators[0].shift.mul_(0)  # constant: nothing to spread
    save_gallery(model, processor, tmp_path / "as_is.png", stretch=False)
    save_gallery(model, processor, tmp_path / "spread.png")
    as_is, spread = pixels_of(tmp_path / "as_is.png"), pixels_of(tmp_path / "spread.png")
    with torch.no_grad():
        samples = processor.denormalize(model().samples).unflatten(0, (6, 2))
    expected, factor = stretched(samples[:, 1])
    assert factor > 1, "else there is nothing to test"
    low, high = np.quantile(samples[:, 1].numpy(), [0.02, 0.98])
    torch.testing.assert_close(expected, ((samples[:, 1] - low) / (high - low)).clamp(0, 1))
    for row in range(6):
        assert find(as_is, samples[row, 1]) is not None
    assert spread.std() > as_is[: spread.shape[0], : spread.shape[1]].std()


def test_contrast_is_left_where_there_is_enough_or_none():
    enough, none = torch.linspace(0, 1, 192).view(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.4)
    for images in (enough, none):
        same, factor = stretched(images)
        assert torch.equal(same, images) and factor == 1


STORED = {
    "small pixels": {"basis_height": 4, "basis_width": 4},
    "luma and chroma": {"basis_storage": "luma_chroma", "basis_height": 4, "basis_width": 4},
    "frequencies": {"basis_storage": "frequencies", "basis_frequencies": 12},
}


@pytest.mark.parametrize("num_hallucinators", [0, 2])
@pytest.mark.parametrize("storage", STORED)
def test_the_gallery_shows_bases_as_they_are_stored(tmp_path, storage, num_hallucinators):
    model = make_model(num_hallucinators=num_hallucinators, **STORED[storage])
    processor = make_processor()
    save_gallery(model, processor, tmp_path / "gallery.png", bases_per_class=1, stretch=False)
    picture = pixels_of(tmp_path / "gallery.png")
    stored = stored_pictures(model, processor, torch.tensor([0, 2, 4]))
    assert stored.shape == (3, len(stored_columns(model.config)), 3, 8, 8)
    samples = processor.denormalize(model().samples.detach()).unflatten(0, (6, -1))
    pitch = 64 + GAP_PIXELS
    origin = find(picture, stored[0, 0])
    for row in range(3):
        tiles = [*stored[row], *samples[2 * row]]  # one basis per class: with and without hallucinators the same
        for column, tile in enumerate(tiles):
            assert find(picture, tile) == (origin[0] + pitch * row, origin[1] + pitch * column)


def test_without_hallucinators_a_class_has_one_row_and_what_is_stored_of_its_first(tmp_path):
    model, processor = make_model(num_hallucinators=0, **STORED["luma and chroma"]), make_processor()
    save_gallery(model, processor, tmp_path / "gallery.png", stretch=False)
    picture = pixels_of(tmp_path / "gallery.png")
    stored = stored_pictures(model, processor, torch.tensor([0, 2, 4]))
    samples = processor.denormalize(model().samples.detach())
    pitch, origin = 64 + GAP_PIXELS, find(picture, stored[0, 0])
    for row in range(3):
        tiles = [*stored[row], samples[2 * row], samples[2 * row + 1]]
        for column, tile in enumerate(tiles):
            assert find(picture, tile) == (origin[0] + pitch * row, origin[1] + pitch * column)


def test_frequencies_are_shown_in_their_places():
    model, processor = make_model(num_hallucinators=0, **STORED["frequencies"]), make_processor()
    with torch.no_grad():
        model.bases.zero_()
        model.bases[0, 0], model.bases[0, 1], model.bases[0, 2] = 4.0, -1.0, 0.0
    luma = stored_pictures(model, processor, torch.tensor([0]))[0, 0]
    assert luma[0, 0, 0] == 1.0, "the greatest, at the top left"
    assert luma.unique().tolist() == [0.25, 0.5, 1.0], "half of it by its root, below 0 darker than grey"


def test_frequencies_of_smaller_bases_are_in_the_places_of_their_own_grid():
    model = make_model(num_hallucinators=0, **STORED["frequencies"], basis_height=8, basis_width=4)
    with torch.no_grad():
        model.bases.zero_()
        model.bases[:, 3] = 1.0
    u, v = lowest_frequencies((8, 4), 4)[3].tolist()
    assert [u, v] != lowest_frequencies((8, 8), 4)[3].tolist()
    luma = stored_pictures(model, make_processor(), torch.tensor([0]))[0, 0, 0]
    side = int(lowest_frequencies((8, 4), 12).max()) + 1
    assert luma[u * 8 // side + 1, v * 8 // side + 1] == 1.0 and (luma == 1.0).sum() < 16


def test_a_gallery_out_of_range_is_refused(tmp_path):
    for bases_per_class in (0, 3):
        with pytest.raises(ValueError, match="must be 1 to 2"):
            save_gallery(make_model(), make_processor(), tmp_path / "gallery.png", bases_per_class)
    model = make_model(num_hallucinators=500)
    with pytest.raises(ValueError, match="too large to draw"):
        save_gallery(model, make_processor(), tmp_path / "gallery.png")
    assert not list(tmp_path.iterdir())


def test_a_gallery_of_many_classes_draws_those_that_fit(tmp_path):
    model = make_model(num_labels=500, num_hallucinators=0, id2label=dict(enumerate(map(str, range(500)))))
    # By default a picture to look at, and with so many bases asked for as high a one as can be drawn.
    for bases_per_class, least, most in ((None, 8_000, MANY_CLASSES_PIXELS), (2, 30_000, MAX_SIDE_PIXELS)):
        save_gallery(model, make_processor(), tmp_path / "gallery.png", bases_per_class)
        width, height = Image.open(tmp_path / "gallery.png").size
        assert least < height <= most + 100 and width < 1000


def write_log(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_training_curves(tmp_path):
    log, picture = tmp_path / "metrics.jsonl", tmp_path / "figures" / "curves.png"
    records = [{"step": i, "loss": 1 / (i + 1), "l_dd": 0.5, "note": "x", "done": False} for i in range(50)]
    records += [{"step": 10 * i, "validation_accuracy": 0.1 * i} for i in range(5)]
    write_log(log, records)
    backend = matplotlib.get_backend()
    plot_training_curves(log, picture)
    assert matplotlib.get_backend() == backend
    assert Image.open(picture).size == (1200, 260)  # three panels, side by side
    write_log(log, [record | {"extra": 1.0, "l_cos": 0.0} for record in records])
    plot_training_curves(log, picture)
    assert Image.open(picture).size == (1200, 520)
    assert list(picture.parent.iterdir()) == [picture]


def test_a_long_curve_is_smoothed():
    steps = np.arange(200)
    at, means = _running_mean(steps, steps % 10)
    assert len(at) == len(means) == 191
    assert at[0] == pytest.approx(4.5) and means == pytest.approx([4.5] * 191), "whole periods"


def test_the_later_line_of_a_step_counts(tmp_path):
    log = tmp_path / "metrics.jsonl"
    write_log(log, [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 9.0}, {"step": 3, "loss": 9.0}])
    plot_training_curves(log, tmp_path / "before.png")
    write_log(
        log, [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 9.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 3.0}]
    )
    plot_training_curves(log, tmp_path / "resumed.png")
    write_log(log, [{"step": 3, "loss": 3.0}, {"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}])
    plot_training_curves(log, tmp_path / "plain.png")
    before, resumed, plain = (pixels_of(tmp_path / f"{name}.png") for name in ("before", "resumed", "plain"))
    assert np.array_equal(resumed, plain) and not np.array_equal(resumed, before)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no numbers to draw"),
        ('{"step": 1, "note": "x"}\n', "no numbers to draw"),
        ('{"step": 1, "loss": 1.0}\n{"step": 2, "lo', "line 2 is not JSON"),
        ('{"loss": 1.0}\n', "line 1 is not an object with an integer step"),
        ("[1, 2]\n", "line 1 is not an object with an integer step"),
    ],
)
def test_a_log_that_cannot_be_drawn_is_refused(tmp_path, text, message):
    log = tmp_path / "metrics.jsonl"
    log.write_text(text)
    with pytest.raises(ValueError, match=message):
        plot_training_curves(log, tmp_path / "curves.png")


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "gallery.png").mkdir()
    with pytest.raises(OSError, match=r"Cannot write .*gallery\.png"):
        save_gallery(make_model(), make_processor(), tmp_path / "gallery.png")
