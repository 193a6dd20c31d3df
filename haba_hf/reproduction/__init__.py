"""Tables of systems: their rows run from recipes, their records kept, ours printed beside the published figures."""

from .records import Record, keep_record, read_records, record_of, row_folder, run_row, settings_hash
from .report import departures, markdown
from .tables import Table, TableRow, read_table, tables_folder
from .transfer import has_artifact, run_transfer, transfer_of

__all__ = [
    "Record",
    "Table",
    "TableRow",
    "departures",
    "has_artifact",
    "keep_record",
    "markdown",
    "read_records",
    "read_table",
    "record_of",
    "row_folder",
    "run_row",
    "run_transfer",
    "settings_hash",
    "tables_folder",
    "transfer_of",
]
