"""Tables of systems: their rows run from recipes, their records kept, ours printed beside the published figures."""

from .records import keep_record, read_records, record_of, row_folder, run_row, settings_hash
from .report import departures, markdown
from .tables import Table, TableRow, read_table, tables_folder

__all__ = [
    "Table",
    "TableRow",
    "departures",
    "keep_record",
    "markdown",
    "read_records",
    "read_table",
    "record_of",
    "row_folder",
    "run_row",
    "settings_hash",
    "tables_folder",
]
