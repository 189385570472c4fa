"""Files in a folder that others may have written to: read where they are plain files, written whole or not at all.

A link could lead anywhere, a pipe would be waited for and a device may never end, so none of them is opened.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def open_plain(path: Path, flags: int = os.O_RDONLY) -> BinaryIO:
    """Open a plain file, with the `flags` of os.open; ValueError for anything else, OSError as open raises it."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError("it is a link, and none is followed") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("it is no plain file")
    return os.fdopen(descriptor, "r+b" if flags & os.O_RDWR else "wb" if flags & os.O_WRONLY else "rb")


def read_plain(path: Path, most_bytes: int) -> bytes:
    """The content of a plain file; ValueError for anything else, or where it is larger."""
    with open_plain(path) as file:
        content = file.read(most_bytes + 1)
        if len(content) > most_bytes:
            raise ValueError(f"it has {os.fstat(file.fileno()).st_size:,} bytes; {most_bytes:,} are read at most")
    return content


def require_folder(path: Path) -> None:
    """ValueError where the path is no folder, or a link to one; OSError where there is nothing."""
    mode = path.lstat().st_mode
    if not stat.S_ISDIR(mode):
        raise ValueError("it is a link, and none is followed" if stat.S_ISLNK(mode) else "it is no folder")


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the block ends well, and is removed otherwise."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    try:
        with open_plain(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            yield file
        os.replace(scratch, path)
    except BaseException:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise


def remove_scratch(folder: Path, names: tuple[str, ...]) -> None:
    """Remove half-written copies of files of these names, which a killed process left."""
    scratch = re.compile(rf"\.({'|'.join(map(re.escape, names))})\.\d+")
    for entry in os.scandir(folder):
        if scratch.fullmatch(entry.name):
            with suppress(OSError):
                os.unlink(entry.path)


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    with written_whole(path) as file:
        file.write(text.encode())
