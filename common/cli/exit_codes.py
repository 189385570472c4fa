"""What the program and its verbs end with; 130 and 143 are those of signals."""

from common.results.rows import Results, Status

EXIT_OK, EXIT_NO_PARITY, EXIT_USAGE, EXIT_SOME_FAILED, EXIT_NOTHING_RAN = 0, 1, 2, 3, 4


def exit_code(results: Results, allow_missing: bool = False) -> int:
    """A row that the device can't run is no failure; a framework that is missing is one, unless allowed."""
    rows = results.rows
    if not all(entry.passed for entry in results.parity):
        return EXIT_NO_PARITY
    if not any(row.status is Status.OK for row in rows):
        return EXIT_NOTHING_RAN
    accepted = {Status.OK, Status.UNSUPPORTED, *([Status.NOT_INSTALLED] if allow_missing else [])}
    return EXIT_OK if all(row.status in accepted for row in rows) else EXIT_SOME_FAILED
