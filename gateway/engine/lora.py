"""LoRA adapters beside their base: rows of one pass may have different ones. Runs on the MLX thread.

A linear layer that any adapter touches is put into an `AdaptedLinear`. For a pass whose rows have adapters it computes
the low-rank products of all these adapters at once, as one product with their matrices side by side, and blots out of
each row what is not its own adapter's:

    y = base(x) + mask(x @ [down_1 | down_2 | ...]) @ [up_1 ; up_2 ; ...]

So the base's weights are there once, ranks may differ, and a batch of mixed rows costs hardly more than one of equal
rows. A pass without adapters is the base's own, bit for bit.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import QuantizedLinear
from mlx.utils import tree_unflatten

from gateway.errors import AdapterUnfit
from gateway.generation.adapter import BASE, Adapter, LowRankUpdate

TRIAL_TOKENS = (0, 1, 2)
TRIAL_TOLERANCE = 0.05
"""Of logits against the largest: in half precision, rows computed together are rounded otherwise than alone."""

Pair = tuple[mx.array, mx.array]
"""`down` (inputs, rank), and `up` (rank, outputs) times the adapter's scale."""


class RowAdapters:
    """Which adapters the rows of the coming pass have; all layers of a model look here."""

    def __init__(self) -> None:
        self.active: tuple[str, ...] = ()  # the same object as long as the same ones are active
        self._rows: tuple[str, ...] = ()
        self._masks: dict[tuple[tuple[str, int], ...], mx.array | None] = {}

    def choose(self, rows: Sequence[str]) -> None:
        """The adapter of each row, or `BASE`."""
        if (chosen := tuple(rows)) == self._rows:
            return
        self._rows = chosen
        self._masks = {}
        active = tuple(sorted(set(chosen) - {BASE}))
        if active != self.active:
            self.active = active

    def mask(self, columns: tuple[tuple[str, int], ...]) -> mx.array | None:
        """For columns that belong to adapters (name and how many, in order): (rows, 1, columns), true where a column is
        the row's own. None if all are everybody's."""
        if columns not in self._masks:
            owners = [name for name, count in columns for _ in range(count)]
            everybody = len(columns) == 1 and all(name == columns[0][0] for name in self._rows)
            own = [[owner == name for owner in owners] for name in self._rows]
            self._masks[columns] = None if everybody else mx.array(own)[:, None, :]
        return self._masks[columns]


def needed_bytes(adapters: Sequence[Adapter]) -> int:
    """At most, by the files' headers: themselves, and once more those that a pass needs side by side."""
    numbers = sum(one.rank * (one.inputs + one.outputs) for adapter in adapters for one in adapter.updates)
    return 4 * numbers * (1 if len(adapters) < 2 else 2)


class AdaptedLinear(Module):
    """A linear layer, quantised or not, and what adapters add to it."""

    def __init__(self, linear: Module, rows: RowAdapters) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.linear = linear
        self._own = _Products(rows)

    def add(self, name: str, pair: Pair) -> None:
        self._own.add(name, pair)

    def drop(self, name: str) -> None:
        self._own.drop(name)

    def __call__(self, x: mx.array) -> mx.array:
        """`x` is (rows, ..., inputs), or that with the rows' tokens one after the other."""
        y: mx.array = self.linear(x)
        added = self._own.of(x)
        return y if added is None else y + added.astype(y.dtype)


