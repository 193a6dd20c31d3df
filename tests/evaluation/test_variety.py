"""How different the samples are that hallucinators make of one basis."""

import numpy as np
import pytest
import torch

from haba_hf.evaluation import hallucinator_variety, variety
from naive_artifact import make_model


@pytest.mark.parametrize(
    "kwargs", [{}, {"formation_factor": 2, "sample_height": 8}, {"hallucinator_depth": 0, "sample_channels": 1}]
)
def test_it_is_the_ratio_of_two_variances(kwargs, monkeypatch):
    monkeypatch.setattr(variety, "PART", 4)  # of six bases, so that the last part is smaller
    model = make_model(**kwargs)
    output = model.materialize()
    values = output.samples.detach().double().numpy().reshape(len(output.samples), -1)
    of_basis = output.basis_ids.numpy()
    within = []
    for basis in np.unique(of_basis):
        own = values[of_basis == basis].reshape(3, -1)  # the tiles of a formation belong to one sample
        within.append(own.var(axis=0, ddof=1).mean())
    whole = values.reshape(18, -1)
    expected = np.mean(within) / whole.var(axis=0, ddof=1).mean()
    assert hallucinator_variety(model) == pytest.approx(expected, rel=1e-5)


def test_copies_have_none_and_different_samples_of_one_basis_all_of_it():
    model = make_model(hallucinator_depth=0)
    with torch.no_grad():
        for hallucinator in model.hallucinators:
            hallucinator.shift.zero_()
    assert hallucinator_variety(model) == pytest.approx(0, abs=1e-9)
    with torch.no_grad():
        model.bases.copy_(model.bases[:1].expand_as(model.bases))
        for number, hallucinator in enumerate(model.hallucinators):
            hallucinator.shift.fill_(number)
    assert hallucinator_variety(model) == pytest.approx(17 / 12, rel=1e-6), "18 samples of 3 values, unbiased"


def test_of_one_hallucinator_or_of_samples_that_are_alike_there_is_nothing_to_say():
    assert hallucinator_variety(make_model(num_hallucinators=1)) is None
    assert hallucinator_variety(make_model(num_hallucinators=0)) is None
    model = make_model(hallucinator_depth=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert hallucinator_variety(model) is None


def test_of_many_bases_some_are_looked_at_evenly_spread(monkeypatch):
    model = make_model(hallucinator_depth=0)
    monkeypatch.setattr(variety, "MOST_BASES", 2)
    asked = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda bases, pairs: asked.append(bases) or forward(bases, pairs))
    assert hallucinator_variety(model) > 0
    assert sorted(set(torch.cat(asked).tolist())) == [0, 5]
