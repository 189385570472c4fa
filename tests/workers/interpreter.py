"""Takes an interpreter's place and speaks no protocol: it runs the body, which sees config, result and run_id."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.workers.arguments import parse

arguments = parse(__doc__)
config, result = (place and str(place) for place in (arguments.config, arguments.result))
names = {"json": json, "os": os, "signal": signal, "subprocess": subprocess, "sys": sys, "time": time}
exec(arguments.body, {**names, "config": config, "result": result, "run_id": arguments.run_id})
