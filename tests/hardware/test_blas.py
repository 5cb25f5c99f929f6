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
from pathlib import Path
from gateway.hardware.blas import load_blas
print(load_blas(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
assert not any(name.startswith("mlx") for name in sys.modules)
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


def test_openblas_is_found_and_serves_mlx(tmp_path: Path) -> None:
    """mlx's own matrix product is many times faster with it; a ratio, because machines differ."""
    name, fast = run(TIME_PRODUCT, "auto", "0", str(tmp_path)).splitlines()
    reference, slow = run(TIME_PRODUCT, "none", "0", str(tmp_path)).splitlines()
    assert name.startswith("OpenBLAS")
    assert "pip install" in reference
    assert float(slow) / float(fast) > 3


def test_the_number_of_threads_is_what_was_asked_for(tmp_path: Path) -> None:
    assert run(LOAD, "auto", "1", str(tmp_path)).endswith("1 threads")


def test_a_named_library_that_does_not_load_is_an_error(tmp_path: Path) -> None:
    code = LOAD.replace("print(", "import pytest\nwith pytest.raises(Exception, match='cannot be used'): (", 1)
    run(code, str(tmp_path / "none.so"), "0", str(tmp_path))


def test_the_fortran_runtime_is_made_once(tmp_path: Path) -> None:
    run(LOAD, "auto", "0", str(tmp_path))
    made = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("libgfortran*") if file.is_file()}
    run(LOAD, "auto", "0", str(tmp_path))
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("libgfortran*") if file.is_file()} == made
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file.name != "libgfortran.so.5"]
