"""The tables that come with the package: every row is a recipe whose artifact can be made and is what it says."""

import re
from pathlib import Path

import pytest

from haba_hf import HabaConfig
from haba_hf.artifact.planning import plan_storage
from haba_hf.evaluation import in_percent
from haba_hf.recipes import Recipe, parse_recipe, recipe_path, recipes_folder
from haba_hf.reproduction import markdown, read_records, read_table, tables_folder
from haba_hf.reproduction.leaderboard import leaderboard
from haba_hf.utils.shipped import published_artifacts

RESULTS = Path(__file__).parents[2] / "training" / "results"
SHAPES = {
    "fashion_mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "mnist": (1, 28, 28),
    "digits": (1, 8, 8),
    "imagenette": (3, 128, 128),
    "mini_speech_commands": (1, 64, 64),
}
MODEL_FIELDS = (
    *("bases_per_class", "num_hallucinators", "hallucinator_depth", "hallucinator_channels", "share_encoder_decoder"),
    *("basis_channels", "label_kind", "hallucinator_init", "formation_factor", "formation_axes", "num_step_sizes"),
)


def config_of(recipe: Recipe) -> HabaConfig:
    """The artifact's, as distillation would make it for ten classes."""
    channels, height, width = SHAPES[recipe.data.dataset]
    sizes = {"sample_channels": channels, "sample_height": height, "sample_width": width}
    settings = {name: vars(recipe.model)[name] for name in MODEL_FIELDS}
    settings["label_kind"] = "hard" if recipe.model.label_kind == "hard" else "soft"
    return HabaConfig(num_labels=10, **settings, **sizes)


@pytest.mark.parametrize("name", sorted(path.stem for path in tables_folder().glob("*.yaml")))
def test_every_row_of_every_table_parses_and_has_an_artifact(name):
    table = read_table(name)
    assert table.title and table.rows
    for row in table.rows:
        assert isinstance(row.paper, str) and isinstance(row.name, str)
        recipe = row.parse({})
        assert config_of(recipe).num_samples > 0
        chooses = "\ncoreset: " in recipe_path(row.recipe).read_text()
        assert (row.kind == "distilled") != chooses or row.kind == "full_data"
        if row.published is not None:
            published = parse_recipe([row.published, f"--bases_per_class={recipe.model.bases_per_class}"])
            assert published.data.dataset == recipe.data.dataset
            assert published.distillation.objective == recipe.distillation.objective
            assert config_of(published).num_bases == config_of(recipe).num_bases
        if row.against is not None:  # a pair differs in its artifact alone, or in what an objective adds to another's
            other = next(other for other in table.rows if other.name == row.against).parse({})
            assert other.distillation.objective == recipe.distillation.objective or row.start == row.against
            ours, theirs = recipe.evaluation, other.evaluation
            assert ours.evaluation_steps == theirs.evaluation_steps
            assert ours.evaluation_steps or ours.student_epochs == theirs.student_epochs


@pytest.mark.parametrize("name", ["hallucinators", "losses", "number", "budget"])
def test_rows_of_an_ablation_differ(name):
    rows = read_table(f"ablation_{name}").rows
    assert len({str(row.parse({"output_dir": "x"}).to_dict()) for row in rows}) == len(rows)
    for row in rows:  # and in nothing but what is ablated: data, networks and students are the same
        assert row.parse({}).data == rows[0].parse({}).data
        assert row.parse({}).network == rows[0].parse({}).network


def test_hallucinators_are_of_the_sizes_that_the_paper_prints():
    sizes = {"depth 0": 6144, "depth 1, 3 channels": 6312, "depth 1, 8 channels": 16_827}
    sizes |= {"depth 1, 16 channels": 33_651, "depth 2": 10_963, "depth 3": 16_131}
    rows = {row.name: row for row in read_table("ablation_hallucinators").rows}
    for name, size in sizes.items():
        config = config_of(rows[name].parse({}))
        assert config.num_floats == 10 * 3072 + 5 * size + 1, name
        assert re.fullmatch(r"\d\d\.\d\d ± 0\.\d\d", rows[name].paper)
    shared = config_of(rows["shared encoder and decoder"].parse({}))
    assert shared.num_floats == 10 * 3072 + 5 * 6144 + 168 + 1


def test_numbers_of_hallucinators():
    rows = read_table("ablation_number").rows
    assert [row.parse({}).model.num_hallucinators for row in rows] == [0, 1, 2, 3, 5, 8]
    assert {row.parse({}).model.bases_per_class for row in rows} == {1}


