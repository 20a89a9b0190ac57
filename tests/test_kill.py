"""Ten real training processes are killed, and go on; about two minutes: LFKIT_SLOW=1 python -m pytest tests/test_kill.py"""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not os.environ.get("LFKIT_SLOW"), reason="takes minutes; set LFKIT_SLOW=1")
def test_a_killed_run_goes_on_to_the_same_end():
    script = Path(__file__).parents[1] / "benchmarks" / "kill.py"
    done = subprocess.run([sys.executable, str(script), "--count", "10", "--seed", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