class _Products:
    """One layer's matrices, those of the active adapters side by side.

    No `Module`: they are no weights of the base.
    """

    def __init__(self, rows: RowAdapters) -> None:
        self._rows = rows
        self._pairs: dict[str, Pair] = {}
        self._active: tuple[str, ...] = ()
        self._columns: tuple[tuple[str, int], ...] = ()
        self._side_by_side: Pair | None = None

    def add(self, name: str, pair: Pair) -> None:
        self._pairs[name] = pair
        self._active = ()

    def drop(self, name: str) -> None:
        self._pairs.pop(name, None)
        self._active, self._side_by_side = (), None

    def of(self, x: mx.array) -> mx.array | None:
        if not self._rows.active:
            return None
        if self._rows.active is not self._active:
            self._join(self._rows.active)
        if self._side_by_side is None:
            return None
        down, up = self._side_by_side
        z = x @ down
        mask = self._rows.mask(self._columns)
        if mask is not None:
            by_row = z.reshape(mask.shape[0], -1, z.shape[-1])
            z = mx.where(mask, by_row, mx.zeros((), z.dtype)).reshape(z.shape)
        return z @ up

    def _join(self, active: tuple[str, ...]) -> None:
        here = [(name, self._pairs[name]) for name in active if name in self._pairs]
        self._active = active
        self._columns = tuple((name, pair[0].shape[1]) for name, pair in here)
        if len(here) < 2:
            self._side_by_side = here[0][1] if here else None
        else:
            downs, ups = [pair[0] for _, pair in here], [pair[1] for _, pair in here]
            self._side_by_side = mx.concatenate(downs, axis=1), mx.concatenate(ups, axis=0)


class AdaptedModel:
    """A base model and its adapters: computes each row of a pass with its own."""

    def __init__(self, base: Any) -> None:
        self.fingerprints: dict[str, bytes] = {}  # of the adapters that serve
        self.refused: dict[str, AdapterUnfit] = {}
        self._base = base
        self._rows = RowAdapters()
        self._nbytes: dict[str, int] = {}

    @property
    def nbytes(self) -> int:
        """Of all adapters, and once more of those that a pass needs side by side."""
        own = sum(self._nbytes.values())
        return own if len(self._nbytes) < 2 else 2 * own

    def check(self, name: str) -> None:
        """Raises `AdapterUnfit` if there is no such adapter here."""
        if name != BASE and name not in self._nbytes:
            raise self.refused.get(name) or AdapterUnfit(name, "it is not loaded")

    def __call__(self, inputs: mx.array, caches: list[Any] | None, adapters: Sequence[str]) -> mx.array:
        """Logits (rows, width, vocabulary) that follow `inputs` (rows, width); `adapters` names each row's."""
        self._rows.choose(adapters)
        logits: mx.array = self._base(inputs, cache=caches)
        return logits

    def add_in_slices(self, adapters: Sequence[Adapter]) -> Generator[float, float | None, None]:
        """`Slices`, one for each. Those that do not suit the base are refused; the others serve."""
        for adapter in adapters:
            yield 1.0
            try:
                self.add(adapter)
            except AdapterUnfit as error:
                self.refused[adapter.name] = error

    def add(self, adapter: Adapter) -> None:
        """Reads an adapter's weights; rows with its name may come from then on.

        Raises `AdapterUnfit` if it does not suit the base, which then is as it was before.
        """
        layers = _layers_by_update(adapter, dict(self._base.named_modules()))
        pairs = _read_pairs(adapter, layers)
        fresh = {path: AdaptedLinear(m, self._rows) for path, m in layers.items() if not isinstance(m, AdaptedLinear)}
        adapted = {path: fresh.get(path, layer) for path, layer in layers.items()}
        for path, pair in pairs.items():
            adapted[path].add(adapter.name, pair)
        self._put(fresh)
        try:
            self._try(adapter.name)
        except Exception as error:
            self._put({path: layers[path] for path in fresh})
            for layer in adapted.values():
                layer.drop(adapter.name)
            raise AdapterUnfit(adapter.name, f"the model cannot be computed with it: {error}") from error
        self._nbytes[adapter.name] = sum(array.nbytes for pair in pairs.values() for array in pair)
        self.fingerprints[adapter.name] = adapter.fingerprint

    def _put(self, modules: Mapping[str, Module]) -> None:
        if modules:
            self._base.update_modules(tree_unflatten(list(modules.items())))

    def _try(self, name: str) -> None:
        """A row with the adapter and one without must come out together as each does alone."""
        inputs = mx.array([TRIAL_TOKENS, TRIAL_TOKENS])
        together = self(inputs, None, [name, BASE])
        for row, adapter in enumerate((name, BASE)):
            alone = self(inputs[row : row + 1], None, [adapter])[0]
            if not mx.isfinite(alone).all().item():
                raise ValueError("its output is not a number (NaN or infinity)")
            if not (mx.abs(together[row] - alone).max() <= TRIAL_TOLERANCE * mx.abs(alone).max()).item():
                raise ValueError("some layer of it mixes rows, so that they cannot have adapters of their own")


