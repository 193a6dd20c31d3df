"""The `haba` command, in this process: what it prints, the files it leaves, its exit codes."""

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.state import AcceleratorState
from datasets import load_dataset
from PIL import Image

import haba_hf
from fake_hub import serving
from haba_hf import HabaConfig, HabaModel, published_artifact
from haba_hf.artifact.planning import plan_storage, storage_layouts
from haba_hf.cli import RECIPE_COMMANDS, main
from haba_hf.data import DataArguments, load_image_data
from haba_hf.recipes.catalogue import recipes_page
from haba_hf.recipes.recipe import field_index
from haba_hf.utils.shipped import FIELDS, recipes_folder
from tiny_artifact import tiny_artifact
from tiny_backbones import resnet

TINY = ["--network_depth", "2", "--network_width", "4", "--real_batch_size", "8", "--report_to", "none"]


@pytest.fixture(autouse=True)
def one_process_on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.delenv("HABA_DEBUG", raising=False)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def haba(capsys):
    """Runs one command line and returns what it printed."""

    def run(*words):
        capsys.readouterr()
        main([str(word) for word in words])
        return capsys.readouterr().out

    return run


@pytest.fixture
def error_of(capsys):
    """Runs a command line with a mistake and returns what it says on stderr."""

    def error(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        assert stop.value.code == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert "Traceback" not in said.err
        return said.err.splitlines()[-1]

    return error


def test_distill_evaluate_and_info_of_a_recipe_by_name(haba, tmp_path):
    run = tmp_path / "run"
    found = json.loads(haba("distill", "digits/dm-1pc", "--steps", "2", *TINY, "--output_dir", run, "--json"))
    assert found["artifact"] == str(run / "artifact")
    assert found["steps"] == 2
    recipe = yaml.safe_load((run / "artifact" / "recipe.yaml").read_text())
    assert recipe["learning_rate_schedule"] == "cosine", "as in the named recipe"
    record = json.loads((run / "artifact" / "distillation.json").read_text())
    assert record["train_images"] == len(load_image_data(DataArguments("digits")).train)
    assert record["peak_memory_bytes"] > 10**8

    students = ["--evaluation_seeds", "1", "--student_epochs", "2", "--real_student_epochs", "1"]
    words = ["evaluate", "digits/dm-1pc", *TINY, *students, "--output_dir", run]
    printed = haba(*words)
    rows = json.loads((run / "results.json").read_text())["rows"]
    assert all(f"| {row['system']} | {100 * row['accuracy']['mean']:.1f} ± " in printed for row in rows)
    again = json.loads(haba(*words, "--json"))["rows"]
    assert [row["accuracy"]["mean"] for row in again] == [row["accuracy"]["mean"] for row in rows]

    across = json.loads(haba(*words, "--architectures", "convnet", "--json"))["rows"]
    assert [row["architecture"] for row in across] == ["convnet"]
    assert across == json.loads((run / "cross_architecture.json").read_text())["rows"]

    facts = json.loads(haba("info", run / "artifact", "--json"))
    model = HabaModel.from_pretrained(run / "artifact")
    assert facts["floats"] == sum(parameter.numel() for parameter in model.parameters())
    assert facts["accuracy"][0]["mean"] == rows[0]["accuracy"]["mean"]
    text = haba("info", run / "artifact")
    assert "10 classes, 1 basis per class (8x8 pixels), 5 hallucinators: 50 samples of 1x8x8, hard labels" in text
    assert f"{facts['floats']:,} floats, {facts['bytes']:,} bytes" in text
    assert f"train_images {record['train_images']}" in text


def test_probes_of_a_pretrained_backbone(haba, capsys, tmp_path):
    """Distilled for by linear gradient matching, then students of the artifact and of random real images."""
    backbone, run = tmp_path / "backbone", tmp_path / "run"
    words = ["digits/dm-1pc", "--network", f"probe/{backbone}", "--output_dir", run]
    learns = ["--objective", "linear", "--steps", "2", "--real_batch_size", "8", "--report_to", "none"]
    with pytest.raises(SystemExit):
        haba("distill", *words, *learns)
    assert "error: There is no backbone" in capsys.readouterr().err and not (run / "artifact").exists()
    resnet(backbone)
    haba("distill", *words, *learns)
    students = ["--student_epochs", "2", "--evaluation_seeds", "2", "--evaluation_dsa", "none"]
    found = json.loads(haba("evaluate", *words, *students, "--references", "random", "--json"))
    assert len(found["rows"]) == 3
    assert all(len(row["accuracy"]["accuracies"]) == 2 for row in found["rows"])


def test_a_coreset_is_selected(haba, tmp_path):
    run = tmp_path / "run"
    found = json.loads(haba("select", "digits/random-1pc", "--bases_per_class", "2", "--output_dir", run, "--json"))
    assert found["artifact"] == str(run / "artifact")
    assert found["coreset"] == "random"
    assert HabaModel.from_pretrained(run / "artifact").config.num_bases == 20


def test_materialize_and_gallery(haba, error_of, tmp_path):
    artifact = tiny_artifact(tmp_path / "run")
    answer = json.loads(haba("materialize", artifact, tmp_path / "samples", "--json"))
    assert answer == {"folder": str(tmp_path / "samples"), "num_samples": 24}
    images = load_dataset(str(tmp_path / "samples"), "images", split="train", cache_dir=str(tmp_path / "cache"))
    assert len(images) == 24
    assert f'load_dataset("{tmp_path / "samples"}", "exact"' in (tmp_path / "samples" / "README.md").read_text()
    assert "samples is not empty" in error_of("materialize", artifact, tmp_path / "samples")
    haba("gallery", artifact, tmp_path / "picture.png", "--bases_per_class", "2")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.height > 8 * 64
    assert "bases_per_class must be 1 to 2" in error_of(
        "gallery", artifact, tmp_path / "none.png", "--bases_per_class", "3"
    )
    assert not (tmp_path / "none.png").exists()


def test_push_info_and_pull(haba, error_of, tmp_path, monkeypatch):
    artifact = tiny_artifact(tmp_path / "run")
    with serving(tmp_path, monkeypatch) as hub:
        assert haba("push", artifact, "me/tiny", "--no-code", "--message", "By hand").strip() == f"{hub.url}/me/tiny"
        assert hub.repos[("model", "me/tiny")].commits[-1][1] == "By hand"
        assert "modeling_haba.py" not in hub.files("me/tiny")
        proposed = haba("push", artifact, "me/tiny", "--create-pr").strip()
        assert proposed == f"{hub.url}/me/tiny/discussions/1"
        url = json.loads(haba("push", artifact, "me/tiny", "--as-dataset", "--private", "--json"))["url"]
        assert url == f"{hub.url}/datasets/me/tiny"
        assert hub.repos[("dataset", "me/tiny")].private
        assert json.loads(haba("info", "me/tiny", "--json"))["num_samples"] == 24
        haba("pull", "me/tiny", tmp_path / "copy")
        assert HabaModel.from_pretrained(tmp_path / "copy").config.num_samples == 24
        line = error_of("pull", "me/nothing", tmp_path / "other")
        assert line.startswith("error: me/nothing: there is no such repository on the Hub")
        hub.fail("POST", "/commit/", 403)
        (artifact / "gallery.png").unlink()
        assert "the token has no right to do this" in error_of("push", artifact, "me/tiny")


def test_experts_are_recorded_pushed_and_pulled(haba, error_of, tmp_path, monkeypatch):
    experts = tmp_path / "experts"
    sizes = ["--num_experts", "1", "--max_start", "1", "--expert_span", "1", "--network_depth", "2"]
    words = ["digits/mtt-1pc", *sizes, "--network_width", "4", "--experts_dir", experts, "--json"]
    assert json.loads(haba("experts", *words)) == {"experts_dir": str(experts)}
    with serving(tmp_path, monkeypatch) as hub:
        sent = ["experts", "push", experts, "me/experts", "--private", "--message", "By hand"]
        assert haba(*sent).strip() == f"{hub.url}/datasets/me/experts"
        repo = hub.repos[("dataset", "me/experts")]
        assert repo.private and repo.commits[-1][1] == "By hand"
        answer = json.loads(haba("experts", "pull", "me/experts", tmp_path / "copy", "--json"))
        assert answer == {"experts_dir": str(tmp_path / "copy")}
        found = (tmp_path / "copy" / "expert-0000.safetensors").read_bytes()
        assert found == (experts / "expert-0000.safetensors").read_bytes()
        assert "| data | digits |" in (tmp_path / "copy" / "README.md").read_text()
        assert "is not empty" in error_of("experts", "pull", "me/experts", tmp_path / "copy")
    assert "holds no experts" in error_of("experts", "push", tmp_path, "me/experts")
    assert "the following arguments are required: repo_id" in error_of("experts", "push", tmp_path)


def test_plan_lists_what_a_budget_pays_for(haba, error_of):
    shape = ["--num_labels", "10", "--sample_shape", "3", "32", "32"]
    plans = json.loads(haba("plan", "--images_per_class", "10", *shape, "--json"))["plans"]
    expected = plan_storage(
        10,
        (3, 32, 32),
        images_per_class=10,
        layouts=storage_layouts((3, 32, 32)),
        num_hallucinators=(0, 5),
        depths=(1,),
        map_sizes=(None, 1),
        share_encoder_decoder=(False,),
    )
    names = [name for name in plans[0] if name in vars(HabaConfig()) and name != "basis_channels"]
    assert [[plan[name] for name in names] for plan in plans] == [
        [getattr(plan.config, name) for name in names] for plan in expected
    ]
    for plan in plans:
        config = HabaConfig(
            num_labels=10, basis_channels=plan["basis_channels"], **{name: plan[name] for name in names}
        )
        assert plan["floats"] == config.num_floats == plan["bytes"] // 4
        assert plan["num_samples"] == config.num_samples
        assert plan["floats"] - 1 <= 10 * 10 * 3 * 32 * 32
    # 307,200 floats, less 6,258 of a hallucinator from one channel to three, pay for 29 x 10 bases of 1,024.
    one = ["--basis_channels", "1", "--num_hallucinators", "1", "--hallucinator_map", "full", "--pixels"]
    lines = haba("plan", "--images_per_class", "10", *shape, *one).splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("| 29 | 29 | 32x32 pixels | 1 of depth 1, maps 32x32 | 303,")
    soft = json.loads(haba("plan", "--max_bytes", 4 * 307_201, *shape, *one, "--label_kind", "soft", "--json"))
    assert soft["plans"][0]["floats"] == 29 * 10 * (1_024 + 10) + 6_258 + 1
    lines = haba("plan", "--images_per_class", "2", *shape, "--num_hallucinators", "0", "5", "--shared").splitlines()
    assert "| 64 | 64 | 64 frequencies, chroma 16 | 0 | 61,441 | 245,764 | 1.000 |" in lines
    assert "| 8 | 2 | 32x32 pixels of 3 channels, 2x2 tiles | 0 | 61,441 | 245,764 | 1.000 |" in lines
    bits = haba("plan", "--max_bytes", "30720", *shape, "--num_hallucinators", "0", "--storage_dtype", "int8")
    assert "| 28 | 28 | 64 frequencies, chroma 16, int8 | 0 | 27,721 | 30,244 | 0.985 |" in bits.splitlines()
    one_image = ["plan", "--images_per_class", "1", *shape, "--num_hallucinators", "5", "--hallucinator_map", "full"]
    one_image += ["--pixels"]
    assert "has room for none of these" in error_of(*one_image)
    assert all(plan["budget_share"] > 1 for plan in json.loads(haba(*one_image, "--nearest", "--json"))["plans"][:1])
    assert "not allowed with argument" in error_of("plan", "--images_per_class", "1", "--max_bytes", "9", *shape)


def test_export_and_info_of_a_coreset_and_of_what_was_analysed(haba, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_artifact(tmp_path / "run", analysed=True)
    assert json.loads(haba("export", "run/artifact", "published/tiny", "--no-code", "--json")) == {
        "folder": "published/tiny"
    }
    assert 'from_pretrained("published/tiny")' in (tmp_path / "published" / "tiny" / "README.md").read_text()
    text = haba("info", "published/tiny")
    assert "| HaBa, 3 hallucinators | 81.2 ± 1.2 |" in text
    assert "| vgg11 | 65.4 ± 3.2 |" in text
    assert "| HaBa, 3 hallucinators | 19 | 81.2 ± 1.2 | 51.0 ± 1.0 |" in text
    facts = json.loads(haba("info", "published/tiny", "--json"))
    assert facts["architectures"][1]["mean"] == 0.6543
    assert facts["robustness"][0]["curve"][1] == [pytest.approx(0.51), pytest.approx(0.01)]
    tiny_artifact(tmp_path / "coreset", rule="herding")
    text = haba("info", "coreset/artifact")
    assert "4 classes, coreset (herding), chosen and not distilled: 2 real images per class: 8 samples" in text
    assert "training_rows" not in text
    facts = json.loads(haba("info", "coreset/artifact", "--json"))
    assert (facts["chosen"], facts["distillation"]) == (True, {})
    assert facts["coreset"]["training_rows"]["boot"] == [4, 5]


def test_mistakes_are_one_line(error_of, tmp_path):
    assert "did you mean" in error_of("distill", "fashion-mnist/dm-1pc")
    assert "unknown field 'basis_per_class'; did you mean 'bases_per_class'?" in error_of(
        "distill", "digits/dm-1pc", "--basis_per_class", "1"
    )
    assert "There is no artifact" in error_of("info", tmp_path / "nowhere")
    assert "is no name on the Hub" in error_of("info", "../tiny")
    assert "there is no command 'destill': did you mean 'distill'?" in error_of("destill")
    assert "there is no command 'x': choose distill, select" in error_of("x")
    assert "one of the arguments --images_per_class --max_bytes is required" in error_of(
        "plan", "--num_labels", "10", "--sample_shape", "3", "32", "32"
    )


COMMANDS = [
    *("list", "info", "materialize", "gallery", "listen", "push", "export", "import", "pull"),
    *("experts push", "experts pull", "plan"),
]


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    listed = re.findall(r"(?m)^    ([a-z]+(?: [a-z]+)?)", printed.split("\n  COMMAND\n")[1].split("\n\n")[0])
    assert listed == [*RECIPE_COMMANDS, *COMMANDS]


@pytest.mark.parametrize("command", [*RECIPE_COMMANDS, *COMMANDS])
def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    assert f"haba {command} " in capsys.readouterr().out.replace("\n", " ")
    if command in RECIPE_COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        printed = capsys.readouterr().out
        assert "fashion_mnist/mtt-1pc" in printed
        assert "--dataset" in printed
        assert ("--perplexity" in printed) == (command == "embed"), "the fields of this command"
        with pytest.raises(SystemExit):
            main([command, "--help-all"])
        assert "--perplexity" in capsys.readouterr().out


def test_what_haba_helps_from_is_what_the_sections_say():
    assert json.loads(FIELDS.read_text()) == field_index(), "python -m haba_hf.recipes writes it"


def test_the_page_of_all_recipes_is_what_they_say():
    assert (recipes_folder() / "README.md").read_text() == recipes_page(), "python -m haba_hf.recipes writes it"


def test_a_reader_that_has_seen_enough_ends_a_command_quietly():
    listing = f"{sys.executable} -m haba_hf.cli list recipes"
    shown = subprocess.run(
        ["bash", "-c", f"{listing} | head -1; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True
    )
    assert shown.returncode == 0 and shown.stderr == ""
    assert shown.stdout.startswith("cifar10/cafe-1pc ")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--help"], "COMMAND"),
        (["--version"], haba_hf.__version__),
        (["distil", "digits/dm-1pc"], "did you mean 'distill'?"),
        (["distill", "digits/dm-1pc", "--stpes", "3"], "unknown field 'stpes'; did you mean 'steps'?"),
        (["distill", "digits/dm-1p"], "did you mean digits/dm-1pc"),
        (["evaluate", "--help"], "--evaluation_steps"),
        (["list", "recipes"], "cifar10/dm-2ipc"),
    ],
)
def test_an_answer_that_needs_no_torch_takes_no_second(words, says):
    command = Path(sys.executable).with_name("haba")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run([command, *words], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert says in run.stdout + run.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_list_names_what_there_is(haba, tmp_path):
    tiny_artifact(tmp_path / "a run")
    (tmp_path / "config.json").write_text("{}")
    listed = json.loads(haba("list", "artifacts", tmp_path, "--json"))["artifacts"]
    assert listed == [
        {"folder": str(tmp_path / "a run" / "artifact"), "dataset": "fashion_mnist", "accuracy": "81.2 ± 1.2 %"}
    ]
    assert "a run" in haba("list", "artifacts", tmp_path)
    assert "There is no artifact" in haba("list", "artifacts", tmp_path / "nowhere")
    assert "cifar10" in haba("list", "datasets") and "digits/dm-1pc" in haba("list", "recipes")
    assert "mnist/dm-1pc" in json.loads(haba("list", "recipes", "--json"))["recipes"]


def test_an_artifact_comes_with_the_package():
    assert HabaModel.from_pretrained(published_artifact("digits-dm-1pc")).config.num_labels == 10
    with pytest.raises(
        FileNotFoundError, match=r"No artifact digits comes with haba_hf here; there are .*digits-dm-1pc"
    ):
        published_artifact("digits")


def test_a_command_makes_auto_classes_known(tmp_path):
    artifact = tiny_artifact(tmp_path / "run")
    command = Path(sys.executable).with_name("haba")
    exported = tmp_path / "out"
    subprocess.run([command, "export", artifact, exported], check=True, capture_output=True)
    assert (exported / "modeling_haba.py").exists(), "what it saves carries its code"
    assert json.loads((exported / "config.json").read_text())["auto_map"]["AutoModel"] == "modeling_haba.HabaModel"
