"""Can a command that is printed as a remedy be run where it is printed? As far as that shows without a network."""

import shlex
import shutil
from pathlib import Path

from packaging.requirements import Requirement


def assert_can_be_run(command: str) -> None:
    """Its programs are there, or are made by the part before; pip takes its options, and finds its files."""
    made: list[str] = []
    for part in command.split(" && "):
        program, *words = shlex.split(part)
        assert program in made or shutil.which(program), f"{program} is not there"
        if words[:2] == ["-m", "venv"]:
            (folder,) = words[2:]
            made.append(f"{folder}/bin/python")
        elif words:
            assert words[:3] == ["-m", "pip", "install"], f"{part} is no known remedy"
            assert_pip_would_take(words[3:])


def assert_pip_would_take(words: list[str]) -> None:
    """Each file is there, each project can be built, and each requirement is one."""
    rest = iter(words)
    for word in rest:
        if word == "-c":
            assert Path(next(rest)).is_file()
        elif word == "-e":
            folder, _, extra = next(rest).removesuffix("]").partition("[")
            assert extra in extras(Path(folder))
        else:
            assert Requirement(word).name != "mixed-precision-parity", "which no index has"


def extras(folder: Path) -> set[str]:
    """The extras that the project of the folder declares."""
    text = (folder / "pyproject.toml").read_text(encoding="utf-8")
    section = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    return {line.partition(" = ")[0] for line in section.splitlines() if " = " in line}
