"""The pages: their Python runs as it stands there, their links lead somewhere, and what their commands name exists."""

import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fake_hub import WRITER, FakeHub, environment_of
from haba_hf.utils.shipped import recipe_path
from image_sets import encode, pixels_of, rows_of, write_parquet

ROOT = Path(__file__).parents[1]
PAGES = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "haba_hf/README.md", "training/README.md"),
    *("hub_cards/README.md", "training/results/README.md", "training/results/benchmark.md"),
    *(f"training/results/{name}.md" for name in ("paper", "storage", "uses", "equal_storage", "dropped")),
]
each_page = pytest.mark.parametrize("page", PAGES)


def examples(page):
    return re.findall(r"```python\n(.+?)```", (ROOT / page).read_text(), re.DOTALL)


def run(example, cwd=ROOT, **environment):
    command = [sys.executable, "-c", example]
    found = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout


@pytest.mark.slow
def test_an_artifact_is_used_and_its_student_reaches_what_the_card_says():
    check = """
from haba_hf.data import DataArguments, load_image_data
from haba_hf.evaluation import accuracy
from transformers import AutoImageProcessor

test = load_image_data(DataArguments("digits")).test
processor = AutoImageProcessor.from_pretrained("hub_cards/published/digits-dm-1pc")
print(accuracy(network, test.images, test.labels, processor), samples.column_names)
"""
    example = examples("README.md")[0].replace('"transformers/resnet")', '"transformers/resnet", evaluation_steps=2)')
    assert "evaluation_steps=2" in example
    reached, columns = run(example + check).split(" ", 1)
    card = (ROOT / "hub_cards" / "published" / "digits-dm-1pc" / "README.md").read_text()
    mean, std = re.search(r"\| HaBa, 5 hallucinators \| (\d+\.\d) ± (\d+\.\d) \|", card).groups()
    assert abs(100 * float(reached) - float(mean)) < 3 * float(std) + 0.1
    assert columns.startswith("['pixel_values', 'labels'")


@pytest.mark.slow
def test_own_images_are_distilled_and_pushed(tmp_path):
    for split, count in (("train", 80), ("test", 4)):
        for label, name in enumerate(("cat", "dog", "owl")):
            folder = tmp_path / "my_images" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{index}.png").write_bytes(encode(pixels_of(label, index, 16, 16)))
    few = "storage_budget=2, steps=2, network_width=4, student_width=4, evaluation_steps=2)"
    example = examples("README.md")[1].replace("storage_budget=2)", few)
    assert few in example
    server = FakeHub()
    try:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = environment_of(server, tmp_path / "home") | {"HF_TOKEN": WRITER, "PYTHONPATH": path}
        printed = run(example, cwd=tmp_path, **environment)
        assert "model.safetensors" in server.files("me/my-images-distilled")
    finally:
        server.close()
    assert 0 <= float(printed.splitlines()[-1]) <= 1


@pytest.mark.slow
def test_a_loop_by_hand():
    example = next(example for example in examples("haba_hf/README.md") if "optimizer.step()" in example)
    assert float(run(example).removesuffix("%\n")) > 80


def test_its_lines_are_timed_as_they_stand(tmp_path, capsys):
    script = runpy.run_path(str(ROOT / "training" / "benchmark" / "readme.py"))
    write_parquet(tmp_path / "set" / "train-0.parquet", rows_of(per_class=101))
    script["save_images"](str(tmp_path / "set"), tmp_path / "my_images")
    assert len(list((tmp_path / "my_images" / "train").rglob("*.png"))) == 3 * 80
    assert len(list((tmp_path / "my_images" / "test" / "2").glob("*.png"))) == 20
    script["run"]("first = [1,\n  2]\nlast = first[-1]  # two")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ", 1)[1] for line in lines] == ["first = [1, 2]", "last = first[-1]"]
    assert all(line.split()[1:4] == ["s", "of", "CPU,"] for line in lines)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 1000


def test_a_package_index_is_given_no_link_into_a_checkout():
    """By the substitutions that the build makes of the README."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "readme" in project["project"]["dynamic"]
    hook = project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    text = "".join((ROOT / fragment["path"]).read_text() for fragment in hook["fragments"])
    assert "](haba_hf/README.md" in text and "![" in text
    for substitution in hook["substitutions"]:
        text = re.sub(substitution["pattern"], substitution["replacement"], text)
    assert all(target.startswith("https://") for target in re.findall(r"\]\(([^)\s]+)\)", text))
    assert "*Picture: One real image" in text and "\n- haba_hf: the package" in text


@each_page
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        linked = (ROOT / page).parent / file if file else ROOT / page
        assert linked.exists(), target
        if anchor:
            titles = re.findall(r"(?m)^#+ (.+)$", linked.read_text())
            assert anchor in [re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles], target


@each_page
def test_commands_name_what_exists(page):
    text = (ROOT / page).read_text()
    for path in re.findall(r"(?<![\w/])(?:training|hub_cards|haba_hf|tests)/[\w./-]+\.(?:py|yaml|sh|png|md)\b", text):
        assert (ROOT / path).exists(), path
    commands = "distill|evaluate|select|experts|embed|robustness"
    for name in re.findall(rf"haba (?:{commands}) (?!runs/)([a-z0-9_]+/[\w-]+)", text):
        assert recipe_path(name)
