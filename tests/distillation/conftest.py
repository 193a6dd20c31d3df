"""What the tests of several objectives share."""

import pytest

from tiny import double_precision


@pytest.fixture
def doubles():
    """Models, networks, samples and real images are float64."""
    with double_precision():
        yield
