"""Coresets: the rules against brute force, the expert against a hand-written loop, the way from data to a table."""

import dataclasses
import itertools
import json
import math
import os

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from haba_hf import HabaModel
from haba_hf.artifact.storage_haba import store_images
from haba_hf.coresets import (
    CoresetArguments,
    ForgettingEvents,
    choose_coreset,
    expert,
    herding,
    k_center,
    most_forgotten,
    random_images,
    real_images_artifact,
    real_images_config,
    record_expert_features,
)
from haba_hf.data import DataArguments, load_image_data
from haba_hf.data.augmentation import DsaAugmentation
from haba_hf.networks import NetworkArguments, build_network
from haba_hf.recipes import parse_recipe
from haba_hf.runs import evaluate, select_coreset
from haba_hf.utils.files import locked
from haba_hf.utils.seeds import derived_seed, seeded_generator
from tiny import NETWORK, launch_processes, tiny_accelerator, tiny_data

# Whole numbers on a small grid, N a power of two: means and squared distances are exact, and many of them are equal.
TIES = [torch.randint(0, 3, (16, 3), generator=torch.Generator().manual_seed(seed)).float() for seed in range(8)]
SMOOTH = [torch.randn(n, 5, generator=torch.Generator().manual_seed(n)) for n in (1, 2, 13, 40)]


def test_a_coreset_is_not_chosen_into_a_folder_that_another_run_writes_to(tmp_path):
    recipe = parse_recipe(["digits/random-1pc", "--max_train_samples", "100", "--output_dir", str(tmp_path / "run")])
    with (
        locked(tmp_path / "run"),
        pytest.raises(OSError, match=r"Another run is writing to .*run: wait for it, stop it, or choose another"),
    ):
        select_coreset(recipe, tiny_accelerator())
    assert not (tmp_path / "run").exists()


def brute_force_herding(features, count):
    features, chosen = features.numpy().astype(np.float64), []
    mean = features.mean(axis=0)
    for k in range(1, count + 1):
        best, least = None, math.inf
        for index, feature in enumerate(features):
            gap = k * mean - features[chosen].sum(axis=0) - feature
            if index not in chosen and (gap**2).sum() < least:
                best, least = index, (gap**2).sum()
        chosen.append(best)
    return chosen


def brute_force_k_center(features, count):
    features = features.numpy().astype(np.float64)
    to_mean = [((feature - features.mean(axis=0)) ** 2).sum() for feature in features]
    chosen = [min(range(len(features)), key=lambda index: (to_mean[index], index))]
    while len(chosen) < count:
        reach = {
            index: min(((features[index] - features[center]) ** 2).sum() for center in chosen)
            for index in range(len(features))
            if index not in chosen
        }
        chosen.append(max(reach, key=lambda index: (reach[index], -index)))
    return chosen


@pytest.mark.parametrize(("rule", "expected"), [(herding, brute_force_herding), (k_center, brute_force_k_center)])
@pytest.mark.parametrize("features", [*SMOOTH, *TIES], ids=lambda features: "x".join(map(str, features.shape)))
def test_rules_equal_brute_force_down_to_the_last_image(rule, expected, features):
    everything = rule(features, len(features))
    assert everything.dtype == torch.int64
    assert everything.tolist() == expected(features, len(features))
    assert everything.sort().values.tolist() == list(range(len(features))), "without replacement"
    for count in range(1, len(features)):
        assert torch.equal(rule(features, count), everything[:count])


def test_herding_keeps_the_mean_and_k_center_covers():
    features = torch.randn(200, 8, generator=torch.Generator().manual_seed(3)).exp()
    mean = features.mean(dim=0)
    random = torch.arange(10)
    assert (features[herding(features, 10)].mean(dim=0) - mean).norm() < 0.3 * (features[random].mean(0) - mean).norm()

    def radius(rows):
        return torch.cdist(features, features[rows]).min(dim=1).values.max()

    assert radius(k_center(features, 10)) < 0.7 * radius(random)


@pytest.mark.parametrize("rule", [herding, k_center])
def test_equal_images_are_taken_in_order(rule):
    assert rule(torch.full((5, 3), 0.1), 5).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [0, 5])
