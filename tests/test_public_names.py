import importlib
import subprocess
import sys

import pytest

import doublure


@pytest.mark.parametrize("name", doublure.__all__)
def test_a_public_name_stays_what_it_is_after_everything_is_imported(name):
    first = getattr(doublure, name)
    importlib.import_module("doublure.cli.main")
    importlib.import_module("doublure.engine.pipeline")
    assert getattr(doublure, name) is first
    assert callable(first)


def test_the_import_alone_costs_no_torch():
    code = "import sys, doublure; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_another_name_is_refused():
    with pytest.raises(AttributeError, match="has no attribute 'distil'"):
        _ = doublure.distil


def test_dir_is_the_public_api():
    assert dir(doublure) == sorted([*doublure.__all__, "__version__"])
    assert doublure.__version__.count(".") == 2
