"""What the tests of several objectives share."""

import pytest

from haba_hf.distillation import record_experts
from tiny import NETWORK, double_precision, tiny_accelerator, tiny_data
from tiny_runs import stored


@pytest.fixture
def doubles():
    """Models, networks, samples and real images are float64."""
    with double_precision():
        yield


@pytest.fixture(scope="module")
def experts_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("experts")
    record_experts(tiny_data(), NETWORK, stored(directory), 3, tiny_accelerator())
    return directory