def test_a_count_out_of_range_is_refused(count):
    for choose in (lambda: herding(torch.ones(4, 2), count), lambda: k_center(torch.ones(4, 2), count)):
        with pytest.raises(ValueError, match=f"{count} of 4 images cannot be chosen: ask for 1 to 4"):
            choose()
    with pytest.raises(ValueError, match="of 4 images"):
        most_forgotten(torch.ones(4), count)


def naive_events(history):
    """`history`: what was seen of one image, right or wrong, in order."""
    forgotten = sum(before and not now for before, now in itertools.pairwise(history))
    return forgotten if any(history) else math.inf


def test_forgetting_events_of_a_scripted_history():
    script = ["0000", "1111", "0101", "1010", "1100", "0010", "1001"]  # of each image, epoch by epoch
    events = ForgettingEvents(len(script))
    for epoch, order in enumerate([[0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0], [3, 0, 6, 1, 5, 2, 4], [2, 4, 6]]):
        for rows in torch.tensor(order).split(3):
            events.update(rows, torch.tensor([script[row][epoch] == "1" for row in rows]))
    # The last epoch saw three images only: what image 3 would have forgotten there is not counted.
    assert events.counts().tolist() == [math.inf, 0, 1, 1, 1, 0, 1]
    assert most_forgotten(events.counts(), 7).tolist() == [0, 2, 3, 4, 6, 1, 5]


def test_forgetting_events_of_random_histories():
    generator = torch.Generator().manual_seed(0)
    right = torch.rand(9, 50, generator=generator) < torch.rand(50, generator=generator) ** 2
    events = ForgettingEvents(50)
    for epoch in right:
        for rows in torch.randperm(50, generator=generator).split(8):
            events.update(rows, epoch[rows])
    counts = events.counts().tolist()
    assert counts == [naive_events(history) for history in right.T.tolist()]
    assert len(set(counts)) > 3 and math.inf in counts
    expected = sorted(range(50), key=lambda row: (-counts[row], row))
    assert most_forgotten(events.counts(), 50).tolist() == expected


def tiny_coreset(directory, **settings):
    defaults = CoresetArguments("herding", coreset_epochs=4, coreset_batch_size=7, coreset_dir=str(directory))
    return dataclasses.replace(defaults, **settings)


def record(arguments, data=None, network=NETWORK, seed=0):
    return record_expert_features(data or tiny_data(), network, arguments, seed, tiny_accelerator())


@pytest.mark.parametrize("settings", [{"coreset_dsa": "none"}, {"coreset_learning_rate": 0.05}])
def test_the_expert_equals_a_hand_written_training_loop(tmp_path, settings):
    data, arguments, seed = tiny_data(images_per_class=9), tiny_coreset(tmp_path, coreset_epochs=6, **settings), 3
    before = torch.get_rng_state()
    found = load_file(record(arguments, data, seed=seed))
    assert torch.equal(torch.get_rng_state(), before)

    network = build_network(NETWORK, data.image_shape, data.num_labels, derived_seed(seed, 0))
    optimizer = torch.optim.SGD(
        network.parameters(), lr=arguments.coreset_learning_rate, momentum=0.9, weight_decay=5e-4
    )
    generator, augmentation = seeded_generator(seed, 1), DsaAugmentation(arguments.coreset_dsa)
    histories = [[] for _ in range(36)]
    for _ in range(6):
        order = torch.randperm(36, generator=generator)
        for first in range(0, 36, 7):
            rows = order[first : first + 7]
            images = data.processor.normalize(data.train.images[rows])
            logits = network(augmentation.apply(images, augmentation.draw(len(rows), generator)))
            for row, logit in zip(rows, logits, strict=True):
                histories[row].append(bool(logit.argmax() == data.train.labels[row]))
            optimizer.zero_grad()
            F.cross_entropy(logits, data.train.labels[rows]).backward()
            optimizer.step()
    events = [naive_events(history) for history in histories]
    assert found.pop("forgetting_events").tolist() == events
    assert len(set(events)) > 1
    losses = found.pop("losses")
    logits = network(data.processor.normalize(data.train.images))
    torch.testing.assert_close(losses, F.cross_entropy(logits, data.train.labels, reduction="none"))
    assert sorted(found) == [f"features.{label}" for label in range(4)]
    for label in range(4):
        rows = [row for row in range(36) if data.train.labels[row] == label]
        features = network.features(data.processor.normalize(data.train.images[rows]))
        torch.testing.assert_close(found[f"features.{label}"], features, rtol=1e-5, atol=1e-5)


