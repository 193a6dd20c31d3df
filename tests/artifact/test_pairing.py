import itertools
import pickle

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

from haba_hf import HabaConfig, HabaModel
from haba_hf.artifact.pairing import (
    HabaCollator,
    PairedDataset,
    materialize_if_small,
    paired_batches,
    paired_cross_entropy,
)
from haba_hf.data.augmentation import DsaAugmentation
from haba_hf.utils.seeds import derived_seed, seeded_generator


def make_model(num_hallucinators=3, label_kind="hard", **kwargs):
    torch.manual_seed(0)
    return HabaModel(
        HabaConfig(
            num_labels=4,
            bases_per_class=3,
            num_hallucinators=num_hallucinators,
            sample_channels=1,
            sample_height=8,
            sample_width=8,
            label_kind=label_kind,
            **kwargs,
        )
    )


def pair_of(samples, model):
    """Which (basis, hallucinator) each sample is: the pairs of the nearest of all samples."""
    everything = model.materialize()
    mode = "donot_use_mm_for_euclid_dist"  # a matrix product would lose the digits that tell equal from near
    distances = torch.cdist(samples.flatten(1), everything.samples.flatten(1), compute_mode=mode)
    assert distances.min(dim=1).values.max() < 1e-4
    return distances.argmin(dim=1)


def epochs_of(model, epochs, batch_size=5, seed=0, materialized=None):
    generator = seeded_generator(seed)
    return [list(paired_batches(model, batch_size, generator, materialized)) for _ in range(epochs)]


@pytest.mark.parametrize("num_hallucinators", [0, 3])
@pytest.mark.parametrize("materialize", [True, False])
def test_an_epoch_is_every_basis_once(num_hallucinators, materialize):
    model = make_model(num_hallucinators)
    materialized = materialize_if_small(model) if materialize else None
    for batches in epochs_of(model, 3, materialized=materialized):
        assert [len(samples) for samples, _ in batches] == [5, 5, 2]
        samples, labels = (torch.cat(part) for part in zip(*batches, strict=True))
        bases = pair_of(samples, model) // max(num_hallucinators, 1)
        assert bases.sort().values.tolist() == list(range(12))
        assert torch.equal(labels, model.class_ids[bases])
        assert not samples.requires_grad


