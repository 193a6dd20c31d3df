"""The recipe: its files parse, it survives a round trip, and its hash changes with the result only."""

import os
import signal
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from haba_hf.recipes import Recipe, RecipeError, parse_recipe, recipes_folder, run_script, section_values
from haba_hf.utils.interrupts import Terminated

RECIPES = sorted(recipes_folder().rglob("*.yaml"))


def test_field_names_are_unique_over_sections():
    names = [field.name for section in Recipe().sections().values() for field in fields(section)]
    assert len(names) == len(set(names))
    assert list(Recipe().to_dict()) == names


def test_every_field_has_help():
    for section in Recipe().sections().values():
        assert is_dataclass(section)
        assert [field.name for field in fields(section) if not field.metadata.get("help")] == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_recipe_parses(path):
    assert isinstance(parse_recipe([str(path)]), Recipe)


def test_command_line_overrides_the_recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("dataset: mnist\nstudent_epochs: 7\n")
    recipe = parse_recipe([str(path), "--student_epochs", "8"])
    assert recipe.data.dataset == "mnist"
    assert recipe.evaluation.student_epochs == 8


def test_unknown_field_names_the_nearest_and_the_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("student_epoch: 7\n")
    with pytest.raises(
        RecipeError, match=r"recipe\.yaml: unknown field 'student_epoch'; did you mean 'student_epochs'"
    ):
        parse_recipe([str(path)])


def test_write_and_read_back(tmp_path):
    recipe = parse_recipe(["--data_dir", str(tmp_path), "--evaluation_learning_rate", "1e-7", "--resize", "28"])
    path = tmp_path / "new" / "recipe.yaml"
    recipe.write(path)
    again = parse_recipe([str(path)])
    assert again == recipe
    assert again.hash == recipe.hash
    assert os.listdir(path.parent) == ["recipe.yaml"]


def test_write_to_an_unwritable_place(tmp_path):
    (tmp_path / "recipe.yaml").mkdir()
    with pytest.raises(OSError, match=r"Cannot write .*recipe\.yaml"):
        Recipe().write(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, "-0.1") for name in ("basis_learning_rate", "hallucinator_learning_rate", "lambda_con", "lambda_dd")),
        *((name, "5") for name in ("momentum", "adam_beta1", "expert_momentum", "evaluation_momentum")),
        ("momentum", "1"),
        ("alpha_min", "-5"),
        ("validate_every", "-1"),
        ("validation_epochs", "0"),
        ("evaluation_weight_decay", "-0.1"),
        ("seed", "-1"),
        ("seed", str(2**63)),
        ("data_seed", "-3"),
        ("output_dir", " "),
        ("network_width", "1000000"),
        ("student_width", "1000000"),
        ("network_depth", "100"),
        ("resize", "100000"),
        ("train_split", "test"),
    ],
)
def test_a_value_out_of_bounds_is_one_sentence(field, value):
    with pytest.raises(ValueError, match=rf"\b{field}\b.*(must be|is empty)"):
        parse_recipe([f"--{field}={value}", "--test_split=test"])


def test_hash():
    recipe = Recipe()
    assert len(recipe.hash) == 12
    assert int(recipe.hash, 16) >= 0
    assert recipe.hash == Recipe().hash
    recipe.evaluation.student_epochs += 1
    assert recipe.hash != Recipe().hash
    assert recipe.hash_of("data", "network") == Recipe().hash_of("data", "network")


def test_hash_does_not_depend_on_whole_floats():
    recipe, same = Recipe(), Recipe()
    recipe.evaluation.evaluation_learning_rate = 1
    same.evaluation.evaluation_learning_rate = 1.0
    assert recipe.hash == same.hash


def test_hash_leaves_out_what_does_not_change_the_result():
    for name, section in Recipe().sections().items():
        for field in fields(section):
            if not field.metadata.get("result", True):
                recipe = Recipe()
                assert field.name not in section_values(recipe.sections()[name], result_only=True)
    assert parse_recipe(["--output_dir", "elsewhere"]).hash == Recipe().hash


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RecipeError("x.yaml: minutes: expected a whole number"), "error: x.yaml: minutes: expected a whole number\n"),
        (FileNotFoundError("there is no folder x"), "error: there is no folder x (HABA_DEBUG=1 shows where)\n"),
        (OSError(28, "No space left", "x"), "error: [Errno 28] No space left: 'x' (HABA_DEBUG=1 shows where)\n"),
        (ValueError("two\n  lines"), "error: two lines (HABA_DEBUG=1 shows where)\n"),
        (ValueError(), "error: ValueError (HABA_DEBUG=1 shows where)\n"),
    ],
)
def test_run_script_prints_one_line(error, line, capsys, monkeypatch):
    monkeypatch.delenv("HABA_DEBUG", raising=False)

    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("stop", "status", "line"),
    [
        (KeyboardInterrupt(), 130, "stopped: run the same command again to go on\n"),
        (KeyboardInterrupt("step 5 is saved"), 130, "stopped: step 5 is saved\n"),
        (Terminated("step 5 is saved"), 143, "stopped: step 5 is saved\n"),
    ],
)
def test_a_stopped_script_says_how_to_go_on(stop, status, line, capsys):
    def main():
        raise stop

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        run_script(main)
    assert left.value.code == status
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == line


def test_run_script_leaves_bugs_and_debugging_alone(monkeypatch):
    def bug():
        raise KeyError("a bug")

    def mistake():
        raise ValueError("a mistake")

    with pytest.raises(KeyError):
        run_script(bug)
    monkeypatch.setenv("HABA_DEBUG", "1")
    with pytest.raises(ValueError, match="a mistake"):
        run_script(mistake)
    run_script(lambda: None)


@pytest.mark.slow
def test_a_script_exits_with_one_line(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from haba_hf.recipes import parse_recipe, run_script\nrun_script(parse_recipe)\n")
    environment = {name: value for name, value in os.environ.items() if name != "HABA_DEBUG"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(script), "--datasett", "mnist"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == "error: command line: unknown field 'datasett'; did you mean 'dataset'?"
    assert "Traceback" not in done.stderr
