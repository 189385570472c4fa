"""The folder of a run: results.json, written anew whenever a row has ended, and a folder for each row.

    results.json          every row; never half of it, and kept until another is whole
    results.until-*.json  what it was before rows of it that had ended well were run again
    rows/NAME/            of one row: config.json, result.json, log.txt, arrays.npz

What lies there may come from elsewhere: it is read with limits, by its schema, and no path in it is followed.
"""

import errno
import fcntl
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from common.config import RunConfig, any_experiment_difference
from common.experiment.weights import weight_shapes
from common.results.coding import arrays_file, read_arrays, read_json, write_json
from common.results.files import open_plain, remove_scratch, require_folder, write_text
from common.results.rows import Arrays, Results, RowResult, Status, require_consistent
from common.text import in_one_line, printable, say, time_stamp


class StoreError(Exception):
    """The folder can't be used; the message says why, and what would be right."""


def results_file(path: Path) -> Path:
    """The results.json of a folder that is given instead of it."""
    return path / "results.json" if path.is_dir() else path


def read_results(file: Path) -> Results:
    """The results in a file; StoreError, in one line, where they can't be read."""
    try:
        results = read_json(file, Results)
        for row in results.rows:
            require_consistent(row)
        _require_one_experiment([row.config for row in results.rows])
    except FileNotFoundError as error:
        raise StoreError(f"{file} is not there{_hint(file.parent)}") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{file} can't be read ({in_one_line(error)})") from error
    return results


def _require_one_experiment(configs: Sequence[RunConfig]) -> None:
    """ValueError where a row is there twice, or two rows can't stand in one table."""
    if difference := any_experiment_difference(configs, configs):
        raise ValueError(f"its rows are of two experiments, with {difference}")
    twice = sorted(row_id for row_id, number in Counter(config.row_id for config in configs).items() if number > 1)
    if twice:
        raise ValueError(f"{twice[0]} is in it twice")


def _hint(folder: Path) -> str:
    """Where there are results, if not here: a sweep has a folder for each size."""
    inner = sorted(path.parent.name for path in folder.glob("*/results.json"))
    return f"; there is one in each of {', '.join(inner)}" if inner else ""


class Store:
    """Make it with the path of a folder, which is made; raises StoreError where that can't be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "results.json"
        self.is_whole = True  # whether all that was to be saved is on disk
        try:
            (folder / "rows").mkdir(parents=True, exist_ok=True)
            probe = folder / f".probe.{os.getpid()}"
            probe.write_bytes(bytes(4096))
            probe.unlink()
        except (FileExistsError, NotADirectoryError) as error:
            raise StoreError(f"a file is where {folder / 'rows'} must be made; give a folder") from error
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
                    holder = file.read(20).decode(errors="replace")
                    raise StoreError(
                        f"{self.folder} is locked by pid {holder if holder.isdecimal() else 'unknown'}, another run; "
                        "wait for it, or give another folder"
                    ) from error
                # Some network drives know no locks: then there is none.
            file.truncate(0)
            file.write(str(os.getpid()).encode())
            file.flush()
            self._remove_scratch()
            yield

    def _open_lock(self) -> BinaryIO:
        path = self.folder / ".lock"
        try:
            return open_plain(path, os.O_RDWR | os.O_CREAT)
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} can't be opened ({in_one_line(error)}); remove it") from error

    def row_folder(self, config: RunConfig) -> Path:
        return self.folder / "rows" / config.row_id

    def arrays_of(self, row: RowResult) -> Arrays:
        """What the row computed; StoreError where it is no longer there whole."""
        folder = self.row_folder(row.config)
        try:
            require_folder(folder)
            return read_arrays(arrays_file(folder), weight_shapes(row.config.model))
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{arrays_file(folder)} is missing or damaged; ask for that row again, or give another --output"
            ) from error

    def save(self, results: Results) -> None:
        """Write results.json; a full disk is said once, and the run goes on."""
        try:
            write_json(self.path, results)
        except OSError as error:
            if self.is_whole:
                say(f"{printable(str(self.path))} can't be written: {error.strerror}; the tables will be printed")
            self.is_whole = False

    def read(self, configs: Sequence[RunConfig]) -> Results:
        """The results that are there, without rows that are asked for again and whose arrays are missing or damaged.

        Raises StoreError where they can't be read, are of another experiment than configs, or would be lost.
        """
        if not os.path.lexists(self.path):
            return Results([], {})
        results = self._read_same(configs)
        asked = {config.row_id for config in configs}
        whole: list[RowResult] = []
        damaged: list[RowResult] = []
        for row in results.rows:
            (whole if self._is_whole(row, row.config.row_id in asked) else damaged).append(row)
        if any(row.status is Status.OK for row in damaged):
            self.keep()
            for row in damaged:
                say(f"{row.config.row_id} is run again: its arrays.npz is missing or damaged")
        return replace(results, rows=whole)

    def require_same(self, configs: Sequence[RunConfig]) -> None:
        """StoreError where results are there that can't be read, or are of another experiment than configs."""
        if os.path.lexists(self.path):
            self._read_same(configs)

    def keep(self) -> None:
        """Keep results.json as it is, in a file of its own: rows of it that ended well are to be run again."""
        copy = self.folder / f"results.until-{time_stamp()}.json"
        try:
            write_text(copy, self.path.read_text(encoding="utf-8"))
        except OSError as error:
            raise StoreError(f"{copy} can't be written ({error.strerror}); give another --output") from error

    def _read_same(self, asked: Sequence[RunConfig]) -> Results:
        try:
            results = read_results(self.path)
        except StoreError as reason:
            raise StoreError(f"{reason}; give another --output") from reason
        # The rows that are there are not to be lost.
        if difference := any_experiment_difference([row.config for row in results.rows], asked):
            raise StoreError(f"{self.folder} holds another experiment, with {difference}; give another --output")
        return results

    def _is_whole(self, row: RowResult, is_asked: bool) -> bool:
        """Whether the arrays of a trained row are there; StoreError where they aren't and the row isn't asked for."""
        if not row.training:
            return True
        try:
            self.arrays_of(row)
        except StoreError:
            if not is_asked:
                raise
            return False
        return True

    def _remove_scratch(self) -> None:
        """Remove what a run that was killed left half written."""
        rows = self.folder / "rows"
        try:
            require_folder(rows)
            remove_scratch(self.folder, ("results.json",))
            for folder in rows.iterdir():
                if folder.is_dir() and not folder.is_symlink():
                    remove_scratch(folder, ("result.json", "config.json", "arrays.npz"))
        except (OSError, ValueError) as error:
            raise StoreError(f"{rows} can't be used ({in_one_line(error)}); give another folder") from error