@pytest.mark.parametrize("num_hallucinators", [0, 3])
@pytest.mark.parametrize("materialize", [True, False])
def test_with_formations_an_epoch_is_every_formation_of_every_basis_once(num_hallucinators, materialize):
    model = make_model(num_hallucinators, formation_factor=2)
    materialized = materialize_if_small(model) if materialize else None
    seen = set()
    for batches in epochs_of(model, 4, batch_size=20, materialized=materialized):
        assert [len(samples) for samples, _ in batches] == [20, 20, 8]
        samples, labels = (torch.cat(part) for part in zip(*batches, strict=True))
        places = pair_of(samples, model)
        pairs, formations = places // 4, places % 4
        bases = pairs // max(num_hallucinators, 1)
        assert (bases * 4 + formations).sort().values.tolist() == list(range(48))
        assert torch.equal(labels, model.class_ids[bases])
        seen |= set(places.tolist())
    assert len(seen) > (110 if num_hallucinators else 47)  # of 144: every formation meets a hallucinator of its own

    dataset = PairedDataset(model)
    assert len(dataset) == 48
    places = pair_of(torch.stack([item["pixel_values"] for item in dataset.__getitems__(list(range(48)))]), model)
    assert (places // 4 // max(num_hallucinators, 1) * 4 + places % 4).tolist() == list(range(48))


def test_hallucinators_are_drawn_uniformly_and_anew_each_epoch():
    model = make_model()
    materialized = materialize_if_small(model)
    counts = torch.zeros(12, 3)
    for batches in epochs_of(model, 600, batch_size=12, materialized=materialized):
        pairs = pair_of(batches[0][0], model)
        counts[pairs // 3, pairs % 3] += 1
    # 600 draws of each basis over 3 hallucinators: 200 each, with a standard deviation of 11.5.
    assert counts.sum(dim=1).tolist() == [600] * 12
    assert (counts - 200).abs().max() < 60


@pytest.mark.parametrize("materialize", [True, False])
def test_the_seed_decides_the_epochs(materialize):
    model = make_model()
    materialized = materialize_if_small(model) if materialize else None
    first, again, other = (epochs_of(model, 2, seed=seed, materialized=materialized) for seed in (7, 7, 8))

    def same(a, b):
        batches = zip(itertools.chain(*a), itertools.chain(*b), strict=True)
        return [torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in batches]

    assert all(same(first, again))
    assert not any(same(first, other))
    assert not any(same(first[:1], first[1:]))


def test_materialized_and_hallucinated_batches_agree():
    for model in (make_model(), make_model(label_kind="soft"), make_model(0)):
        with_store = epochs_of(model, 2, materialized=materialize_if_small(model))
        without = epochs_of(model, 2)
        for (x, y), (u, v) in zip(itertools.chain(*with_store), itertools.chain(*without), strict=True):
            torch.testing.assert_close(x, u)
            assert torch.equal(y, v)


def test_soft_labels_are_distributions_without_gradient():
    model = make_model(label_kind="soft")
    for materialized in (None, materialize_if_small(model)):
        for _, labels in paired_batches(model, 5, seeded_generator(0), materialized):
            assert labels.shape[1] == 4 and not labels.requires_grad
            torch.testing.assert_close(labels.sum(dim=1), torch.ones(len(labels)))


def test_an_artifact_in_half_precision_gives_float32():
    model = make_model(label_kind="soft").to(torch.bfloat16)
    for materialized in (None, materialize_if_small(model)):
        samples, labels = next(paired_batches(model, 5, seeded_generator(0), materialized))
        assert samples.dtype == labels.dtype == torch.float32


def test_only_small_artifacts_are_materialized():
    model = make_model()
    floats = 12 * 3 * 64
    assert materialize_if_small(model, max_floats=floats)[0].numel() == floats
    assert materialize_if_small(model, max_floats=floats - 1) is None


def test_a_batch_calls_each_hallucinator_once_at_most():
    model = make_model()
    calls = []
    for j, hallucinator in enumerate(model.hallucinators):
        hallucinator.register_forward_hook(lambda *_, j=j: calls.append(j))
    next(paired_batches(model, 12, seeded_generator(0)))
    PairedDataset(model).__getitems__(list(range(12)))
    assert len(calls) <= 6 and max(calls.count(j) for j in range(3)) == 2


def test_batches_need_a_size():
    for batch_size in (0, -3):
        with pytest.raises(ValueError, match="batch_size must be at least 1"):
            next(paired_batches(make_model(), batch_size, seeded_generator(0)))


def test_the_global_random_state_is_left_alone():
    model = make_model()
    before = torch.get_rng_state()
    epochs_of(model, 2)
    PairedDataset(model)[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_derived_seeds_differ():
    seeds = {derived_seed(*parts) for parts in itertools.product(range(20), range(20))}
    assert len(seeds) == 400 and all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(1, 2) != derived_seed(2, 1) != derived_seed(2)
    assert derived_seed(7) == derived_seed(7, 0) == derived_seed(7, 0, 0) != derived_seed(7, 0, 1)


def test_items_equal_the_models_own_samples():
    model = make_model()
    dataset = PairedDataset(model, seed=3)
    items = dataset.__getitems__([4, 0, 4, 11])
    drawn = torch.randint(3, (4,), generator=seeded_generator(3))
    with torch.no_grad():
        output = model(torch.tensor([4, 0, 4, 11]), drawn)
    assert torch.equal(torch.stack([item["pixel_values"] for item in items]), output.samples)
    assert [int(item["labels"]) for item in items] == output.labels.tolist() == [1, 0, 1, 3]
    assert len(dataset) == 12 and len(list(dataset)) == 12
    with pytest.raises(IndexError, match=r"0\.\.11"):
        dataset[12]


def hallucinators_met(loader, model, epochs):
    """[epochs, N]: the hallucinator that each basis met in each epoch."""
    met = torch.full((epochs, 12), -1)
    for epoch in range(epochs):
        for batch in loader:
            pairs = pair_of(batch["pixel_values"], model)
            assert (met[epoch, pairs // 3] == -1).all()
            met[epoch, pairs // 3] = pairs % 3
            assert torch.equal(batch["labels"], model.class_ids[pairs // 3])
    assert (met >= 0).all()
    return met


@pytest.mark.parametrize("num_workers", [0, 2])
def test_data_loader(num_workers):
    model = make_model()

    def met(seed):
        loader = DataLoader(
            PairedDataset(model, seed=seed),
            batch_size=4,
            shuffle=True,
            num_workers=num_workers,
            collate_fn=HabaCollator(),
            generator=torch.Generator().manual_seed(0),
        )
        return hallucinators_met(loader, model, 4)

    first = met(0)
    assert torch.equal(met(0), first)
    assert not torch.equal(met(1), first)
    # Neither the epochs of one worker nor the workers of one epoch repeat each other.
    assert len({tuple(row.tolist()) for row in first}) == 4
    assert len(first.unique()) == 3


def test_dataset_and_collator_can_be_sent_to_another_process():
    dataset, collator = PairedDataset(make_model(), seed=5), HabaCollator(DsaAugmentation(), seed=1)
    items = dataset.__getitems__([0, 1])
    collator(items)
    copies = pickle.loads(pickle.dumps((dataset, collator)))
    for a, b in zip(dataset.__getitems__([2, 3]), copies[0].__getitems__([2, 3]), strict=True):
        assert torch.equal(a["pixel_values"], b["pixel_values"])
    assert torch.equal(collator(items)["pixel_values"], copies[1](items)["pixel_values"])


def test_the_collator_augments():
    items = PairedDataset(make_model()).__getitems__(list(range(12)))
    plain = HabaCollator()(items)["pixel_values"]
    expected = DsaAugmentation()(plain, seeded_generator(2))
    assert torch.equal(HabaCollator(DsaAugmentation(), seed=2)(items)["pixel_values"], expected)
    assert not torch.equal(expected, plain)


def test_cross_entropy_for_the_trainer():
    logits, classes = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    soft = torch.randn(6, 4).softmax(dim=1)
    for labels in (classes, soft):
        mean = F.cross_entropy(logits, labels)
        torch.testing.assert_close(paired_cross_entropy({"logits": logits}, labels), mean)
        # two accumulated batches add up to the mean over both
        halves = [
            paired_cross_entropy({"logits": logits[rows]}, labels[rows], labels.numel())
            for rows in (slice(0, 2), slice(2, 6))
        ]
        torch.testing.assert_close(sum(halves), mean)


@pytest.mark.parametrize(("num_hallucinators", "label_kind"), [(3, "hard"), (0, "hard"), (3, "soft")])
def test_transformers_trainer(tmp_path, num_hallucinators, label_kind):
    model = make_model(num_hallucinators, label_kind)
    network = ResNetForImageClassification(
        ResNetConfig(num_channels=1, embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_labels=4)
    )
    before = network.classifier[1].weight.detach().clone()
    trainer = Trainer(
        network,
        TrainingArguments(
            output_dir=str(tmp_path),
            use_cpu=True,
            max_steps=2,
            per_device_train_batch_size=5,
            gradient_accumulation_steps=2,
            learning_rate=0.1,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=PairedDataset(model),
        data_collator=HabaCollator(),
        compute_loss_func=paired_cross_entropy,
    )
    result = trainer.train()
    assert result.global_step == 2
    assert 0.3 < result.training_loss < 4  # log(4) = 1.39 at the start
    assert not torch.equal(network.classifier[1].weight, before)
