"""`haba`: what the package does, from a terminal.

    haba distill digits/dm-1pc --steps 100          # Algorithm 1, resuming what was interrupted
    haba evaluate digits/dm-1pc                     # fresh students, beside random and full real data
    haba info runs/digits-dm-1pc/artifact           # sizes, budget, provenance, accuracy
    haba push runs/digits-dm-1pc/artifact me/haba-digits
    haba export runs/digits-dm-1pc/artifact my-folder   # what a push uploads, in a folder
    haba pull me/haba-digits my-copy
    haba experts push experts/digits me/experts-digits  # and haba experts pull me/experts-digits FOLDER
    haba list recipes                                   # or artifacts, datasets
    haba plan --images_per_class 10 --num_labels 10 --sample_shape 3 32 32

On several devices: `accelerate launch --multi_gpu -m haba_hf.cli distill RECIPE`. Exit codes: 0 done, 2 something to
mend, which one line on stderr names.
"""

# Nothing here imports torch, or what does: --help, --version and a slip of the keyboard are answered at once.
import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from shutil import get_terminal_size
from typing import Any, NoReturn

from . import __version__
from .utils.interrupts import ended_by_its_reader
from .utils.shipped import (
    did_you_mean,
    fields,
    first_sentence,
    recipe_header,
    recipe_names,
    recipe_path,
    unknown_field,
)

# Commands that run a recipe, and what --help says of each first.
RECIPE_COMMANDS = {
    "distill": "Distil a data set (Algorithm 1): haba distill digits/dm-1pc --steps 10",
    "select": "Choose a coreset of real images: haba select digits/herding-1pc --bases_per_class 10",
    "evaluate": "Train fresh students on an artifact: haba evaluate digits/dm-1pc --references random",
    "robustness": "Score students under 19 corruptions: haba robustness cifar10/dm-1pc",
    "embed": "Draw samples among real images by t-SNE: haba embed cifar10/dm-1pc --embedded_classes 0 1 2",
    "experts": "Record experts, which trajectory matching needs first: haba experts digits/mtt-1pc; to the Hub and "
    "back: haba experts push, haba experts pull",
}
# Commands of two words, the second in place of a recipe.
PUSH_EXPERTS, PULL_EXPERTS = "experts push", "experts pull"
OBJECTIVES = (
    *("distribution_matching", "trajectory_matching", "gradient_matching", "idc", "feature_alignment"),
    "label_distillation",
    "linear_gradient_matching",
)
# The sections of a recipe that a command reads.
SECTIONS = {
    "distill": ("data", "model", "distillation", "network", "adversary", *OBJECTIVES, "experts", "coreset"),
    "select": ("data", "model", "coreset", "network"),
    "evaluate": ("data", "evaluation", "network", "cross_architecture"),
    "robustness": ("data", "evaluation", "network", "robustness"),
    "embed": ("data", "embedding", "evaluation", "network"),
    "experts": ("data", "experts", "network", "trajectory_matching"),
}

RECIPE_HELP = (
    "RECIPE is a YAML file, or the name of one that comes with haba_hf, such as fashion_mnist/mtt-1pc: haba list "
    "recipes names them all. A field on the command line wins over the recipe's. --json prints one JSON object, and "
    "nothing else, on stdout."
)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command line, by default the process's own."""
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    try:
        with ended_by_its_reader():
            run = _read(words)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if run is None:
        return
    from . import registration  # noqa: F401 - what is saved carries its code
    from .commands import run as run_command
    from .recipes import run_script

    run_script(lambda: run_command(*run, as_json=as_json))


def _read(words: list[str]) -> tuple[str, argparse.Namespace | list[str]] | None:
    """
    The command and what was read of its words, of one with a recipe the words themselves; `None` if the answer was
    given here.

    Raises:
        `ValueError`, `FileNotFoundError`: of a slip that shows without running anything.
    """
    if " ".join(words[:2]) in (PUSH_EXPERTS, PULL_EXPERTS):
        words = [" ".join(words[:2]), *words[2:]]
    if words and words[0] in RECIPE_COMMANDS:
        command, of_recipe = words[0], [word for word in words[1:] if word != "--json"]
        if any(word in ("-h", "--help", "--help-all") for word in of_recipe):
            print(_help(command, everything="--help-all" in of_recipe))
            sys.exit(0)
        _check(of_recipe)
        return command, of_recipe
    parser, commands = _parser()
    named = next((word for word in words if not word.startswith("-")), None)
    if named is not None and named not in commands:
        advice = did_you_mean(named, commands, f"choose {', '.join(commands)}")
        raise ValueError(f"there is no command {named!r}: {advice}")
    arguments = parser.parse_args(words)
    if arguments.command == "list" and arguments.what == "recipes":
        print(json.dumps({"recipes": recipe_names()}, indent=2) if arguments.json else _recipes())
        return None
    return arguments.command, arguments


