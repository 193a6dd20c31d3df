"""Scripts of training/ in the test's process."""

import runpy
import sys

import pytest
from accelerate.state import AcceleratorState

from training_scripts import TRAINING


@pytest.fixture
def run_here(monkeypatch):
    """Runs a script in this process: importing torch and transformers takes longer than most tests."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HABA_DEBUG", raising=False)

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(TRAINING / name), run_name="__main__")

    yield run
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def error_of(run_here, capfd):
    """Runs a script with a mistake in its settings and returns the one line it says about it."""

    def error(name, *arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            run_here(name, *arguments)
        assert stop.value.code == 2
        said = capfd.readouterr().err
        assert "Traceback" not in said
        lines = [line for line in said.splitlines() if "error:" in line]
        assert lines == said.splitlines()[-1:], "one line, the last"
        return lines[0]

    return error