def test_four_coresets_train_one_expert(tmp_path, monkeypatch):
    data, trained, train = tiny_data(), [], expert._train
    monkeypatch.setattr(expert, "_train", lambda *words: trained.append(1) or train(*words))
    members = [(data.train.labels == label).nonzero().flatten() for label in range(4)]
    chosen = {}
    for coreset in ("random", "herding", "k_center", "forgetting"):
        arguments = tiny_coreset(tmp_path / "cache", coreset=coreset)
        found = choose_coreset(data, 3, NETWORK, arguments, 0, tiny_accelerator())
        assert len(trained) == (coreset != "random")
        assert found.rows.shape == (12,) and len(found.rows.unique()) == 12
        assert torch.equal(data.train.labels[found.rows], torch.arange(4).repeat_interleave(3))
        chosen[coreset] = found.rows.view(4, 3)
        if coreset != "random":
            assert found.seconds > float(expert_header(tmp_path / "cache")["seconds"]) > 0
    recorded = load_file(tmp_path / "cache" / "expert-features.safetensors")
    for label, rows in enumerate(members):
        features = recorded[f"features.{label}"]
        assert torch.equal(chosen["herding"][label], rows[brute_force_herding(features, 3)])
        assert torch.equal(chosen["k_center"][label], rows[brute_force_k_center(features, 3)])
        assert torch.equal(chosen["forgetting"][label], rows[most_forgotten(recorded["forgetting_events"][rows], 3)])
    assert os.listdir(tmp_path / "cache") == ["expert-features.safetensors"], "nothing half-written stays"


def expert_header(directory):
    with open(directory / "expert-features.safetensors", "rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]


def test_two_runs_are_equal_and_the_seed_counts(tmp_path):
    data = tiny_data()
    runs = {"first": 0, "again": 0, "other": 1}
    files = [load_file(record(tiny_coreset(tmp_path / name), data, seed=seed)) for name, seed in runs.items()]
    assert all(torch.equal(tensor, files[1][name]) for name, tensor in files[0].items())
    assert not torch.equal(files[0]["features.0"], files[2]["features.0"])
    assert torch.equal(random_images(data, 4, 5), random_images(data, 4, 5))
    assert not torch.equal(random_images(data, 4, 5), random_images(data, 4, 6))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"data": tiny_data(seed=1)}, "data"),
        ({"network": NetworkArguments(network_depth=2, network_width=5)}, "network"),
        ({"coreset_epochs": 5}, "training"),
        ({"coreset_learning_rate": 0.02}, "training"),
        ({"coreset_batch_size": 8}, "training"),
        ({"coreset_dsa": "none"}, "training"),
        ({"seed": 1}, "training"),
    ],
    ids=str,
)
def test_an_expert_of_something_else_is_refused(tmp_path, change, what):
    path = record(tiny_coreset(tmp_path))
    written = path.read_bytes()
    settings = {name: value for name, value in change.items() if name.startswith("coreset")}
    others = {name: value for name, value in change.items() if not name.startswith("coreset")}
    with pytest.raises(ValueError, match=rf"recorded with another {what} .* choose another coreset_dir, or delete it"):
        record(tiny_coreset(tmp_path, **settings), **others)
    assert path.read_bytes() == written


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    path = record(tiny_coreset(tmp_path))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"expert-features\.safetensors is damaged .* delete it"):
        record(tiny_coreset(tmp_path))
    save_file({"features.0": torch.ones(2)}, path)
    with pytest.raises(
        ValueError, match="is not the file of a coreset's expert of haba_hf: choose another coreset_dir"
    ):
        record(tiny_coreset(tmp_path))


def test_a_diverging_expert_leaves_nothing(tmp_path):
    with pytest.raises(
        FloatingPointError, match=r"diverged in epoch \d of 4: lower coreset_learning_rate, now 1e\+30"
    ):
        record(tiny_coreset(tmp_path, coreset_learning_rate=1e30))
    assert list(tmp_path.iterdir()) == []


def test_a_last_step_that_diverges_is_noticed(tmp_path):
    """The only loss is finite, the features after it are not."""
    arguments = tiny_coreset(tmp_path, coreset_epochs=1, coreset_batch_size=24, coreset_learning_rate=3e38)
    with pytest.raises(FloatingPointError, match="diverged in epoch 1 of 1"):
        record(arguments)
    assert list(tmp_path.iterdir()) == []


