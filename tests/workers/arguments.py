"""What a stand-in for an interpreter is given: its own options, then the command line of the interpreter."""

import argparse
from pathlib import Path
from types import CodeType


def parse(description: str | None) -> argparse.Namespace:
    """folder, body and before are the stand-in's own; the rest is what the interpreter is asked for.

    words: the arguments of the module, which is asked for by `-m`.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--folder", type=Path, required=True, help="where the stand-in keeps what it notes")
    parser.add_argument("--body", type=Path, required=True, help="the few lines of Python that a test has written")
    parser.add_argument("--before", type=Path, help="more lines, of a stand-in that has a place for them")
    parser.add_argument("words", nargs=argparse.REMAINDER, help="-- and the command line of the interpreter")
    arguments = parser.parse_args()
    words = arguments.words[1:]
    asked = argparse.ArgumentParser(allow_abbrev=False)
    asked.add_argument("-m", dest="module")
    asked.add_argument("--config", type=Path)
    asked.add_argument("--result", type=Path)
    asked.add_argument("--run-id")
    known, _ = asked.parse_known_args(words)
    return argparse.Namespace(
        folder=arguments.folder,
        body=_compiled(arguments.body),
        before=_compiled(arguments.before) if arguments.before else None,
        module=known.module,
        config=known.config,
        result=known.result,
        run_id=known.run_id,
        words=words[2:],
    )


def _compiled(file: Path) -> CodeType:
    """With the file's name in its tracebacks."""
    return compile(file.read_text(), str(file), "exec")
