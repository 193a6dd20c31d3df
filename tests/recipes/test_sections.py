"""Sections read from a file and a command line: what is accepted, what wins, and what each mistake says."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from haba_hf.recipes import RecipeError, parse_sections, section_values


@dataclass
class Oven:
    heat: float = field(default=180.0, metadata={"help": "Degrees, 100% of the dial at most."})
    minutes: int = 30
    fan: bool = True
    door_open: bool = False
    preheat: bool | None = None
    mode: Literal["top", "bottom", "off"] = "top"


@dataclass
class Cake:
    flavor: str = "plain"
    layers: list[int] = field(default_factory=lambda: [1, 2])
    weights: list[float] | None = None
    icing: Literal["none", "sugar"] | None = None
    weight: float | None = None
    note: str | None = field(default=None, metadata={"help": "Not read by anyone.", "result": False})


@dataclass
class Guest:
    name: str
    age: int | None = None


def parse(tmp_path, text="", *words):
    path = tmp_path / "cake.yaml"
    path.write_text(text, encoding="utf-8")
    return parse_sections((Oven, Cake), [str(path), *words])


def test_defaults_without_a_file():
    assert parse_sections((Oven, Cake), []) == (Oven(), Cake())


def test_command_line_wins_over_file_wins_over_defaults(tmp_path):
    oven, cake = parse(tmp_path, "heat: 200\nminutes: 40\nflavor: plum\n", "--minutes", "50", "--no_fan")
    assert (oven.heat, oven.minutes, oven.fan, cake.flavor) == (200.0, 50, False, "plum")


def test_file_may_come_after_the_options(tmp_path):
    (tmp_path / "cake.yaml").write_text("minutes: 40")
    oven, _ = parse_sections((Oven, Cake), ["--heat", "150", str(tmp_path / "cake.yaml")])
    assert (oven.heat, oven.minutes) == (150.0, 40)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("heat: 1e-7", "heat", 1e-7),  # text in YAML 1.1
        ("heat: 1.0e-7", "heat", 1e-7),
        ("heat: 3", "heat", 3.0),
        ("heat: -5E+2", "heat", -500.0),
        ("minutes: '7'", "minutes", 7),
        ("minutes: -1", "minutes", -1),
        ("fan: no", "fan", False),
        ("fan: 'False'", "fan", False),
        ("preheat: true", "preheat", True),
        ("preheat:", "preheat", None),
        ("mode: 'off'", "mode", "off"),
    ],
)
def test_values_of_a_file(tmp_path, text, name, value):
    oven, _ = parse(tmp_path, text)
    result = vars(oven)[name]
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("layers: [3, 4]", "layers", [3, 4]),
        ("layers: []", "layers", []),
        ("weights: [1, 1e-3]", "weights", [1.0, 1e-3]),
        ("weights: null", "weights", None),
        ("weight: 2", "weight", 2.0),
        ("weight: none", "weight", None),
        ("icing: none", "icing", "none"),  # a choice of that name, not the absence of a value
        ("icing: null", "icing", None),
        ("flavor: none", "flavor", "none"),
    ],
)
def test_optional_and_list_values_of_a_file(tmp_path, text, name, value):
    _, cake = parse(tmp_path, text)
    assert vars(cake)[name] == value


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--layers", "3", "4"], "layers", [3, 4]),
        (["--weights", "0.5", "1e-3"], "weights", [0.5, 1e-3]),
        (["--weights", "none"], "weights", None),
        (["--weight", "none"], "weight", None),
        (["--weight=-1e-3"], "weight", -1e-3),
        (["--icing", "sugar"], "icing", "sugar"),
        (["--note", "a b"], "note", "a b"),
    ],
)
def test_values_of_the_command_line(tmp_path, words, name, value):
    _, cake = parse(tmp_path, "layers: [9]\nweights: [9]\nweight: 9\n", *words)
    assert vars(cake)[name] == value


@pytest.mark.parametrize(
    ("words", "value"),
    [(["--door_open"], True), (["--door-open", "yes"], True), (["--door_open", "false"], False), ([], False)],
)
def test_booleans_of_the_command_line(words, value):
    oven, _ = parse_sections((Oven, Cake), words)
    assert oven.door_open is value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("minutes: many", "minutes: expected a whole number, got 'many'"),
        ("minutes: 1.5", "minutes: expected a whole number, got 1.5"),
        ("minutes: true", "minutes: expected a whole number, got True"),
        ("minutes:", "minutes: expected a whole number, got None"),
        ("heat: hot", "heat: expected a finite number, got 'hot'"),
        ("heat: .nan", "heat: expected a finite number, got nan"),
        ("heat: [1]", "heat: expected a finite number, got [1]"),
        ("fan: 2", "fan: expected true or false, got 2"),
        ("mode: side", "mode: expected one of top, bottom, off, got 'side'"),
        ("mode: off", "mode: expected one of top, bottom, off, got False (YAML reads yes, no, on and off"),
        ("flavor: 7", "flavor: expected text, got 7"),
        ("layers: 3", "layers: expected a list, each a whole number, got 3"),
        ("layers: [1, x]", "layers: expected a list, each a whole number, got [1, 'x']"),
        ("weight: heavy", "weight: expected a finite number, or none, got 'heavy'"),
        ("icing: {sugar: 1}", "icing: expected one of none, sugar, or none, got {'sugar': 1}"),
    ],
)
def test_wrong_value_in_a_file(tmp_path, text, message):
    with pytest.raises(RecipeError) as error:
        parse(tmp_path, text)
    assert f"cake.yaml: {message}" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("minutes: 010", "minutes: write 010 as a plain whole number; YAML would read another one"),  # 8
        ("minutes: 1:30", "minutes: write 1:30 as a plain whole number"),  # 90
        ("layers: [1, 0x10]", "layers: write 0x10 as a plain whole number"),
        ("minutes: &a 1\nlayers: [*a]", "a recipe has no aliases"),
        ("layers: " + "[" * 3000, "not a YAML file"),
        ("layers: " + "[" * 3000 + "]" * 3000, "nest"),
        ("# " + "x" * 2**20, "bytes are no recipe"),
        ("minutes: " + "x" * 10_000, "expected a whole number, got 'xxxx"),
    ],
    ids=range(8),
)
def test_files_that_mean_another_number_or_would_fill_the_memory(tmp_path, text, message):
    with pytest.raises(RecipeError) as error:
        parse(tmp_path, text)
    assert message in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "many"], "command line: minutes: expected a whole number, got 'many'"),
        (["--mode", "side"], "command line: mode: expected one of top, bottom, off, got 'side'"),
        (["--layers", "1", "x"], "command line: layers: expected a list, each a whole number, got ['1', 'x']"),
        (["--weight", "-1e-3x"], "write --field=value if the value begins with a dash"),
        (["--minuts", "3"], "command line: unknown field 'minuts'; did you mean 'minutes'?"),
        (["--door-opened=1"], "command line: unknown field 'door_opened'; did you mean 'door_open'?"),
        (["--qqq"], "command line: unknown field 'qqq'; --help lists the fields"),
        (["--min", "3"], "command line: unknown field 'min'"),  # no abbreviations
    ],
)
def test_wrong_command_line(words, message):
    with pytest.raises(RecipeError) as error:
        parse_sections((Oven, Cake), words)
    assert message in str(error.value)


def test_two_recipe_files(tmp_path):
    with pytest.raises(RecipeError, match=r"expected one recipe file .* got 'other\.yaml' too"):
        parse(tmp_path, "", "other.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("minuts: 3", "cake.yaml: unknown field 'minuts'; did you mean 'minutes'?"),
        ("7: 3", "cake.yaml: unknown field '7'; --help lists the fields"),
        ("minutes: 3\nminutes: 4", "cake.yaml: minutes is set more than once"),
        ("- minutes", "cake.yaml: a recipe is lines of `field: value`, this file holds a list"),
        ("minutes: [3", "cake.yaml: not a YAML file: while parsing a flow sequence"),
    ],
)
def test_wrong_file(tmp_path, text, message):
    with pytest.raises(RecipeError) as error:
        parse(tmp_path, text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_file_that_is_not_text(tmp_path):
    (tmp_path / "cake.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not a YAML file"):
        parse_sections((Oven,), [str(tmp_path / "cake.yaml")])


def test_missing_file_names_near_ones(tmp_path):
    (tmp_path / "plum-cake.yaml").touch()
    with pytest.raises(FileNotFoundError, match=r"no recipe .*plumcake\.yaml; did you mean .*plum-cake\.yaml"):
        parse_sections((Oven,), [str(tmp_path / "plumcake.yaml")])
    with pytest.raises(FileNotFoundError, match="haba list recipes names"):
        parse_sections((Oven,), [str(tmp_path / "nowhere" / "1234567890")])


def test_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no recipe"):
        parse_sections((Oven,), [str(tmp_path)])


def test_field_without_default(tmp_path):
    with pytest.raises(RecipeError, match="name has no default: set it in a recipe or on the command line"):
        parse_sections((Guest,), [])
    assert parse_sections((Guest,), ["--name", "Ann"]) == (Guest("Ann"),)


def test_field_in_two_sections():
    @dataclass
    class Kettle:
        heat: float = 100.0

    with pytest.raises(TypeError, match="'heat' is in more than one section"):
        parse_sections((Oven, Kettle), [])


def test_field_of_a_type_that_cannot_be_read():
    @dataclass
    class Shelf:
        books: dict[str, int] = field(default_factory=dict)

    with pytest.raises(TypeError, match="cannot hold a field of type"):
        parse_sections((Shelf,), [])


def test_help_shows_choices_and_defaults(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_sections((Oven, Cake), ["--help"], description="Bake.\n\n    bake cake.yaml")
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for part in ("bake cake.yaml", "Cake:", "100% of the dial", "(one of top, bottom, off; default: top)", "--no_fan"):
        assert part in shown


def test_section_values():
    assert section_values(Oven(heat=200))["heat"].hex() == (200.0).hex()
    assert "note" in section_values(Cake())
    assert "note" not in section_values(Cake(), result_only=True)
    with pytest.raises(RecipeError, match="minutes: expected a whole number, got 'many'"):
        section_values(Oven(minutes="many"))
