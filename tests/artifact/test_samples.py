"""What an artifact restores, against the paper written out: samples, pairs, labels, gradients."""

import copy
from collections import Counter

import pytest
import torch

from naive_artifact import KINDS, all_pairs, each_kind, make_model, naive_samples, scramble


@each_kind
def test_all_samples_equal_the_naive_loop(kind):
    model = scramble(make_model(**KINDS[kind])).double()
    output = model()
    pairs = all_pairs(model)
    expected = naive_samples(model, pairs)
    assert output.samples.shape == (model.config.num_samples, *model.config.sample_shape) == expected.shape
    torch.testing.assert_close(output.samples, expected)
    assert output.basis_ids.tolist() == [i for i, _ in pairs]
    if model.config.num_hallucinators:
        assert output.hallucinator_ids.tolist() == [j for _, j in pairs]
    else:
        assert output.hallucinator_ids is None
        assert "hallucinator_ids" not in output


def test_the_decoder_restores_negative_pixels():
    assert make_model()().samples.min() < 0


@pytest.mark.parametrize(
    "pairs", [[(4, 2), (0, 0), (4, 2), (5, 0), (1, 2), (0, 1)], [(3, 1)], [(2, 0), (2, 0), (2, 0)], []]
)
@pytest.mark.parametrize("dtype", [torch.long, torch.int32, torch.uint8])
def test_aligned_pairs(pairs, dtype):
    model = scramble(make_model()).double()
    basis_ids, hallucinator_ids = (torch.tensor([pair[k] for pair in pairs], dtype=dtype) for k in (0, 1))
    output = model(basis_ids, hallucinator_ids)
    assert output.samples.shape == (len(pairs), 3, 7, 10)
    if pairs:
        torch.testing.assert_close(output.samples, naive_samples(model, pairs))
    assert output.labels.tolist() == [i // 2 for i, _ in pairs]
    assert output.basis_ids.tolist() == [i for i, _ in pairs]
    assert output.hallucinator_ids.tolist() == [j for _, j in pairs]


def test_one_side_given_is_a_product_basis_by_basis():
    model = scramble(make_model())
    everything = model()
    output = model(basis_ids=torch.tensor([5, 1]))
    assert output.basis_ids.tolist() == [5, 5, 5, 1, 1, 1]
    assert output.hallucinator_ids.tolist() == [0, 1, 2, 0, 1, 2]
    rows = output.basis_ids * 3 + output.hallucinator_ids
    torch.testing.assert_close(output.samples, everything.samples[rows])
    output = model(hallucinator_ids=torch.tensor([2, 0]))
    assert output.basis_ids.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert output.hallucinator_ids.tolist() == [2, 0] * 6
    rows = output.basis_ids * 3 + output.hallucinator_ids
    torch.testing.assert_close(output.samples, everything.samples[rows])
    assert output.labels.tolist() == everything.labels[rows].tolist()
    assert model(basis_ids=torch.empty(0, dtype=torch.long)).samples.shape == (0, 3, 7, 10)


@pytest.mark.parametrize("shared", [False, True])
def test_each_hallucinator_is_called_at_most_once(shared):
    model = make_model(share_encoder_decoder=shared)
    calls = Counter()
    for j, hallucinator in enumerate(model.hallucinators):
        hallucinator.register_forward_hook(lambda module, inputs, output, j=j: calls.update([j]))
    model()
    assert calls == {0: 1, 1: 1, 2: 1}
    calls.clear()
    generator = torch.Generator().manual_seed(0)
    basis_ids = torch.randint(6, (200,), generator=generator)
    model(basis_ids, torch.randint(3, (200,), generator=generator))
    assert calls == {0: 1, 1: 1, 2: 1}
    calls.clear()
    model(basis_ids, torch.full((200,), 1))
    assert calls == {1: 1}


@each_kind
def test_gradients_equal_those_of_the_naive_loop(kind):
    model = scramble(make_model(**KINDS[kind])).double()
    other = copy.deepcopy(model)
    count = model.config.num_hallucinators
    pairs = [(5, 0), (0, max(count - 1, 0)), (5, 0), (2, 1 % max(count, 1)), *all_pairs(model)]
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(len(pairs), *model.config.sample_shape, generator=generator, dtype=torch.float64)
    label_weights = torch.randn(len(pairs), 3, generator=generator, dtype=torch.float64)

    basis_ids = torch.tensor([i for i, _ in pairs])
    output = model(basis_ids, torch.tensor([j for _, j in pairs]) if count else None)
    expected = (naive_samples(other, pairs) * weights).sum()
    loss = (output.samples * weights).sum()
    if model.config.label_kind == "soft":
        loss = loss + (output.labels * label_weights).sum()
        shares = torch.stack([other.label_logits[i].exp() / other.label_logits[i].exp().sum() for i, _ in pairs])
        expected = expected + (shares * label_weights).sum()
    loss.backward()
    expected.backward()
    for (name, parameter), (_, reference) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        if name == "student_learning_rate":
            assert parameter.grad is None
        else:
            assert reference.grad.abs().max() > 0, name
            torch.testing.assert_close(parameter.grad, reference.grad, msg=name)


def test_second_derivatives_flow():
    """Trajectory matching differentiates a gradient with respect to the samples."""
    model = make_model(num_hallucinators=1).double()
    samples = model(torch.tensor([0])).samples
    (first,) = torch.autograd.grad(samples.pow(3).sum(), model.bases, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), model.hallucinators[0].scale)
    assert second.abs().max() > 0