def _check(words: list[str]) -> None:
    """Refuses a recipe or a field that does not exist."""
    known = {name for section in fields().values() for name in section["fields"]}
    if words and not words[0].startswith("-"):
        recipe_path(words[0])
    for word in words:
        name = word[2:].split("=", 1)[0].replace("-", "_")
        if word.startswith("--") and name not in known:
            raise ValueError(f"command line: {unknown_field(name, known)}")


def _help(command: str, everything: bool) -> str:
    """The fields that a command uses, section by section, or all."""
    width = min(get_terminal_size().columns, 120)
    lines = [
        f"usage: haba {command} [RECIPE] [--field value ...]",
        "",
        RECIPE_COMMANDS[command],
        "",
        *textwrap.wrap(RECIPE_HELP + ("" if everything else " Fields of other commands: --help-all."), width),
    ]
    for name, section in fields().items():
        if everything or name in SECTIONS[command]:
            lines += ["", section["title"]]
            for field, (kind, default, text) in section["fields"].items():
                lines.append(f"  --{field}")
                lines += textwrap.wrap(
                    f"{text} ({kind}; {default})", width, initial_indent=" " * 6, subsequent_indent=" " * 6
                )
    return "\n".join(lines)


def _recipes() -> str:
    """The recipes by name, each with the first sentence of its header."""
    return "\n".join(f"{name:40} {first_sentence(recipe_header(name)).removesuffix('.')}" for name in recipe_names())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A slip as one sentence."""
        raise ValueError(message)


def _parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser, and the names of all commands."""
    parser = _Parser(
        prog="haba", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"haba_hf {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command", parser_class=_Parser)
    for name, description in RECIPE_COMMANDS.items():
        _add(commands, name, description)  # for the list of commands: their words are those of a recipe
    listing = _add(commands, "list", "What there is by name: haba list recipes")
    listing.add_argument(
        "what",
        choices=("recipes", "artifacts", "datasets"),
        help="recipes that come with haba_hf; artifacts below a folder; data sets known by name",
    )
    listing.add_argument("folder", nargs="?", default=".", help="of artifacts (the current one)")
    info = _add(commands, "info", "Sizes, budget, provenance and accuracy: haba info me/haba-digits")
    samples = _add(commands, "materialize", "All samples as parquet: haba materialize me/haba-digits out")
    gallery = _add(commands, "gallery", "Bases and samples as a PNG: haba gallery me/haba-digits out.png")
    sounds = _add(commands, "listen", "All samples of speech as WAV files: haba listen me/haba-speech sounds")
    for command in (info, samples, gallery, sounds):
        command.add_argument("artifact", help="folder, or owner/name on the Hub")
        command.add_argument("--revision", help="branch, tag or commit on the Hub")
    for command in (samples, sounds):
        command.add_argument("folder", help="a new folder")
    gallery.add_argument("picture", help="the PNG to write")
    gallery.add_argument(
        "--bases_per_class",
        type=int,
        help="show only the first ones of each class (by default up to 3 with hallucinators, 10 without)",
    )

    push = _add(commands, "push", "Publish an artifact: haba push runs/digits-dm-1pc/artifact me/haba-digits")
    push.add_argument("folder", help="the artifact's, as distillation wrote it")
    push.add_argument("repo_id", help="owner/name on the Hub")
    push.add_argument("--as-dataset", action="store_true", help="publish the samples as a dataset repository")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.add_argument("--no-code", action="store_true", help="leave out the code that trust_remote_code=True runs")
    push.add_argument("--revision", help="branch to commit to")
    push.add_argument("--create-pr", action="store_true", help="open a pull request in place of a commit to main")
    push.add_argument("--message", help="what the commit says")

    export = _add(
        commands,
        "export",
        "Write what a push uploads into a folder: haba export runs/digits-dm-1pc/artifact published/digits-dm-1pc",
    )
    export.add_argument("artifact", help="the artifact's folder, as distillation wrote it")
    export.add_argument("folder", help="a new folder, or that of an artifact to replace")
    export.add_argument("--repo-id", help="owner/name that the card's code loads (by default the folder)")
    export.add_argument("--no-code", action="store_true", help="leave out the code that trust_remote_code=True runs")
    export.add_argument(
        "--layout",
        choices=("haba", "mtt", "folder"),
        default="haba",
        help="mtt: all samples as images_best.pt and labels_best.pt, which scorers of other projects read; folder: as "
        "pictures <class>/<number>.png with a metadata.csv (haba)",
    )

    bring = _add(
        commands,
        "import",
        "Somebody's released set: haba import images_best.pt runs/theirs --labels labels_best.pt --dataset cifar10",
    )
    bring.add_argument("images", help="the file of images, or of images and labels; the folder of pictures")
    bring.add_argument("folder", help="a new folder; the artifact is in its artifact/")
    bring.add_argument("--labels", help="the file of labels, of the layout mtt")
    layouts = ("mtt", "dc", "idc", "npz", "folder")
    bring.add_argument("--layout", choices=layouts, default="mtt", help="whose release, or folder of pictures (mtt)")
    bring.add_argument("--dataset", required=True, help="the real data it was made of, as in a recipe")
    bring.add_argument("--data_dir", help="folder to load them from instead of the Hub")
    bring.add_argument(
        "--space",
        choices=("normalized", "unit"),
        default="normalized",
        help="or pixels in [0, 1] (normalized)",
    )
    bring.add_argument("--mean", type=float, nargs="+", help="they were normalized by (the data's)")
    bring.add_argument("--std", type=float, nargs="+", help="they were normalized by (the data's)")
    bring.add_argument("--class_names", nargs="+", help="in the order of the labels (the data's)")
    bring.add_argument("--learning_rate", type=float, default=0.01, help="of its students (0.01)")
    bring.add_argument("--formation_factor", type=int, default=1, help="tiles a side that an image is cut into (1)")

    pull = _add(commands, "pull", "Fetch an artifact: haba pull me/haba-digits my-copy --revision v1")
    pull.add_argument("repo_id", help="owner/name on the Hub")
    pull.add_argument("folder", help="a new folder, or that of an artifact to replace")
    pull.add_argument("--revision", help="branch, tag or commit")

    push_experts = _add(
        commands, PUSH_EXPERTS, "Publish experts as a data set: haba experts push experts/digits me/experts-digits"
    )
    push_experts.add_argument("folder", help="of the experts, a recipe's experts_dir")
    pull_experts = _add(commands, PULL_EXPERTS, "Fetch experts: haba experts pull me/experts-digits experts/digits")
    for command in (push_experts, pull_experts):
        command.add_argument("repo_id", help="owner/name on the Hub")
    pull_experts.add_argument("folder", help="a new folder, then a recipe's experts_dir")
    push_experts.add_argument("--private", action="store_true", help="make a new repository private")
    push_experts.add_argument("--revision", help="branch to commit to")
    push_experts.add_argument("--create-pr", action="store_true", help="open a pull request in place of a commit")
    push_experts.add_argument("--message", help="what the commit says")
    pull_experts.add_argument("--revision", help="branch, tag or commit")

    plan = _add(
        commands,
        "plan",
        "What a storage budget pays for: haba plan --images_per_class 10 --num_labels 10 --sample_shape 3 32 32",
    )
    budget = plan.add_mutually_exclusive_group(required=True)
    budget.add_argument("--images_per_class", type=float, help="the budget, in plain images per class (IPC)")
    budget.add_argument("--max_bytes", type=int, help="the budget, in bytes of weights")
    plan.add_argument("--num_labels", type=int, required=True, help="classes")
    plan.add_argument("--sample_shape", type=int, nargs=3, required=True, metavar=("C", "H", "W"), help="of an image")
    plan.add_argument("--num_hallucinators", type=int, nargs="+", default=[0, 5], help="numbers to try (0 5)")
    plan.add_argument("--hallucinator_depth", type=int, nargs="+", default=[1], help="depths to try, 0 to 3 (1)")
    plan.add_argument(
        "--hallucinator_map",
        nargs="+",
        default=["full", "1"],
        help="sides of the grids of scale and shift to try, or full, those of the feature map (full 1)",
    )
    plan.add_argument("--shared", action="store_true", help="try one encoder and decoder for all hallucinators too")
    plan.add_argument("--pixels", action="store_true", help="try bases of plain pixels alone")
    plan.add_argument(
        "--storage_dtype", choices=("float32", "bfloat16", "int8"), default="float32", help="of a number (float32)"
    )
    plan.add_argument("--basis_channels", type=int, nargs="+", help="channels to try (1 and those of an image)")
    plan.add_argument("--nearest", action="store_true", help="the bases nearest to the budget, if above it too")
    plan.add_argument(
        "--label_kind",
        choices=("hard", "soft"),
        default="hard",
        help="soft: learned, or a teacher's (hard)",
    )
    return parser, list(commands.choices)


def _add(commands: Any, name: str, description: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=description.split(":")[0], description=description, allow_abbrev=False)
    command.add_argument("--json", action="store_true", help="print one JSON object, and nothing else, on stdout")
    return command


if __name__ == "__main__":
    main()
