"""Tests whose outcome could depend on rounding, on processors with fewer instructions, which round differently."""

import os

import pytest

from .workshop import FORKS, INSTRUCTION_SETS, PATIENCE, InstructionSet

# A run of this test diverged on processors with AVX2 alone.
QUICK = ["tests/distillation/test_runs.py::test_every_group_learns_at_the_strategys_rate"]
ALL = [
    "tests/distillation/test_runs.py",
    "tests/distillation/test_pretrain.py",
    "tests/models/test_folding.py",
    "tests/models/test_numerics.py",
    "tests/models/test_stock_agreement.py",
    "tests/training/test_durable.py",
]


def cases():
    for kind, tests in (("quick", QUICK), ("all", ALL)):
        for name in INSTRUCTION_SETS:
            slow = (kind, name) != ("quick", "avx2")
            yield pytest.param(name, tests, id=f"{kind}-{name}", marks=pytest.mark.slow if slow else ())


@pytest.mark.parametrize(("instructions", "tests"), list(cases()))
def test_other_rounding_changes_no_outcome(pytestconfig, tmp_path, instructions, tests):
    log = tmp_path / "log"
    process = FORKS.Process(target=_run_tests, args=(pytestconfig.rootpath, log, instructions, tests))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 0, log.read_text()[-3000:]


def _run_tests(root, log, instructions, tests):
    os.chdir(root)
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    InstructionSet(instructions)()
    os._exit(pytest.main(["-q", "-p", "no:cacheprovider", "--basetemp", str(log.parent / "tests"), *tests]))
