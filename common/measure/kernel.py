"""Linux tells of itself in files, under /proc and /sys."""

from pathlib import Path


def read_file(path: Path) -> str:
    """The file's text; "" where it is not there or can't be read, as on another system."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
