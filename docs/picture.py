"""Draw what run_parity.py prints as a picture for README: python docs/picture.py docs/env.svg env

Run it where `results/` lies below; the words after the file are those of the command.
"""

import io
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text

WIDTH = 170  # characters; longer lines are wrapped


def main(file: str, *words: str) -> None:
    """Run the command and write its stdout, as a terminal shows it, to the SVG file."""
    command = [sys.executable, "run_parity.py", *words]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout.rstrip()
    width = min(WIDTH, max(map(len, printed.splitlines())))
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(Text(printed))
    svg = console.export_svg(title=f"python run_parity.py {' '.join(words)}", theme=DEFAULT_TERMINAL_THEME)
    Path(file).write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))  # fonts of the network


if __name__ == "__main__":
    main(*sys.argv[1:])
