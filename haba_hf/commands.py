"""What the commands of `haba` do: thin fronts of the functions of this package. `cli.py` reads their words."""

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
from .data import NAMED_DATASETS
from .evaluation import architecture_table, markdown_table, robustness_table
from .hub import (
    Artifact,
    artifact_facts,
    artifact_summary,
    export_artifact,
    fetch_artifact,
    list_artifacts,
    materialize_artifact,
    pull_artifact,
    pull_experts,
    push_artifact,
    push_experts,
    read_artifact,
    save_gallery,
    save_sounds,
)
from .hub.pictures import write_pictures
from .hub.records import CORESET, DISTILLATION
from .hub.released import write_released
from .recipes import Recipe, parse_recipe
from .runs import (
    distill,
    embed,
    evaluate,
    evaluate_architectures,
    evaluate_robustness,
    import_released,
    record,
    select_coreset,
    start_accelerator,
)
from .utils.markdown import table_text
from .utils.text import some

# What a command gives back: an object for --json, and the text it prints without.
Answer = tuple[dict[str, Any], str]


def run(command: str, given: argparse.Namespace | list[str], as_json: bool) -> None:
    """
    Runs one command and prints its answer.

    Args:
        command (`str`): its name.
        given (`argparse.Namespace` or `list[str]`): what was read of its words; of a command with a recipe the words.
        as_json (`bool`): print one JSON object, and nothing else, on stdout.
    """
    # With --json stdout holds one object: what is said on the way goes to stderr.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        answer = _run_recipe(command, given) if isinstance(given, list) else COMMANDS[command](given)
    if answer is not None:
        print(json.dumps(answer[0], indent=2) if as_json else answer[1])


def _run_recipe(command: str, words: Sequence[str]) -> Answer | None:
    """A command that takes `[RECIPE] [--field value ...]`; `None` on all processes but the main one."""
    recipe = parse_recipe(words)
    accelerator = start_accelerator(tracked=recipe if command == "distill" else None)
    answer = RECIPE_COMMANDS[command](recipe, accelerator)
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


def _select(recipe: Recipe, accelerator: Accelerator) -> Answer:
    path = select_coreset(recipe, accelerator)
    origin = json.loads((path / CORESET).read_text(encoding="utf-8"))
    return {"artifact": str(path), **origin}, f"See it: haba info {path}"


RECIPE_COMMANDS: dict[str, Callable[[Recipe, Accelerator], Answer]] = {
    "distill": _distill,
    "select": _select,
    "evaluate": _evaluate,
    "robustness": _robustness,
    "embed": _embed,
    "experts": _experts,
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
    if arguments.layout != "haba":
        write = {"mtt": write_released, "folder": write_pictures}[arguments.layout]
        written = write(read_artifact(arguments.artifact), arguments.folder)
        names = some(sorted(path.name for path in written.iterdir()))
        return {"folder": str(written)}, f"{written} is written: {names}"
    path = export_artifact(
        arguments.artifact, arguments.folder, repo_id=arguments.repo_id, include_code=not arguments.no_code
    )
    return {"folder": str(path)}, f"{path} is written; see it by haba info {path}"


def _import(arguments: argparse.Namespace) -> Answer:
    settings = {name: value for name, value in vars(arguments).items() if name not in ("command", "folder", "json")}
    path = import_released(settings.pop("images"), settings.pop("labels"), arguments.folder, **settings)
    text = f"{path} is written. Score it: haba evaluate {path}/recipe.yaml"
    return {"artifact": str(path)}, text


def _pull(arguments: argparse.Namespace) -> Answer:
    path = pull_artifact(arguments.repo_id, arguments.folder, arguments.revision)
    return {"folder": str(path)}, f"{path} is written; see it by haba info {path}"


def _push_experts(arguments: argparse.Namespace) -> Answer:
    url = push_experts(
        arguments.folder,
        arguments.repo_id,
        private=arguments.private or None,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        commit_message=arguments.message,
    )
    return {"url": url}, url


def _pull_experts(arguments: argparse.Namespace) -> Answer:
    path = pull_experts(arguments.repo_id, arguments.folder, arguments.revision)
    return {"experts_dir": str(path)}, f"Experts: {path}. Use them: haba distill RECIPE --experts_dir {path}"


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
    return {"plans": table}, table_text(PLAN_COLUMNS, map(_plan_cells, plans)).rstrip()


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


def _list(arguments: argparse.Namespace) -> Answer:
    if arguments.what == "datasets":
        known = {name: of.hub_id or "with scikit-learn" for name, of in NAMED_DATASETS.items()}
        return {"datasets": known}, "\n".join(f"{name:24} {origin}" for name, origin in known.items())
    found = list_artifacts(arguments.folder)
    lines = [f"{artifact['folder']:48} {artifact['dataset']}  {artifact['accuracy']}" for artifact in found]
    return {"artifacts": found}, "\n".join(lines) or f"There is no artifact below {arguments.folder}."


COMMANDS: dict[str, Callable[[argparse.Namespace], Answer]] = {
    "list": _list,
    "info": _info,
    "materialize": _materialize,
    "gallery": _gallery,
    "listen": _listen,
    "push": _push,
    "export": _export,
    "import": _import,
    "pull": _pull,
    "experts push": _push_experts,
    "experts pull": _pull_experts,
    "plan": _plan,
}
