"""`haba`: a thin front to the functions of this package.

    haba distill digits/dm-1pc --steps 100          # Algorithm 1, resuming what was interrupted
    haba evaluate digits/dm-1pc                     # fresh students, beside random and full real data
    haba info runs/digits-dm-1pc/artifact           # sizes, budget, provenance, accuracy
    haba push runs/digits-dm-1pc/artifact me/haba-digits
    haba export runs/digits-dm-1pc/artifact my-folder   # what a push uploads, in a folder
    haba pull me/haba-digits my-copy
    haba plan --images_per_class 10 --num_labels 10 --sample_shape 3 32 32

On several devices: `accelerate launch --multi_gpu -m haba_hf.cli distill RECIPE`. Exit codes: 0 done, 2 something to
mend, which one line on stderr names.
"""

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from .artifact.budget import describe_basis
from .artifact.planning import PLAIN, StoragePlan, plan_storage, storage_layouts
from .evaluation import architecture_table, markdown_table, robustness_table
from .hub import (
    Artifact,
    artifact_facts,
    artifact_summary,
    export_artifact,
    fetch_artifact,
    materialize_artifact,
    pull_artifact,
    push_artifact,
    read_artifact,
    save_gallery,
    save_sounds,
)
from .hub.records import CORESET, DISTILLATION
from .recipes import Recipe, parse_recipe, recipes_folder, run_script
from .runs import (
    distill,
    embed,
    evaluate,
    evaluate_architectures,
    evaluate_robustness,
    record,
    select_coreset,
    start_accelerator,
)

