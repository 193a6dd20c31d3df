"""A run with a budget of time."""

import math

import pytest
from safetensors.torch import load_file

from haba_hf.distillation import Distiller
from haba_hf.distillation.checkpoints import latest_checkpoint
from tiny import assert_same, launch_processes, metrics, states, tiny_recipe
from tiny_runs import Clock, Interrupted, make


class TestMaxMinutes:
    """Steps of 30 seconds each."""

    @pytest.fixture(autouse=True)
    def clock(self, monkeypatch):
        monkeypatch.setattr("haba_hf.distillation.distiller.time", Clock())

    def test_the_step_that_reaches_it_is_the_last(self, tmp_path):
        validated = {}
        recipe = tiny_recipe(
            output_dir=str(tmp_path), steps=100, max_minutes=1.75, checkpoint_every=3, validate_every=3
        )
        distiller = make(recipe, validate=lambda model, step: validated.setdefault(step, 50.0 + step))
        assert distiller.ended_by is None
        distiller.run()
        assert (distiller.step_number, distiller.seconds, distiller.ended_by) == (4, 120.0, "max_minutes")
        assert list(validated) == [3, 4]
        assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4]
        assert latest_checkpoint(tmp_path).name == "step-00000004"

        again = make(recipe, model_seed=9, validate=lambda model, step: 0.0)
        again.run()
        assert (again.step_number, again.seconds, again.ended_by) == (4, 120.0, "max_minutes")
        assert_same(states(again), states(distiller))
        assert len(metrics(tmp_path)) == 4

    @pytest.mark.parametrize(("max_minutes", "steps", "ended_by"), [(2.0, 4, "max_minutes"), (99.0, 6, "steps")])
    def test_what_ends_a_run(self, tmp_path, max_minutes, steps, ended_by):
        distiller = make(tiny_recipe(output_dir=str(tmp_path), max_minutes=max_minutes))
        distiller.run()
        assert (distiller.step_number, distiller.ended_by) == (steps, ended_by)

    def test_a_resumed_run_counts_on(self, tmp_path):
        settings = {"steps": 100, "max_minutes": 3.25, "learning_rate_schedule": "cosine"}
        whole = make(tiny_recipe(output_dir=str(tmp_path / "whole"), **settings))
        whole.run()
        recipe = tiny_recipe(output_dir=str(tmp_path / "parts"), **settings)
        with pytest.raises(KeyboardInterrupt):
            make(recipe, kind=Interrupted).run()
        assert latest_checkpoint(tmp_path / "parts").name == "step-00000004"
        resumed = make(recipe, model_seed=9)
        resumed.run()
        assert (resumed.step_number, resumed.seconds) == (whole.step_number, whole.seconds) == (7, 210.0)
        assert_same(states(resumed), states(whole))

    def test_schedules_follow_what_ends_the_run_first(self, tmp_path):
        settings = {"learning_rate_schedule": "cosine", "learning_rate_halvings": [0.5]}
        for steps, max_minutes, length in ((100, 4.0, 8), (8, 99.0, 8), (8, None, 8)):
            output_dir = str(tmp_path / f"{steps} {max_minutes}")
            seen = []

            class Watched(Distiller):
                def step(self, seen=seen):
                    logs = super().step()
                    seen.append(self.optimizers["optimizer"].param_groups[0]["lr"])
                    return logs

            recipe = tiny_recipe(output_dir=output_dir, steps=steps, max_minutes=max_minutes, **settings)
            make(recipe, kind=Watched).run()
            progress = [step / length for step in range(length)]
            expected = [0.03 * (1 + math.cos(math.pi * part)) / 2 * (0.5 if part >= 0.5 else 1) for part in progress]
            assert seen == pytest.approx(expected)


TWO_CLOCKS = r"""
    import sys

    from safetensors.torch import save_file
    from tiny import states, tiny_accelerator, tiny_recipe
    from tiny_runs import Clock, make

    from haba_hf.distillation import distiller as distiller_module

    (output_dir,) = sys.argv[1:]
    rank = tiny_accelerator().process_index
    distiller_module.time = Clock((30, 1000)[rank])
    distiller = make(tiny_recipe(output_dir=output_dir, max_minutes=2.0, learning_rate_schedule="cosine"))
    distiller.run()
    assert distiller.accelerator.num_processes == 2
    assert (distiller.step_number, distiller.seconds, distiller.ended_by) == (4, 120.0, "max_minutes")
    save_file(states(distiller), f"{output_dir}/{rank}.safetensors")
    sys.stdout.write(f"RESULT {rank}\n")
"""


@pytest.mark.slow
def test_two_processes_end_by_the_first_one_s_clock(tmp_path):
    assert launch_processes(tmp_path, TWO_CLOCKS, str(tmp_path)) == ["RESULT 0", "RESULT 1"]
    assert_same(*(load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1)))