def test_too_few_images_are_an_error_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"'class 0' has 6 training images, fewer than the 7 asked for: lower bases_"):
        choose_coreset(tiny_data(), 7, NETWORK, tiny_coreset(tmp_path / "cache"), 0, tiny_accelerator())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rule", ["random", "herding", "k_center", "forgetting"])
def test_a_class_of_fewer_images_is_filled_with_copies(tmp_path, rule):
    """Eight of six images: all in the order of choice, and the first two again."""
    data = tiny_data()
    arguments = CoresetArguments(coreset=rule, coreset_epochs=1, coreset_dsa="none", coreset_dir=str(tmp_path))
    common = (NETWORK, arguments, 0, tiny_accelerator())
    rows = choose_coreset(data, 8, *common, repeat=True).rows.view(4, 8)
    six = choose_coreset(data, 6, *common).rows.view(4, 6)
    assert torch.equal(rows[:, :6], six) and torch.equal(rows[:, 6:], six[:, :2])
    assert all(set(of.tolist()) == set(data.train.of_class(label).tolist()) for label, of in enumerate(six))


@pytest.mark.parametrize("name", ["coreset_epochs", "coreset_batch_size", "coreset_learning_rate"])
def test_settings_are_checked(name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        CoresetArguments(**{name: 0})
    with pytest.raises(ValueError, match="no operation 'blur'"):
        CoresetArguments(coreset_dsa="blur")


def test_random_images_are_those_of_real_initialization():
    data = tiny_data()
    rows = random_images(data, 4, seed=5)
    before = torch.get_rng_state()
    model = real_images_artifact(data, rows, real_images_config(data, 4, student_learning_rate=0.03))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(model.bases, data.draw_per_class(4, seeded_generator(5)))
    assert torch.equal(model.labels, data.train.labels[rows])
    assert model.student_learning_rate.item() == pytest.approx(0.03)
    assert model.config.id2label[2] == "class 2" and model.config.num_hallucinators == 0


@pytest.fixture
def recipe_of(tmp_path):
    """A recipe on the digits with a small network."""
    fields = {
        "num_hallucinators": 0,
        "bases_per_class": 2,
        "max_train_samples": 120,
        "network_depth": 2,
        "network_width": 4,
        "coreset_epochs": 2,
        "coreset_dir": tmp_path / "cache",
        "evaluation_seeds": 2,
        "student_epochs": 30,
        "references": "random",
        "output_dir": tmp_path / "run",
    }

    def recipe(**changes):
        return parse_recipe([word for name, value in (fields | changes).items() for word in (f"--{name}", str(value))])

    return recipe


@pytest.mark.parametrize("coreset", ["random", "herding", "k_center", "forgetting"])
def test_from_a_recipe_to_a_table(recipe_of, tmp_path, coreset):
    recipe, accelerator = recipe_of(coreset=coreset), tiny_accelerator()
    artifact = select_coreset(recipe, accelerator)
    assert artifact == tmp_path / "run" / "artifact"
    data = load_image_data(DataArguments(max_train_samples=120))
    provenance = json.loads((artifact / "coreset.json").read_text())
    assert provenance["coreset"] == coreset
    assert provenance["data_fingerprint"] == data.fingerprint
    assert provenance["recipe_hash"] == recipe.hash
    assert provenance["seconds"] >= 0 and provenance["versions"]["torch"]
    assert list(provenance["training_rows"]) == data.class_names
    model = HabaModel.from_pretrained(artifact)
    for label, rows in enumerate(provenance["training_rows"].values()):
        assert len(rows) == 2 and data.train.labels[rows].tolist() == [label, label]
        assert torch.equal(model.bases[model.class_ids == label], data.processor.normalize(data.train.images[rows]))
    assert parse_recipe([str(artifact / "recipe.yaml")]) == recipe
    with Image.open(artifact / "gallery.png") as picture:
        assert min(picture.size) > 50
    assert (tmp_path / "cache").exists() == (coreset != "random")

    rows = evaluate(recipe, accelerator)
    assert [row.system for row in rows] == [
        f"coreset, {coreset}",
        "random real, equal storage",
        "random real, equal bytes",
    ]
    assert rows[0].storage.floats == rows[1].storage.floats == 2 * 10 * 64 + 1
    assert rows[0].storage.bytes == 4 * (2 * 10 * 64 + 1) and rows[2].storage.bytes == 8 * 10 * 64
    assert rows[0].accuracy.mean > 0.2, "chance is 0.1"

    weights = (artifact / "model.safetensors").read_bytes()
    assert (select_coreset(recipe, accelerator) / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    "change",
    [{"num_hallucinators": 5}, {"label_kind": "soft"}, {"basis_channels": 1}],
    ids=lambda change: next(iter(change)),
)
def test_what_is_not_plain_real_images_is_refused(recipe_of, tmp_path, change):
    with pytest.raises(ValueError, match=r"A coreset is real images .* set num_hallucinators to 0"):
        select_coreset(recipe_of(**change), tiny_accelerator())
    assert list(tmp_path.iterdir()) == []


def test_a_coreset_over_budget_is_refused_and_a_distilled_artifact_kept(recipe_of, tmp_path):
    with pytest.raises(ValueError, match="lower bases_per_class to 1, or raise storage_budget"):
        select_coreset(recipe_of(coreset="herding", storage_budget=1.5), tiny_accelerator())
    assert list(tmp_path.iterdir()) == []
    artifact = tmp_path / "run" / "artifact"
    artifact.mkdir(parents=True)
    (artifact / "distillation.json").write_text("{}")
    with pytest.raises(ValueError, match="is no coreset but was distilled: choose another output_dir, or remove it"):
        select_coreset(recipe_of(), tiny_accelerator())
    assert [path.name for path in artifact.iterdir()] == ["distillation.json"]


@pytest.mark.slow
def test_of_two_processes_one_chooses(recipe_of, tmp_path):
    recipe = recipe_of(coreset="forgetting")
    recipe.write(tmp_path / "recipe.yaml")
    script = """
        import sys
        from accelerate import Accelerator
        from haba_hf import HabaModel
        from haba_hf.coresets import expert
        from haba_hf.recipes import parse_recipe
        from haba_hf.runs import select_coreset
        trained, train = [], expert._train
        expert._train = lambda *words: trained.append(1) or train(*words)
        accelerator = Accelerator()
        path = select_coreset(parse_recipe([sys.argv[1]]), accelerator)
        bases = HabaModel.from_pretrained(path).config.num_bases
        sys.stdout.write(f"RESULT {accelerator.process_index} {len(trained)} {bases}\\n")
    """
    assert launch_processes(tmp_path, script, str(tmp_path / "recipe.yaml")) == ["RESULT 0 1 20", "RESULT 1 0 20"]
    together = (tmp_path / "run" / "artifact" / "model.safetensors").read_bytes()
    alone = select_coreset(
        dataclasses.replace(
            recipe,
            distillation=dataclasses.replace(recipe.distillation, output_dir=str(tmp_path / "alone")),
            coreset=dataclasses.replace(recipe.coreset, coreset_dir=str(tmp_path / "cache alone")),
        ),
        tiny_accelerator(),
    )
    assert (alone / "model.safetensors").read_bytes() == together


def test_a_coreset_is_stored_as_its_recipe_says(recipe_of):
    recipe = recipe_of(
        coreset="random",
        bases_per_class="auto",
        storage_budget=2,
        basis_storage="frequencies",
        basis_frequencies=32,
        storage_dtype="int8",
    )
    artifact = select_coreset(recipe, tiny_accelerator())
    model = HabaModel.from_pretrained(artifact)
    assert model.config.bases_per_class == 3, "33 of 128 numbers a class each, scales counted"
    data = load_image_data(DataArguments(max_train_samples=120))
    rows = json.loads((artifact / "coreset.json").read_text())["training_rows"].values()
    images = data.processor.normalize(data.train.images[[row for of_class in rows for row in of_class]])
    stored = store_images(images, model.config)
    assert (model.bases - stored).abs().max() <= stored.abs().max() / 254 * 1.001
    system, alike, as_bytes = evaluate(recipe, tiny_accelerator())
    assert system.storage.floats == alike.storage.floats == 30 * 33 + 1
    assert system.storage.bytes == alike.storage.bytes == 30 * 36 + 4 and as_bytes.storage.bytes == 640
