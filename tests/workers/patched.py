"""A worker as ours; in every process of it the body runs first, and sees the modules `run` and `row`."""

import importlib
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.workers.arguments import parse

FRAMEWORKS = {"tf_impl": "tensorflow", "torch_impl": "torch"}

arguments = parse(__doc__)
importlib.import_module(arguments.module)
run = importlib.import_module(f"{arguments.module}.run")
row = importlib.import_module("common.process.row")
names = {"importlib": importlib, "os": os, "signal": signal, "sys": sys, "time": time, "__name__": __name__}
exec(arguments.body, {**names, "run": run, "row": row})

if __name__ == "__main__":
    from common.cli.worker import main

    entry = importlib.import_module(f"{arguments.module}.__main__")
    sys.exit(main(FRAMEWORKS[arguments.module], entry.run, entry.describe, arguments.words))