def test_labels_can_be_set_and_no_others_than_distributions():
    model = make_model(label_kind="soft")
    labels = torch.rand(model.labels.shape).softmax(dim=1)
    labels[0] = torch.eye(labels.shape[1])[0]  # whose other logits are minus infinity
    model.set_labels(labels)
    torch.testing.assert_close(model.labels, labels, rtol=1e-6, atol=1e-6)
    assert model.label_logits.isfinite().all() and model.label_logits.requires_grad
    for wrong in (labels[:1], 2 * labels, labels - 0.5, labels * float("nan")):
        with pytest.raises(ValueError, match=r"Soft labels are probabilities .* apply softmax to logits first"):
            model.set_labels(wrong)
    with pytest.raises(ValueError, match="This artifact has hard labels, its classes: set label_kind to soft"):
        make_model().set_labels(labels)


def test_hard_labels_follow_the_class_of_the_basis():
    model = make_model(bases_per_class=4)
    assert model.labels.dtype == torch.long
    assert model.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert model().labels.tolist() == [label for label in (0, 1, 2) for _ in range(4 * 3)]


def test_soft_labels_start_at_nine_tenths_and_are_shared_by_the_samples_of_a_basis():
    model = make_model(label_kind="soft")
    expected = torch.full((6, 3), 0.05)
    expected[torch.arange(6), torch.arange(6) // 2] = 0.9
    torch.testing.assert_close(model.labels, expected)
    scramble(model)
    labels = model().labels
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(18))
    assert torch.equal(labels, model.labels.repeat_interleave(3, dim=0))
    assert torch.equal(make_model(label_kind="soft", num_labels=1).labels, torch.ones(2, 1))


def test_materialize_holds_all_samples_without_gradients():
    model = scramble(make_model(label_kind="soft"))
    output = model.materialize()
    assert torch.equal(output.samples, model().samples)
    assert not output.samples.requires_grad
    assert not output.labels.requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0], None), "basis_ids must be a 1-D tensor of integers"),
        ((torch.tensor(0), None), "basis_ids must be a 1-D tensor of integers"),
        ((torch.zeros(2, 2, dtype=torch.long), None), "basis_ids must be a 1-D tensor"),
        ((torch.zeros(2), None), "basis_ids must be a 1-D tensor of integers"),
        ((torch.tensor([True, False]), None), "basis_ids must be a 1-D tensor of integers"),
        ((torch.zeros(2, dtype=torch.complex64), None), "basis_ids must be a 1-D tensor of integers"),
        ((None, torch.tensor([0.0])), "hallucinator_ids must be a 1-D tensor of integers"),
        ((torch.tensor([6]), None), r"basis_ids must lie in 0\.\.5, got 6\.\.6"),
        ((torch.tensor([0, -1]), None), r"basis_ids must lie in 0\.\.5, got -1\.\.0"),
        ((None, torch.tensor([3])), r"hallucinator_ids must lie in 0\.\.2, got 3\.\.3"),
        ((None, torch.tensor([-1])), r"hallucinator_ids must lie in 0\.\.2"),
        ((torch.tensor([0, 1]), torch.tensor([0])), "aligned pairs: got 2 and 1"),
    ],
)
def test_wrong_ids_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_model()(*arguments)


def test_plain_pixels_take_no_hallucinator_ids():
    model = make_model(num_hallucinators=0)
    assert torch.equal(model(torch.tensor([3, 3, 0])).samples, model.bases[[3, 3, 0]])
    with pytest.raises(ValueError, match=r"no hallucinators .* pass no hallucinator_ids"):
        model(hallucinator_ids=torch.tensor([0]))
    with pytest.raises(ValueError, match="basis_ids must lie in"):
        model(torch.tensor([6]))


def test_a_sharing_hallucinator_called_alone_says_what_it_lacks():
    model = make_model(share_encoder_decoder=True)
    with pytest.raises(ValueError, match="shares its encoder and decoder"):
        model.hallucinators[0](model.bases)
    model.hallucinators[0](model.bases, model.encoder, model.decoder)
