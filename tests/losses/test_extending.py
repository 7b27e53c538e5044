"""Adding a loss touches three files: docs/extending.md is followed in a copy of the package, and all tests of losses run on it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = ["conftest.py", "test_all_losses.py", "test_protocol.py", "engine/test_document.py"]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package, the tests of all losses and the pages, with the three files of the guide written; and which they are."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(ROOT / "docs", root / "docs")
    shutil.copy(ROOT / "pyproject.toml", root)
    for name in SHARED:
        (root / "tests/losses" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "tests/losses" / name, root / "tests/losses" / name)
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8").split("## A metric")[0]
    steps = re.findall(r"### \d\. .*?: `(\S+)`\n.*?```python\n(.*?)```", page, flags=re.DOTALL)
    for name, text in steps:
        file = root / name
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        anchor = "from cosphere.losses.circle import *\n"
        file.write_text(before.replace(anchor, text + anchor) if before else text, encoding="utf-8")
    return root, [name for name, _ in steps]


def run(root, *command):
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], cwd=root, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_three_files_are_touched(copy):
    root, written = copy
    files = [path for part in ("src", "docs", "tests") for path in (root / part).rglob("*") if path.is_file()]
    here = {str(path.relative_to(root)): path.read_bytes() for path in files if "__pycache__" not in path.parts}
    changed = [name for name, text in here.items() if not (ROOT / name).exists() or (ROOT / name).read_bytes() != text]
    assert sorted(changed) == sorted(written)
    assert len(written) == 3
    line = (root / written[2]).read_text(encoding="utf-8").splitlines()
    assert len(line) == len((ROOT / written[2]).read_text(encoding="utf-8").splitlines()) + 1


@pytest.mark.slow(seconds=15)
def test_all_tests_of_losses_run_on_it_and_pass(copy):
    root, _ = copy
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "binomial_deviance or document or table"]
    code, output = run(root, "-m", "pytest", *options, "tests")
    assert code == 0, output[-3000:]
    passed = int(re.search(r"(\d+) passed", output).group(1))
    assert passed > 60  # the guide's own two, and what every loss must hold


@pytest.mark.slow
def test_the_command_and_the_page_know_it(copy):
    root, _ = copy
    page = root / "docs" / "written.md"
    shutil.copy(root / "docs" / "losses.md", page)
    both = "; ".join(
        [  # in one process, because each imports torch and the rest for seconds
            "from cosphere.cli import main as command",
            "from cosphere.losses.engine.document import main as document",
            "raise SystemExit(command(['losses', 'binomial_deviance']) or document(['docs/written.md']))",
        ]
    )
    code, output = run(root, "-c", both)
    assert code == 0, output
    assert "ICPR 2014" in output
    assert "`BinomialDevianceLoss(scale=2.0, base=0.5)`" in page.read_text(encoding="utf-8")
    page.unlink()
