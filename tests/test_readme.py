"""The README's Python runs as it stands there, from the root of a checkout."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = re.findall(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def run(example):
    return subprocess.run(
        [sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    ).stdout


def test_the_first_example():
    run(f"{EXAMPLES[0]}assert output.samples.shape == (50, 1, 28, 28) and len(output.labels) == 50")


@pytest.mark.slow
def test_an_artifact_trains_a_network():
    example = next(example for example in EXAMPLES if "optimizer.step()" in example)
    assert float(run(example).removesuffix("%\n")) > 80
