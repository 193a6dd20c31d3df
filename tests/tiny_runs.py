"""Runs of a few steps, by distribution and trajectory matching."""

from haba_hf.distillation import Distiller, DistributionMatching, ExpertArguments, ExpertStore, TrajectoryMatching
from tiny import NETWORK, tiny_data, tiny_distiller, tiny_model


def stored(directory):
    return ExpertArguments(experts_dir=str(directory), num_experts=2, expert_batch_size=10)


def make_objective(recipe, experts_dir, data):
    if recipe.distillation.objective == "dm":
        return DistributionMatching(NETWORK, recipe.distillation, recipe.distribution_matching)
    experts = ExpertStore(stored(experts_dir), NETWORK, data)
    return TrajectoryMatching(experts, NETWORK, recipe.distillation, recipe.trajectory_matching)


def make(recipe, experts_dir=None, model_seed=0, kind=Distiller, validate=None, settings=None, **sizes):
    data = tiny_data()
    model = tiny_model(data, seed=model_seed, **sizes)
    objective = make_objective(recipe, experts_dir, data)
    return tiny_distiller(model, objective, recipe, data, kind, settings, validate)


class Interrupted(Distiller):
    """Is stopped in the log call of step 5, before its checkpoint, as by Ctrl-C."""

    def log(self, logs):
        super().log(logs)
        if self.step_number == 5:
            raise KeyboardInterrupt


class Clock:
    """In place of the module `time`: every look at it is some seconds after the one before."""

    def __init__(self, seconds=30):
        self.now, self.seconds = 0.0, seconds

    def perf_counter(self):
        self.now += self.seconds
        return self.now
