r"""Fill a table row by row: every system is distilled, its students are trained, and the record is kept.

    python training/reproduce.py fashion_mnist-1 --data_root path/to/data --max_minutes 30
    python training/reproduce.py fashion_mnist-1 --rows Random DM   # these rows only
    python training/reproduce.py fashion_mnist-1 --print            # the table from the records there are
    python training/reproduce.py cifar10-10 --launch="--config_file training/launch/gpu-8.yaml"

The tables are in `training/tables/`. A row that has a record in `training/results/<table>.jsonl` with the same
settings and seed is not run again, one that was interrupted goes on from its newest checkpoint, and one that fails
leaves the others their turn. A row that starts from another, of which only the record is here, distils that one
first. Students of other networks, where a row asks for them (`transfer`), are trained on the artifact of its record;
where that is not here, the row is run anew. The table is in `training/results/<table>.md`. `--data_root` holds a
folder for every named data set; without it they come from the Hub. Whatever else is given, such as `--max_minutes` or
`--seed`, is a field of the recipes of all rows.
"""

import argparse
import shlex
import sys
from pathlib import Path

from haba_hf.recipes import RecipeError, run_script
from haba_hf.reproduction import (
    Record,
    Table,
    TableRow,
    has_artifact,
    keep_record,
    markdown,
    read_records,
    read_table,
    record_of,
    row_folder,
    run_row,
    run_transfer,
    settings_hash,
    transfer_of,
)
from haba_hf.utils.files import atomic_file


def main():
    arguments, others = parser().parse_known_args()
    overrides = fields(others)
    table = read_table(arguments.table)
    unknown = set(arguments.rows or []) - {row.name for row in table.rows}
    if unknown:
        raise ValueError(f"{table.name} has no row {', '.join(sorted(unknown))}.")
    records = Path(arguments.results) / f"{table.name}.jsonl"
    chosen = [row for row in table.rows if not arguments.rows or row.name in arguments.rows]
    for row in chosen:  # a mistake in the last of them costs nothing
        row.parse({**row.transfer, **overrides})
    failed = (
        [] if arguments.print else [row.name for row in chosen if not fill(table, row, records, arguments, overrides)]
    )
    print(write_table(table, records))
    if failed:
        sys.exit(f"error: these rows failed: {', '.join(failed)}; the command given again tries them again.")


def fill(table: Table, row: TableRow, records: Path, arguments: argparse.Namespace, overrides: dict[str, str]) -> bool:
    """Runs what of a row is not on record, writes record and table, and returns whether that worked."""
    record = finished(table, row, records, arguments, overrides)
    try:
        if record is None:
            print(f"==> {table.name}: {row.name}", flush=True)
            record = record_of(row, run(table, row, arguments, overrides), overrides)
            keep_record(records, record)
            write_table(table, records)  # after every row, so that an interruption leaves what there is
        if row.transfer and transfer_of(row, record) is None:
            print(f"==> {table.name}: {row.name}, other networks", flush=True)
            folder = row_folder(table, row, Path(arguments.output_root))
            settings = {**overrides, **place_of_data(row, arguments, overrides)}
            record["transfer"] = run_transfer(row, folder, settings, shlex.split(arguments.launch))
            keep_record(records, record)
            write_table(table, records)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    return True


def finished(
    table: Table, row: TableRow, records: Path, arguments: argparse.Namespace, overrides: dict[str, str]
) -> Record | None:
    """A row's record of the same settings and seed, unless the row asks by now for what that cannot be given."""
    key = row.name, row.parse(overrides).distillation.seed, settings_hash(row, overrides)
    for record in read_records(records):
        if (record["row"], record["seed"], record["settings_hash"]) != key:
            continue
        if row.asks_for_controls and "controls" not in record:
            return None
        folder = row_folder(table, row, Path(arguments.output_root))
        if row.transfer and transfer_of(row, record) is None and not has_artifact(row, record, folder, overrides):
            return None
        return record
    return None


def run(
    table: Table, row: TableRow, arguments: argparse.Namespace, overrides: dict[str, str], evaluate: bool = True
) -> Path:
    """Runs a row, distils before it the one that it starts from if only the record of that is here; its folder."""
    root, places = Path(arguments.output_root), place_of_data(row, arguments, overrides)
    if row.start is not None:
        start = next(other for other in table.rows if other.name == row.start)
        artifact = row_folder(table, start, root) / "artifact"
        if not artifact.is_dir():
            print(f"==> {table.name}: {start.name}, for its artifact", flush=True)
            run(table, start, arguments, overrides, evaluate=False)
        places["init_from"] = str(artifact)
    folder = row_folder(table, row, root)
    run_row(row, folder, {**overrides, **places}, shlex.split(arguments.launch), evaluate=evaluate)
    return folder


def place_of_data(row: TableRow, arguments: argparse.Namespace, overrides: dict[str, str]) -> dict[str, str]:
    """Where the row's data set is; nothing, where it comes from the Hub."""
    if arguments.data_root is None:
        return {}
    return {"data_dir": str(Path(arguments.data_root) / row.parse(overrides).data.dataset)}


def write_table(table: Table, records: Path) -> str:
    """Writes the table beside its records and returns it."""
    text = markdown(table, read_records(records))
    with atomic_file(records.with_suffix(".md")) as aside:
        aside.write_text(text, encoding="utf-8")
    return text


def fields(words: list[str]) -> dict[str, str]:
    """`--field value` and `--field=value` as a dictionary."""
    given = {}
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    while words:
        name = words.pop(0)
        if not name.startswith("--") or not words:
            raise RecipeError(f"{name}: after the table come options and fields as --field value.")
        given[name.removeprefix("--")] = words.pop(0)
    return given


def parser() -> argparse.ArgumentParser:
    results = Path(__file__).parent / "results"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("table", help="name of a table in training/tables/, or a YAML file")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="run only these rows")
    parser.add_argument("--print", action="store_true", help="run nothing")
    parser.add_argument("--data_root", help="folder with a folder of parquet files for every data set")
    parser.add_argument("--output_root", default="runs", help="artifacts, checkpoints and logs (runs)")
    parser.add_argument("--results", default=str(results), help="records and tables (training/results)")
    parser.add_argument("--launch", default="", help="options of accelerate launch in one word, for several devices")
    return parser


if __name__ == "__main__":
    run_script(main)
