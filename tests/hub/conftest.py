"""A Hub on loopback, and a tiny artifact to send there."""

import pytest

from fake_hub import serving
from tiny_artifact import tiny_artifact


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serving(tmp_path, monkeypatch) as server:
        yield server
        assert server.unknown == [], "the client asked for what this Hub does not know"


@pytest.fixture
def artifact(tmp_path):
    return tiny_artifact(tmp_path / "run")
