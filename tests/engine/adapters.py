"""Random LoRA adapters in mlx-lm's format and in PEFT's, and models with one of them merged into their weights."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import QuantizedLinear
from mlx.utils import tree_unflatten

from gateway.generation.adapter import Adapter
from gateway.model_store.adapter_format import read_updates, weights_file

STRENGTH = 0.5
"""Of an adapter's products against the base's: enough that other tokens come."""


def linear_paths(model: Any, endings: Sequence[str] = ("",)) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of the model's linear layers with such names."""
    found = {}
    for path, layer in model.named_modules():
        if isinstance(layer, Linear | QuantizedLinear) and path.endswith(tuple(endings)):
            inputs = layer.weight.shape[1]
            if isinstance(layer, QuantizedLinear):
                inputs = inputs * 32 // layer.bits
            found[path] = inputs, layer.weight.shape[0]
    return found


def write_adapter(
    folder: Path,
    layers: dict[str, tuple[int, int]],
    rank: int,
    seed: int,
    peft: bool = False,
    strength: float = STRENGTH,
) -> Path:
    """A random adapter for these layers."""
    folder.mkdir(parents=True)
    keys = mx.random.split(mx.random.key(seed), 2 * len(layers))
    tensors = {}
    scale = 2.0
    for index, (path, (inputs, outputs)) in enumerate(layers.items()):
        down = mx.random.normal((inputs, rank), key=keys[2 * index]) / inputs**0.5
        up = strength * mx.random.normal((rank, outputs), key=keys[2 * index + 1]) / rank**0.5
        if peft:
            tensors[f"base_model.model.{path}.lora_A.weight"] = mx.contiguous(down.T)
            tensors[f"base_model.model.{path}.lora_B.weight"] = mx.contiguous(up.T)
        else:
            tensors[f"{path}.lora_a"], tensors[f"{path}.lora_b"] = down, up
    if peft:
        config: dict[str, Any] = {"peft_type": "LORA", "r": rank, "lora_alpha": scale * rank, "bias": "none"}
    else:
        config = {"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": {"rank": rank, "scale": scale}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    name = "adapter_model.safetensors" if peft else "adapters.safetensors"
    mx.save_safetensors(str(folder / name), tensors)
    return folder


def read_adapter(folder: Path, name: str) -> Adapter:
    return Adapter(name, weights_file(folder), read_updates(folder), name.encode())


def merged(model: Any, adapter: Adapter) -> Any:
    """A copy of the model whose weights have the adapter's products added; quantised layers are expanded."""
    model = copy.deepcopy(model)
    modules = dict(model.named_modules())
    tensors = mx.load(str(adapter.weights))
    assert isinstance(tensors, dict)
    replaced = []
    for update in adapter.updates:
        layer = modules[update.module]
        down, up = tensors[update.down], tensors[update.up]
        if update.transposed:
            down, up = down.T, up.T
        weight = layer.weight
        if isinstance(layer, QuantizedLinear):
            weight = mx.dequantize(weight, layer.scales, layer.biases, layer.group_size, layer.bits)
        whole = Linear(update.inputs, update.outputs, bias="bias" in layer)
        whole.weight = weight + update.scale * (down @ up).T
        if "bias" in layer:
            whole.bias = layer.bias
        replaced.append((update.module, whole))
    model.update_modules(tree_unflatten(replaced))
    return model
