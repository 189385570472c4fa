"""The folder of a run: results.json, written anew whenever a row has ended, and a folder for each row.

    results.json   every row; never half of it, and kept until another is whole
    rows/NAME/     of one row: config.json, result.json, log.txt, arrays.npz

What lies there may come from elsewhere: it is read with limits, by its schema, and no path in it is followed.
"""

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TextIO

from common.config import RunConfig
from common.launch import arrays_file
from common.results import (
    Arrays,
    Results,
    RowResult,
    read_arrays,
    read_json,
    require_consistent,
    results_json,
    to_json,
    write_text,
)
from common.text import printable, say
from common.weights import weight_shapes


class StoreError(Exception):
    """The folder can't be used; the message says why, and what would be right."""


class Store:
    """Make it with the path of a folder, which is made; raises StoreError where that can't be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "results.json"
        self.is_whole = True  # whether all that was to be saved is on disk
        self._rows: dict[str, tuple[RowResult, str]] = {}  # as they were saved last, and their JSON
        try:
            (folder / "rows").mkdir(parents=True, exist_ok=True)
            probe = folder / f".probe.{os.getpid()}"
            probe.write_bytes(bytes(4096))
            probe.unlink()
        except (FileExistsError, NotADirectoryError) as error:
            raise StoreError(f"{folder} is or lies in a file; give a folder") from error
        except OSError as error:
            raise StoreError(f"{folder} can't be written ({error.strerror}); give another folder") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the folder while the block runs; raises StoreError where one is in it.

        The system gives the lock back when this process ends, however it ends.
        """
        with self._open_lock() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    file.seek(0)
                    raise StoreError(
                        f"{self.folder} is locked by pid {file.read(20).strip()}, another run; "
                        "wait for it, or give another folder"
                    ) from error
                # Some network drives know no locks: then there is none.
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            self._sweep()
            yield

    def _open_lock(self) -> TextIO:
        try:
            return (self.folder / ".lock").open("a+")
        except OSError as error:
            raise StoreError(f"{self.folder / '.lock'} can't be opened ({error.strerror}); remove it") from error

    def row_folder(self, config: RunConfig) -> Path:
        return self.folder / "rows" / config.row_id

    def arrays_of(self, row: RowResult) -> Arrays:
        """What the row computed; ValueError or OSError where it is no longer there whole."""
        return read_arrays(arrays_file(self.row_folder(row.config)), weight_shapes(row.config.model))

    def save(self, results: Results) -> None:
        """Write results.json; a full disk is said once, and the run goes on."""
        try:
            write_text(self.path, results_json(results, [self._json_of(row) for row in results.rows]) + "\n")
        except OSError as error:
            if self.is_whole:
                say(f"{self.path} can't be written: {error.strerror}; the tables will be printed")
            self.is_whole = False

    def read(self, configs: Sequence[RunConfig]) -> Results:
        """The results that are there, without rows that are asked for again and whose arrays are damaged.

        Raises StoreError where they can't be read, are of another experiment than configs, or would be lost.
        """
        if not self.path.exists():
            return Results([], {})
        if not self.path.is_file():  # a pipe would be waited for
            raise StoreError(f"{self.path} is no file; give another --output")
        try:
            results = read_json(self.path, Results)
            for row in results.rows:
                require_consistent(row)
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path} can't be read ({printable(str(error))}); give another --output") from error
        self._refuse_another_experiment(results.rows, configs[0])
        asked = {config.row_id for config in configs}
        damaged = [row for row in results.rows if row.training and not self._has_arrays(row)]
        for row in damaged:
            if row.config.row_id not in asked:
                raise StoreError(
                    f"{arrays_file(self.row_folder(row.config))} is missing or damaged; "
                    "ask for that row again, or give another --output"
                )
        return replace(results, rows=[row for row in results.rows if row not in damaged])

    def _json_of(self, row: RowResult) -> str:
        saved = self._rows.get(row.config.row_id)
        if saved is None or saved[0] is not row:
            saved = self._rows[row.config.row_id] = row, to_json(row)
        return saved[1]

    def _has_arrays(self, row: RowResult) -> bool:
        try:
            self.arrays_of(row)
        except (OSError, ValueError):
            return False
        return True

    def _refuse_another_experiment(self, earlier: Sequence[RowResult], asked: RunConfig) -> None:
        """Rows of two experiments can't stand in one table, and those that are there are not to be lost."""
        for row in earlier:
            for part in ("data", "model", "train"):
                theirs, ours = asdict(getattr(row.config, part)), asdict(getattr(asked, part))
                if differing := [name for name in theirs if theirs[name] != ours[name]]:
                    name = differing[0]
                    raise StoreError(
                        f"{self.folder} holds another experiment, with {name} {theirs[name]} and not {ours[name]}; "
                        "give another --output"
                    )

    def _sweep(self) -> None:
        """Remove what a run that was killed left half written."""
        for folder in (self.folder, *(self.folder / "rows").iterdir()):
            for name in ("results.json", "result.json", "config.json", "arrays.npz"):
                for scratch in folder.glob(f".{name}.*"):
                    with suppress(OSError):
                        scratch.unlink()