# What a command gives back: an object for --json, and the text it prints without.
Answer = tuple[dict[str, Any], str]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command line, by default the process's own."""
    run_script(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(words: list[str]) -> None:
    as_json = "--json" in words
    # With --json stdout holds one object: what is said on the way goes to stderr.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        if words and words[0] in RECIPE_COMMANDS:
            answer = _run_recipe(words[0], [word for word in words[1:] if word != "--json"])
        else:
            arguments = _parser().parse_args(words)
            answer = arguments.command(arguments)
    if answer is not None:
        print(json.dumps(answer[0], indent=2) if as_json else answer[1])


def _run_recipe(command: str, words: list[str]) -> Answer | None:
    """A command that takes `[RECIPE] [--field value ...]`; `None` on all processes but the main one."""
    function, description = RECIPE_COMMANDS[command]
    recipe = parse_recipe(words, description=f"{description}\n\n{RECIPE_HELP.format(', '.join(_recipe_names()))}")
    accelerator = start_accelerator(tracked=recipe if command == "distill" else None)
    answer = function(recipe, accelerator)
    accelerator.end_training()
    return answer if accelerator.is_main_process else None


def _distill(recipe: Recipe, accelerator: Accelerator) -> Answer:
    path = distill(recipe, accelerator)
    origin = json.loads((path / DISTILLATION).read_text(encoding="utf-8"))
    return {"artifact": str(path), **origin}, f"See it: haba info {path}"


def _evaluate(recipe: Recipe, accelerator: Accelerator) -> Answer:
    if recipe.cross_architecture.architectures:
        architectures = evaluate_architectures(recipe, accelerator)
        return {"rows": [dataclasses.asdict(row) for row in architectures]}, architecture_table(architectures)
    rows = evaluate(recipe, accelerator)
    return {"rows": [dataclasses.asdict(row) for row in rows]}, markdown_table(rows)


def _robustness(recipe: Recipe, accelerator: Accelerator) -> Answer:
    results = evaluate_robustness(recipe, accelerator)
    return {"systems": [dataclasses.asdict(result) for result in results]}, robustness_table(results)


def _embed(recipe: Recipe, accelerator: Accelerator) -> Answer:
    path = embed(recipe, accelerator)
    return {"picture": str(path)}, str(path)


def _experts(recipe: Recipe, accelerator: Accelerator) -> Answer:
    path = record(recipe, accelerator)
    return {"experts_dir": str(path)}, f"Experts: {path}"


RECIPE_HELP = """\
The recipe is a YAML file or the name of one that comes with haba_hf: {}.
Every field below can be set on the command line too; --json prints one JSON object, and nothing else, on stdout."""


def _select(recipe: Recipe, accelerator: Accelerator) -> Answer:
    path = select_coreset(recipe, accelerator)
    origin = json.loads((path / CORESET).read_text(encoding="utf-8"))
    return {"artifact": str(path), **origin}, f"See it: haba info {path}"


# Commands that run a recipe, one line each: their function, and what --help says first.
RECIPE_COMMANDS: dict[str, tuple[Callable[[Recipe, Accelerator], Answer], str]] = {
    "distill": (_distill, "Distil a data set (Algorithm 1): haba distill digits/dm-1pc --steps 10"),
    "select": (_select, "Choose a coreset of real images: haba select digits/herding-1pc --bases_per_class 10"),
    "evaluate": (_evaluate, "Train fresh students on an artifact: haba evaluate digits/dm-1pc --references random"),
    "robustness": (_robustness, "Score students under 19 corruptions: haba robustness cifar10/dm-1pc"),
    "embed": (_embed, "Draw samples among real images by t-SNE: haba embed cifar10/dm-1pc --embedded_classes 0 1 2"),
    "experts": (_experts, "Record experts, which trajectory matching needs first: haba experts digits/mtt-1pc"),
}


def _info(arguments: argparse.Namespace) -> Answer:
    artifact = _open(arguments.artifact, arguments.revision)
    return {"artifact": arguments.artifact, **artifact_facts(artifact)}, "\n".join(artifact_summary(artifact))


def _materialize(arguments: argparse.Namespace) -> Answer:
    artifact = _open(arguments.artifact, arguments.revision)
    path = materialize_artifact(artifact, arguments.folder)
    number = artifact.model.config.num_samples
    text = f'{number:,} samples: load_dataset("{path}", "exact") for floats, "images" for pictures'
    return {"folder": str(path), "num_samples": number}, text


def _gallery(arguments: argparse.Namespace) -> Answer:
    artifact = _open(arguments.artifact, arguments.revision)
    save_gallery(artifact.model, artifact.processor, arguments.picture, arguments.bases_per_class)
    return {"picture": arguments.picture}, arguments.picture


def _listen(arguments: argparse.Namespace) -> Answer:
    artifact = _open(arguments.artifact, arguments.revision)
    sounds = save_sounds(artifact.model, artifact.processor, arguments.folder)
    return {"folder": arguments.folder, "num_samples": len(sounds)}, f"{arguments.folder}: {len(sounds):,} WAV files"


def _push(arguments: argparse.Namespace) -> Answer:
    url = push_artifact(
        arguments.folder,
        arguments.repo_id,
        private=arguments.private or None,
        as_dataset=arguments.as_dataset,
        include_code=not arguments.no_code,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        commit_message=arguments.message,
    )
    return {"url": url}, url


def _export(arguments: argparse.Namespace) -> Answer:
    path = export_artifact(
        arguments.artifact, arguments.folder, repo_id=arguments.repo_id, include_code=not arguments.no_code
    )
    return {"folder": str(path)}, f"{path} is written; see it by haba info {path}"


def _pull(arguments: argparse.Namespace) -> Answer:
    path = pull_artifact(arguments.repo_id, arguments.folder, arguments.revision)
    return {"folder": str(path)}, f"{path} is written; see it by haba info {path}"


def _plan(arguments: argparse.Namespace) -> Answer:
    shape = tuple(arguments.sample_shape)
    plans = plan_storage(
        arguments.num_labels,
        shape,
        images_per_class=arguments.images_per_class,
        max_bytes=arguments.max_bytes,
        depths=arguments.hallucinator_depth,
        num_hallucinators=arguments.num_hallucinators,
        map_sizes=[None if size == "full" else int(size) for size in arguments.hallucinator_map],
        layouts=[PLAIN] if arguments.pixels else storage_layouts(shape),
        basis_channels=arguments.basis_channels,
        share_encoder_decoder=(False, True) if arguments.shared else (False,),
        label_kind=arguments.label_kind,
        storage_dtype=arguments.storage_dtype,
        strict=not arguments.nearest,
    )
    if not plans:
        raise ValueError(
            "The budget has room for none of these hallucinators and one basis per class: lower num_hallucinators or "
            "hallucinator_depth, raise the budget, or ask for what comes nearest by --nearest."
        )
    table = [
        {
            **{name: getattr(plan.config, name) for name in PLANNED},
            "basis_channels": plan.config.basis_shape[0],
            "samples_per_class": plan.config.samples_per_class,
            "num_samples": plan.config.num_samples,
            "floats": plan.floats,
            "bytes": plan.bytes,
            "images_per_class": plan.images_per_class,
            "budget_share": plan.budget_share,
        }
        for plan in plans
    ]
    rows = [[*PLAN_COLUMNS], ["---"] * len(PLAN_COLUMNS), *map(_plan_cells, plans)]
    return {"plans": table}, "\n".join(f"| {' | '.join(row)} |" for row in rows)


# What a plan sets in a recipe, beside basis_channels.
PLANNED = (
    "bases_per_class",
    "basis_storage",
    "basis_height",
    "basis_width",
    "basis_frequencies",
    "formation_factor",
    "num_hallucinators",
    "hallucinator_depth",
    "hallucinator_map_height",
    "hallucinator_map_width",
    "share_encoder_decoder",
    "storage_dtype",
)
PLAN_COLUMNS = (
    "samples per class",
    "bases per class",
    "a basis is stored as",
    "hallucinators",
    "floats",
    "bytes",
    "share of the budget",
)


def _plan_cells(plan: StoragePlan) -> list[str]:
    config = plan.config
    hallucinators = str(config.num_hallucinators)
    if config.num_hallucinators:
        _, height, width = config.map_shape
        shared = ", shared" if config.share_encoder_decoder else ""
        hallucinators += f" of depth {config.hallucinator_depth}, maps {height}x{width}{shared}"
    counts = (plan.config.samples_per_class, config.bases_per_class)
    return [
        *(f"{count:,}" for count in counts),
        describe_basis(config),
        hallucinators,
        f"{plan.floats:,}",
        f"{plan.bytes:,}",
        f"{plan.budget_share:.3f}",
    ]


def _open(name: str, revision: str | None) -> Artifact:
    """An artifact's folder, or, where there is none of that name, a repository on the Hub."""
    if Path(name).is_dir() or name.count("/") != 1:
        return read_artifact(name)
    return read_artifact(fetch_artifact(name, revision))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="haba", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (_, description) in RECIPE_COMMANDS.items():
        _add(commands, name, None, description)  # for the list of commands: parse_recipe reads their words
    info = _add(commands, "info", _info, "Sizes, budget, provenance and accuracy: haba info me/haba-digits")
    samples = _add(
        commands, "materialize", _materialize, "All samples as parquet: haba materialize me/haba-digits out"
    )
    gallery = _add(commands, "gallery", _gallery, "Bases and samples as a PNG: haba gallery me/haba-digits out.png")
    sounds = _add(commands, "listen", _listen, "All samples of speech as WAV files: haba listen me/haba-speech sounds")
    for command in (info, samples, gallery, sounds):
        command.add_argument("artifact", help="folder, or owner/name on the Hub")
        command.add_argument("--revision", help="branch, tag or commit on the Hub")
    for command in (samples, sounds):
        command.add_argument("folder", help="a new folder")
    gallery.add_argument("picture", help="the PNG to write")
    gallery.add_argument("--bases_per_class", type=int, help="show only the first ones (by default up to 10)")

    push = _add(commands, "push", _push, "Publish an artifact: haba push runs/digits-dm-1pc/artifact me/haba-digits")
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
        _export,
        "Write what a push uploads into a folder: haba export runs/digits-dm-1pc/artifact published/digits-dm-1pc",
    )
    export.add_argument("artifact", help="the artifact's folder, as distillation wrote it")
    export.add_argument("folder", help="a new folder, or that of an artifact to replace")
    export.add_argument("--repo-id", help="owner/name that the card's code loads (by default the folder)")
    export.add_argument("--no-code", action="store_true", help="leave out the code that trust_remote_code=True runs")

    pull = _add(commands, "pull", _pull, "Fetch an artifact: haba pull me/haba-digits my-copy --revision v1")
    pull.add_argument("repo_id", help="owner/name on the Hub")
    pull.add_argument("folder", help="a new folder, or that of an artifact to replace")
    pull.add_argument("--revision", help="branch, tag or commit")

    plan = _add(
        commands,
        "plan",
        _plan,
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
    plan.add_argument("--label_kind", choices=("hard", "soft"), default="hard", help="(hard)")
    return parser


def _add(commands: Any, name: str, function: Callable | None, description: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=description.split(":")[0], description=description, allow_abbrev=False)
    command.add_argument("--json", action="store_true", help="print one JSON object, and nothing else, on stdout")
    command.set_defaults(command=function)
    return command


def _recipe_names() -> list[str]:
    folder = recipes_folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


if __name__ == "__main__":
    main()
