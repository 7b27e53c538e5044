"""Run a tiny study that is killed again and again, each time in the middle of something.

python killed.py PHOTOS FOLDER KILLS SEED STUDY, where STUDY is the content of the study as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from cosphere.data import read_catalogue
from cosphere.studies import run, study_of


def changes(folder: Path) -> tuple[int, int]:
    """A number that moves whenever a file is written, replaced or removed."""
    try:
        files = [file.stat() for file in folder.rglob("*") if file.is_file()]
    except OSError:  # it changes while it is looked at
        return (-1, time.monotonic_ns())
    return (len(files), sum(file.st_mtime_ns for file in files))


def main() -> None:
    photos, folder = Path(sys.argv[1]), Path(sys.argv[2])
    kills, draw = int(sys.argv[3]), random.Random(int(sys.argv[4]))
    study, images = study_of("tiny", json.loads(sys.argv[5])), read_catalogue(photos)
    for _ in range(kills):
        child = os.fork()
        if not child:
            run(study, images, folder)
            os._exit(0)
        # Time in which it has done nothing is not counted: on a busy machine it would never get on.
        wanted, seen, state = draw.randint(1, 25), 0, changes(folder)
        while seen < wanted and not os.waitpid(child, os.WNOHANG)[0]:
            time.sleep(0.002)
            now = changes(folder)
            seen, state = seen + (now != state), now
        else:
            if seen < wanted:
                print("ended by itself")
                return
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print("killed", flush=True)
    run(study, images, folder)


if __name__ == "__main__":
    main()
