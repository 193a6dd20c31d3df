"""`training/reproduce.py` in the process of a test."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate.state import AcceleratorState

from haba_hf import cli
from haba_hf.recipes import run_script
from haba_hf.reproduction import records

SCRIPT = Path(__file__).parents[2] / "training" / "reproduce.py"


@pytest.fixture
def script():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("reproduce", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def reproduce(script, tmp_path, monkeypatch, capsys):
    """Fills a table in this process: the commands of its rows take longer to start than to run."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def haba(call):
        assert call[:3] == [sys.executable, "-m", "haba_hf.cli"]
        try:
            cli.main(call[3:])
        except SystemExit as end:
            return SimpleNamespace(returncode=end.code)
        return SimpleNamespace(returncode=0)

    def run(table, *words):
        places = ["--results", str(tmp_path / "results"), "--output_root", str(tmp_path / "runs")]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(table), *places, *words])
        code = 0
        try:
            run_script(script.main)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
            print("" if isinstance(end.code, int) else end.code, file=sys.stderr)
        return SimpleNamespace(returncode=code, **dict(zip(("stdout", "stderr"), capsys.readouterr(), strict=True)))

    monkeypatch.setattr(records, "subprocess", SimpleNamespace(run=haba))
    yield run
    AcceleratorState._reset_state(reset_partial_state=True)
