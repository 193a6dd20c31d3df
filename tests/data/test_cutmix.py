import itertools

import numpy as np
import pytest
import torch

from haba_hf.data.cutmix import CutMix, CutMixParameters

SHAPE = torch.Size([5, 2, 6, 9])


def images_of(shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("soft", [False, True])
def test_mixing_equals_a_loop_over_pixels(soft):
    images = images_of()
    labels = torch.tensor([0, 2, 1, 1, 0])
    distributions = torch.eye(3)[labels]
    if soft:
        labels = distributions = torch.rand(5, 3, generator=torch.Generator().manual_seed(1)).softmax(dim=1)
    seen = set()
    for seed in range(30):
        parameters = CutMix(1.0).draw(SHAPE, torch.Generator().manual_seed(seed))
        mixed = CutMix.apply(images, parameters)
        targets = CutMix.mix_labels(labels, 3, parameters)
        partners = parameters.partners.tolist()
        assert sorted(partners) == list(range(5))
        replaced = 0
        for i, row, column in itertools.product(range(5), range(6), range(9)):
            inside = parameters.rows[0] <= row < parameters.rows[1] and (
                parameters.columns[0] <= column < parameters.columns[1]
            )
            source = partners[i] if inside else i
            assert torch.equal(mixed[i, :, row, column], images[source, :, row, column])
            replaced += inside
        share = replaced / 5 / (6 * 9)
        expected = torch.stack([(1 - share) * distributions[i] + share * distributions[partners[i]] for i in range(5)])
        torch.testing.assert_close(targets, expected)
        seen.add((parameters.rows, parameters.columns))
    assert len(seen) > 15
    assert torch.equal(images, images_of()), "the batch itself is left alone"


def test_cross_entropy_with_mixed_labels_is_the_mixture_of_two():
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    parameters = CutMixParameters(torch.tensor([3, 0, 1, 4, 2]), (0, 3), (1, 4), 9 / 54)
    loss = torch.nn.functional.cross_entropy(logits, CutMix.mix_labels(labels, 3, parameters))
    first, second = (
        torch.nn.functional.cross_entropy(logits, target) for target in (labels, labels[parameters.partners])
    )
    torch.testing.assert_close(loss, (1 - 9 / 54) * first + 9 / 54 * second)


def test_how_often_and_how_much():
    generator = torch.Generator().manual_seed(0)
    drawn = [CutMix(0.3).draw(torch.Size([4, 1, 32, 32]), generator) for _ in range(2000)]
    assert abs(sum(parameters is not None for parameters in drawn) / 2000 - 0.3) < 0.05
    # A box that does not reach over the border has sides of about 32 * sqrt(1 - lambda) with lambda uniform: its share
    # is uniform, rounded down.
    boxes = [parameters for parameters in drawn if parameters is not None]
    sides = [(p.rows[1] - p.rows[0], p.columns[1] - p.columns[0]) for p in boxes]
    assert all(
        p.share == pytest.approx(height * width / 1024) for p, (height, width) in zip(boxes, sides, strict=True)
    )
    inner = [height for (height, _), p in zip(sides, boxes, strict=True) if p.rows[0] > 0 and p.rows[1] < 32]
    assert all(height % 2 == 0 for height in inner)
    assert np.mean([p.share for p in boxes]) == pytest.approx(0.28, abs=0.04)


def test_nothing_to_mix():
    images, labels = images_of(), torch.tensor([0, 2, 1, 1, 0])
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    assert CutMix(0.0).draw(SHAPE, generator) is None
    assert torch.equal(generator.get_state(), state), "what does not mix draws nothing"
    assert CutMix.apply(images, None) is images
    assert CutMix.mix_labels(labels, 3, None) is labels


def test_a_seed_gives_the_same_mixture():
    first, again, other = (CutMix(1.0).draw(SHAPE, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.partners, again.partners)
    assert (first.rows, first.columns, first.share) == (again.rows, again.columns, again.share)
    assert (first.rows, first.columns) != (other.rows, other.columns)


def test_what_does_not_fit_is_refused():
    for probability in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="probability of CutMix must be between 0 and 1"):
            CutMix(probability)
    parameters = CutMix(1.0).draw(SHAPE, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="CutMix is for 5 images, not 4"):
        CutMix.apply(images_of()[:4], parameters)
