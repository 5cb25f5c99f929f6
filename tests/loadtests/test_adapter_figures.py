"""The adapters that are measured are whole ones, for every linear layer of the model."""

from pathlib import Path

from gateway.model_store.adapter_format import read_updates
from loadtests.adapter_figures import write_adapter


def test_a_random_adapter_touches_every_projection(tiny_folder: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", tiny_folder, rank=4)
    updates = {update.module: update for update in read_updates(tmp_path / "a")}
    assert len(updates) == 2 * 7
    down = updates["model.layers.1.mlp.down_proj"]
    assert (down.inputs, down.outputs, down.rank, down.scale) == (128, 64, 4, 1.0)
