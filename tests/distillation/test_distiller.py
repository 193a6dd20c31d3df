"""Algorithm 1 as a run: random numbers, gradients, schedules, and several processes."""

import math

import pytest
import torch
from safetensors.torch import load_file

from haba_hf.distillation import Adversary
from haba_hf.utils.seeds import seeded_generator
from tiny import (
    assert_same,
    gradients,
    launch_processes,
    metrics,
    states,
    tiny_recipe,
)
from tiny_runs import make


def test_generators_differ_by_seed_step_and_process(tmp_path):
    class Elsewhere:
        def __init__(self, rank):
            self.process_index = rank

    seen = set()
    for seed in (0, 1, 2):
        distiller = make(tiny_recipe(output_dir=str(tmp_path), seed=seed))
        for step in (0, 1, 2, 65_537):
            for rank in (0, 1, 2):
                distiller.step_number, distiller.accelerator = step, Elsewhere(rank)
                seen.add(torch.rand(4, generator=distiller.generator()).numpy().tobytes())
                again = torch.rand(4, generator=distiller.generator())
                assert again.numpy().tobytes() in seen
    assert len(seen) == 36


def test_seed_changes_the_run(tmp_path):
    runs = [make(tiny_recipe(output_dir=str(tmp_path), seed=seed)) for seed in (0, 1)]
    assert runs[0].step()["l_dd"] != runs[1].step()["l_dd"]


def test_the_gradient_is_the_sum_of_both_parts(tmp_path, experts_dir):
    """lambda_DD L_DD from the objective and lambda_cos L_cos from the adversary, from one generator."""
    recipe = tiny_recipe(output_dir=str(tmp_path), objective="mtt", optimizer="sgd", momentum=0.0)
    distiller = make(recipe, experts_dir)
    model = distiller.model
    generator = distiller.generator()
    distiller.objective.backward(model, generator)
    distiller.adversary.backward(model, generator)
    rates = {"bases": 0.03, "student_learning_rate": 1e-5}
    expected = {
        name: parameter.detach() - rates.get(name, 0.01) * gradients(model)[name]
        for name, parameter in model.named_parameters()
    }
    adversary = distiller.adversary.network
    expected_adversary = {
        name: parameter.detach() - 0.001 * gradients(adversary)[name]
        for name, parameter in adversary.named_parameters()
    }
    logs = distiller.step()
    assert logs.keys() == {"l_dd", "student_learning_rate", "l_cos", "l_con", "l_task"}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-6, atol=1e-8)
    for name, parameter in adversary.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected_adversary[name], rtol=1e-6, atol=1e-8)


def test_a_hallucinator_unused_in_a_step_stays(tmp_path, experts_dir):
    recipe = tiny_recipe(
        output_dir=str(tmp_path), objective="mtt", optimizer="sgd", student_steps=1, lambda_cos=0.0, lambda_con=0.0
    )
    distiller = make(recipe, experts_dir)
    before = states(distiller)
    distiller.step()
    changed = [
        j
        for j in range(3)
        if not torch.equal(
            before[f"model.hallucinators.{j}.scale"], states(distiller)[f"model.hallucinators.{j}.scale"]
        )
    ]
    assert len(changed) == 1


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_cosine_schedule(tmp_path, optimizer):
    settings = {"optimizer": optimizer, "learning_rate_schedule": "cosine", "steps": 8}
    distiller = make(tiny_recipe(output_dir=str(tmp_path), **settings))
    bases, hallucinators = distiller.optimizers["optimizer"].param_groups
    (adversary,) = distiller.optimizers["adversary_optimizer"].param_groups
    for step in range(8):
        distiller.step()
        factor = (1 + math.cos(math.pi * step / 8)) / 2
        assert bases["lr"] == pytest.approx(0.03 * factor)
        assert hallucinators["lr"] == pytest.approx(0.01 * factor)
        assert adversary["lr"] == 0.001


def test_halvings(tmp_path):
    settings = {"learning_rate_schedule": "cosine", "steps": 8, "learning_rate_halvings": [0.25, 0.5]}
    distiller = make(tiny_recipe(output_dir=str(tmp_path), **settings))
    (bases, _) = distiller.optimizers["optimizer"].param_groups
    for step, halvings in enumerate((0, 0, 1, 1, 2, 2, 2, 2)):
        distiller.step()
        assert bases["lr"] == pytest.approx(0.03 * 0.5**halvings * (1 + math.cos(math.pi * step / 8)) / 2)


def test_a_learning_rate_of_zero_keeps_bases_bit_for_bit(tmp_path):
    distiller = make(tiny_recipe(output_dir=str(tmp_path), basis_learning_rate=0.0))
    before = states(distiller)
    distiller.step()
    assert gradients(distiller.model)["bases"].any()
    assert torch.equal(states(distiller)["model.bases"], before["model.bases"])
    assert not torch.equal(states(distiller)["model.hallucinators.0.scale"], before["model.hallucinators.0.scale"])


def test_alpha_is_clipped_where_it_is_learned(tmp_path, experts_dir):
    settings = {"output_dir": str(tmp_path), "alpha_learning_rate": 0.02, "alpha_min": 0.005}
    distiller = make(tiny_recipe(objective="mtt", **settings), experts_dir)
    for _ in range(3):
        distiller.step()
        assert distiller.model.student_learning_rate >= 0.005 - 1e-9
    assert distiller.model.student_learning_rate.item() == pytest.approx(0.005)

    distiller = make(tiny_recipe(**settings), student_learning_rate=0.002)
    distiller.step()
    assert distiller.model.student_learning_rate.item() == pytest.approx(0.002)


