"""The model both servers are measured with: the demo model expanded to float32, as an ordinary mlx-lm folder.

Quantised products take over ten times as long on a CPU, and only the gateway expands weights when it loads them; a
comparison of such a model would measure that and nothing else.

    python -m loadtests.model_folder STORE OUT     makes it: the child process that `float32_folder` starts
"""

import asyncio
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.model_store.manifest import MANIFEST_NAME
from gateway.model_store.sources import DEMO_MODEL_ID
from gateway.model_store.store import ModelStore

REPOSITORY = Path(__file__).parents[1]


async def float32_folder(store: Path, cache: Path) -> Path:
    """The folder, made under `cache` if it is not there yet, from the demo model of `store`.

    The work is done in a child process, which gives the memory back. Raises RuntimeError when that fails.
    """
    folder = cache / f"{DEMO_MODEL_ID}-float32"
    if not folder.exists():
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "loadtests.model_folder", str(store), str(folder), cwd=REPOSITORY
        )
        if status := await child.wait():
            raise RuntimeError(f"{folder}: the benchmark's model could not be made: exit status {status}.")
    return folder


@contextmanager
def appearing_whole(folder: Path) -> Iterator[Path]:
    """Where to write what then becomes `folder` by rename, so that it is whole or absent."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    yield unfinished
    unfinished.rename(folder)


def make_float32_folder(store: Path, folder: Path) -> None:
    import mlx.core as mx
    import mlx_lm.utils

    source = ModelStore(store).locate("", lambda _fraction, _doing: None).folder
    model, config = mlx_lm.utils.load_model(source)
    model.set_dtype(mx.float32)
    model = mlx_lm.utils.dequantize_model(model)
    config = {key: value for key, value in config.items() if not key.startswith("quantization")}

    with appearing_whole(folder) as unfinished:
        shutil.copytree(source, unfinished, ignore=shutil.ignore_patterns("model*", "config.json", MANIFEST_NAME))
        mlx_lm.utils.save_model(unfinished, model)
        mlx_lm.utils.save_config({**config, "torch_dtype": "float32"}, unfinished / "config.json")


if __name__ == "__main__":
    make_float32_folder(Path(sys.argv[1]), Path(sys.argv[2]))