def _layers_by_update(adapter: Adapter, modules: Mapping[str, Any]) -> dict[str, Any]:
    """The base's layers that the adapter's updates are for, by their paths and in the same order.

    Raises `AdapterUnfit` for one that is not there, is no linear layer or has other dimensions.
    """
    by_ending = _unique_endings(modules)
    layers: dict[str, Any] = {}
    for update in adapter.updates:
        path = update.module if update.module in modules else by_ending.get(_ending(update.module), "")
        if not path:
            raise AdapterUnfit(adapter.name, f"its base has no layer {update.module}; it is for another model")
        if path in layers:
            raise AdapterUnfit(adapter.name, f"it holds two products for {path}")
        layer = modules[path]
        dimensions = _dimensions(layer)
        if dimensions is None:
            kind = type(layer).__name__
            raise AdapterUnfit(adapter.name, f"{path} is a {kind}; only linear layers can have adapters side by side")
        if dimensions != (update.inputs, update.outputs):
            theirs = f"{update.inputs} to {update.outputs}"
            own = f"{dimensions[0]} to {dimensions[1]}"
            raise AdapterUnfit(adapter.name, f"its {update.module} takes {theirs} features, the base's {own}")
        layers[path] = layer
    return layers


def _ending(path: str) -> str:
    """From the number of the layer on: what stands before it depends on who wrote the model down."""
    _, found, after = path.rpartition("layers.")
    return found + after if found else path


def _unique_endings(modules: Mapping[str, Any]) -> dict[str, str]:
    """Paths by their endings, where only one has it."""
    paths: dict[str, list[str]] = {}
    for path in modules:
        paths.setdefault(_ending(path), []).append(path)
    return {ending: found[0] for ending, found in paths.items() if len(found) == 1}


def _linear(layer: Any) -> Any:
    """The base's own layer, whether adapters are in front of it or not."""
    return layer.linear if isinstance(layer, AdaptedLinear) else layer


def _dimensions(layer: Any) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer; None for any other."""
    match _linear(layer):
        case QuantizedLinear(weight=weight, bits=bits):
            return weight.shape[1] * 32 // bits, weight.shape[0]
        case Linear(weight=weight):
            return weight.shape[1], weight.shape[0]
        case _:
            return None


def _read_pairs(adapter: Adapter, layers: Mapping[str, Any]) -> dict[str, Pair]:
    """The weights by layer, in the type that the layer computes in. Raises `AdapterUnfit`."""
    try:
        tensors = mx.load(str(adapter.weights))
        assert isinstance(tensors, dict)
        pairs = {
            path: _pair(update, tensors, _linear(layer))
            for update, (path, layer) in zip(adapter.updates, layers.items(), strict=True)
        }
        finite = mx.array([mx.isfinite(array).all() for pair in pairs.values() for array in pair]).all()
        mx.eval(list(pairs.values()), finite)
    except Exception as error:
        raise AdapterUnfit(adapter.name, f"its weights cannot be read: {error}") from error
    if not finite.item():
        raise AdapterUnfit(adapter.name, "its weights hold NaN or infinity")
    return pairs


def _pair(update: LowRankUpdate, tensors: Mapping[str, mx.array], linear: Any) -> Pair:
    dtype = linear.scales.dtype if isinstance(linear, QuantizedLinear) else linear.weight.dtype
    down, up = tensors[update.down], tensors[update.up]
    if update.transposed:
        down, up = down.T, up.T
    up = update.scale * up.astype(mx.float32)  # in full precision: the product is rounded once
    return mx.contiguous(down.astype(dtype)), mx.contiguous(up.astype(dtype))