@pytest.mark.parametrize(
    ("settings", "sizes", "plays"),
    [
        ({}, {}, True),
        ({"lambda_cos": 0.0}, {}, True),
        ({"lambda_con": 0.0}, {}, True),
        ({"lambda_cos": 0.0, "lambda_con": 0.0}, {}, False),
        ({}, {"num_hallucinators": 1}, False),
        ({}, {"num_hallucinators": 0}, False),
    ],
)
def test_when_there_is_an_adversary(tmp_path, settings, sizes, plays):
    distiller = make(tiny_recipe(output_dir=str(tmp_path), **settings), **sizes)
    assert isinstance(distiller.adversary, Adversary) == plays
    assert ("l_cos" in distiller.step()) == plays


def test_distillation_lowers_the_loss(tmp_path):
    recipe = tiny_recipe(output_dir=str(tmp_path), steps=60, checkpoint_every=100, dsa="none", network_bank=1)
    make(recipe).run()
    losses = [line["l_dd"] for line in metrics(tmp_path)]
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"max_minutes": 0.0}, r"max_minutes must be positive, got 0\.0"),
        ({"network_bank": -1}, "network_bank must be 0 or more, got -1"),
        ({"adversary_bases": 0}, "adversary_bases must be at least 1, got 0"),
        ({"expert_span": 0}, "expert_span must be at least 1, got 0"),
        ({"keep_best": True}, "keep_best chooses by validation: set validate_every too"),
        ({"temperature": 0.0}, r"temperature must be positive, got 0\.0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0"),
        ({"real_batch_size": 0}, "real_batch_size must be at least 1, got 0"),
        ({"max_inner_epochs": 0}, "max_inner_epochs must be at least 1, got 0"),
        ({"restart_window": 0}, "restart_window must be at least 1, got 0"),
        ({"learning_rate_halvings": [0.5, 60]}, r"fractions of the run between 0 and 1, got \[0\.5, 60\]"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_recipe(**settings)


def averaged_by_hand(recipe, experts_dir, **sizes):
    """Two processes' steps in one: the mean of the gradients of both ranks' generators."""
    distiller = make(recipe, experts_dir, **sizes)
    model, adversary = distiller.model, distiller.adversary.network
    parameters = list(model.parameters()) + list(adversary.parameters())
    for step in range(recipe.distillation.steps):
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        for rank in (0, 1):
            model.zero_grad()
            adversary.zero_grad()
            generator = seeded_generator(recipe.distillation.seed, step, rank)
            distiller.objective.backward(model, generator)
            distiller.adversary.backward(model, generator)
            for total, parameter in zip(sums, parameters, strict=True):
                if parameter.grad is not None:
                    total += parameter.grad
        for total, parameter in zip(sums, parameters, strict=True):
            parameter.grad = total / 2
        for optimizer in distiller.optimizers.values():
            optimizer.step()
    return states(distiller)


TWO_PROCESSES = r"""
    import sys

    from safetensors.torch import save_file
    from tiny_runs import make_objective
    from tiny import tiny_accelerator, tiny_data, tiny_distiller, tiny_model, tiny_recipe

    output_dir, experts_dir = sys.argv[1:]
    accelerator = tiny_accelerator()
    rank = accelerator.process_index
    assert accelerator.num_processes == 2
    data = tiny_data()
    for name in ("dm", "mtt"):
        recipe = tiny_recipe(output_dir=f"{output_dir}/{name}", objective=name, steps=4)
        objective = make_objective(recipe, experts_dir, data)
        # The second process starts elsewhere: the first one's parameters count.
        model = tiny_model(data, seed=rank)
        distiller = tiny_distiller(model, objective, recipe, data)
        distiller.run()
        for part, module in distiller._modules().items():
            save_file(module.state_dict(), f"{output_dir}/{name}-{part}-{rank}.safetensors")
        # Resumed, both processes stand where they stood.
        again = tiny_distiller(tiny_model(data, seed=7), objective, recipe, data)
        again.resume()
        assert again.step_number == 4
        assert all((again.model.state_dict()[key] == value).all() for key, value in model.state_dict().items())
    sys.stdout.write(f"RESULT {rank}\n")
"""


@pytest.mark.slow
def test_two_processes_equal_one_with_the_averaged_gradient(tmp_path, experts_dir):
    """Within 1e-6 of the values, which float32 sums taken in another order may differ by; ranks are bit-equal."""
    assert launch_processes(tmp_path, TWO_PROCESSES, str(tmp_path), str(experts_dir)) == ["RESULT 0", "RESULT 1"]
    for name in ("dm", "mtt"):
        first, second = (
            {
                f"{part}.{key}": value
                for part in ("model", "adversary")
                for key, value in load_file(tmp_path / f"{name}-{part}-{rank}.safetensors").items()
            }
            for rank in (0, 1)
        )
        assert_same(first, second)
        recipe = tiny_recipe(output_dir=str(tmp_path / f"{name} by hand"), objective=name, steps=4)
        expected = averaged_by_hand(recipe, experts_dir)
        assert first.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(
                first[key], value, rtol=1e-6, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
            )
        assert [line["step"] for line in metrics(tmp_path / name)] == [1, 2, 3, 4]
        # A run of one process is another run.
        alone = make(tiny_recipe(output_dir=str(tmp_path / f"{name} alone"), objective=name, steps=4), experts_dir)
        alone.run()
        assert (states(alone)["model.bases"] - first["model.bases"]).abs().max() > 1e-3
