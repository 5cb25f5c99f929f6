"""Each case in a process of its own, because a library that was loaded stays."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="macOS has Accelerate")


def run(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


LOAD = """
import sys
from gateway.hardware.blas import load_blas
print(load_blas(sys.argv[1], int(sys.argv[2])))
assert not any(name.startswith("mlx") for name in sys.modules)
"""

ALIAS = """
import ctypes
from gateway.hardware.symbol_alias import alias_symbol
ctypes.CDLL("libm.so.6", mode=ctypes.RTLD_GLOBAL)
power = alias_symbol("power_under_another_name", "pow")["power_under_another_name"]
power.restype, power.argtypes = ctypes.c_double, [ctypes.c_double, ctypes.c_double]
print(power(2, 3))
try:
    alias_symbol("nothing", "nothing_of_that_name")
except (OSError, AttributeError) as error:
    print(error)
"""

TIME_PRODUCT = (
    LOAD
    + """
import time
import mlx.core as mx
a = mx.random.normal((1024, 1024))
mx.eval(a @ a)
started = time.perf_counter()
mx.eval(a @ a)
print(time.perf_counter() - started)
"""
)


def test_openblas_is_found_and_serves_mlx() -> None:
    """mlx's own matrix product is many times faster with it; a ratio, because machines differ."""
    name, fast = run(TIME_PRODUCT, "auto", "0").splitlines()
    reference, slow = run(TIME_PRODUCT, "none", "0").splitlines()
    assert name.startswith("OpenBLAS")
    assert "pip install" in reference
    assert float(slow) / float(fast) > 3


def test_the_number_of_threads_is_what_was_asked_for() -> None:
    assert run(LOAD, "auto", "1").endswith("1 threads")


def test_a_named_library_that_does_not_load_is_an_error(tmp_path: Path) -> None:
    code = LOAD.replace("print(", "import pytest\nwith pytest.raises(Exception, match='cannot be used'): (", 1)
    run(code, str(tmp_path / "none.so"), "0")


def test_an_alias_calls_its_target_and_says_when_there_is_none() -> None:
    power, error = run(ALIAS).splitlines()
    assert power == "8.0"
    assert "nothing" in error