def test_budgets_are_kept_by_the_rule_in_the_header():
    rows = read_table("ablation_budget").rows
    beside = [row for row in rows if "depth" not in row.name]
    assert len(rows) - len(beside) == 23, "eight ways at three budgets, and one has no room"
    for row in beside:
        settings = row.parse({}).model
        assert (settings.num_hallucinators, f"{settings.bases_per_class} IPC") == (0, row.name.split(":")[0])
    for row in [row for row in rows if row not in beside]:
        budget, depth, hallucinators, bases, channels = map(int, re.findall(r"\d+", row.name))
        config = config_of(row.parse({}))
        assert (config.hallucinator_depth, config.num_hallucinators) == (depth, hallucinators)
        assert (config.bases_per_class, config.basis_shape[0]) == (bases, channels)
        of_row = {"depths": (depth,), "num_hallucinators": (hallucinators,), "basis_channels": (channels,)}
        nearest, most = (
            plan_storage(
                10, (3, 32, 32), images_per_class=budget, share_encoder_decoder=(False,), strict=strict, **of_row
            )
            for strict in (False, True)
        )
        chosen = nearest if nearest[0].budget_share <= 1.05 else most
        assert config.bases_per_class == chosen[0].config.bases_per_class
        assert config.num_floats <= 1.05 * (budget * 30_720 + 1)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_a_tables_page_is_what_its_records_print(path):
    assert path.with_suffix(".md").read_text() == markdown(read_table(path.stem), read_records(path))


def test_the_leaderboard_is_what_the_records_say():
    """The page as it is written, and its first places found again by a loop over all records."""
    page = (RESULTS / "leaderboard.md").read_text()
    assert page == leaderboard(RESULTS, published_artifacts().values()), "python -m haba_hf.reproduction writes it"
    most = {"Half an image": 0.55, "1 image": 1.1, "2 images": 2.2, "10 images": 11.0}
    for dataset, title in (("cifar10", "CIFAR-10"), ("fashion_mnist", "Fashion-MNIST")):
        best = {}
        for path in RESULTS.glob("*.jsonl"):
            rows = {row.name: row for row in read_table(path.stem).rows}
            for record in read_records(path):
                if record["dataset"] != dataset or rows[record["row"]].kind != "distilled":
                    continue
                if f"| {record['row']} ° |" in path.with_suffix(".md").read_text():
                    continue  # its recipe has changed since
                kind = "" if rows[record["row"]].parse(record["set"]).model.label_kind == "hard" else ", soft labels"
                images = record["bytes"] / 4 / (record["floats"] / record["images_per_class"])
                size = next((size for size, bound in most.items() if images <= bound), None)
                if size is None:
                    continue  # no place for larger ones
                title_of_size = f"{size} per class{kind}"
                best[title_of_size] = max(best.get(title_of_size, (0.0, 0.0)), (record["mean"], record["std"]))
        sections = page.split(f"\n## {title}\n")[1].split("\n## ")[0].split("**")
        assert set(sections[1::2]) == best.keys() and len(best) >= 5, "of either set some labels are learned (LD)"
        for size, text in zip(sections[1::2], sections[2::2], strict=True):
            first = text.split("\n| ")[3].split(" | ")[0]
            assert first == in_percent(*best[size]), (title, size)
            assert ("| labels |" in text) == size.endswith("soft labels")


def test_the_table_of_fashion_mnist_is_on_record():
    results = (
        (RESULTS / "paper.md").read_text().split("\n## Fashion-MNIST at 1 image per class\n")[1].split("\n## ")[0]
    )
    ours = re.findall(r"(?m)^\| [^|]+ \| (\d+\.\d ± \d+\.\d) \|", results)
    tables = [read_records(RESULTS / f"fashion_mnist-{name}.jsonl") for name in ("1", "equal_storage")]
    known = {in_percent(record["mean"], record["std"]) for records in tables for record in records}
    assert len(ours) > 10 and set(ours) <= known


@pytest.mark.parametrize(
    "path", sorted(recipes_folder().rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_a_recipes_header_says_what_to_expect_and_what_it_says_was_measured_is_on_record(path):
    header = " ".join(
        line.removeprefix("# ") for line in path.read_text().split("\n\n")[0].splitlines() if line[:1] == "#"
    )
    assert re.search(r"(Measured on|Expected|Published)\b", header)
    for table, row, accuracy in re.findall(r"table (\S+), row (.+?): (\d+\.\d ± \d+\.\d) %", header):
        records = read_records(RESULTS / f"{table}.jsonl")
        assert accuracy in [in_percent(kept["mean"], kept["std"]) for kept in records if kept["row"] == row]
