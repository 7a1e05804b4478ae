"""Random faults for five minutes: see setup/soak, whose seed each run tells."""

import subprocess

import pytest
from conftest import ROOT


@pytest.mark.slow
def test_nothing_is_lost():
    command = [ROOT / "setup" / "soak", "--minutes=5"]
    soak = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert soak.returncode == 0, soak.stdout
