"""PyTorch checkpoints are read as data: every number arrives, and whatever else a pickle asks for is refused."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.errors import ModelFilesInvalid
from gateway.model_store.safetensors_file import write_safetensors
from gateway.model_store.torch_file import read_torch_file

from .torch_writer import (
    REBUILD,
    Stored,
    call,
    dictionary,
    group,
    integer,
    name,
    tensor,
    text,
    whole,
    write_checkpoint,
    write_legacy,
    write_zip,
)

Writer = Callable[[Path, Mapping[str, Stored]], Path]
MATRIX = np.arange(35, dtype="<f4").reshape(7, 5) / 3
BFLOAT16 = (MATRIX.view("<u4") >> 16).astype("<u2")
SHARED = MATRIX.reshape(-1)


def read(path: Path) -> dict[str, Any]:
    """By way of the safetensors file that an import writes, as mlx loads it."""
    written = path.with_suffix(".safetensors")
    write_safetensors(written, read_torch_file(path), lambda _bytes: None)
    arrays: Any = mx.load(str(written))
    return {name: np.array(array.astype(mx.float32)) for name, array in arrays.items()}


@pytest.mark.parametrize("write", [write_checkpoint, write_legacy])
def test_every_type_and_view_arrives(write: Writer, tmp_path: Path) -> None:
    tensors = {
        "float": whole(MATRIX),
        "half": whole(MATRIX.astype("<f2")),
        "bfloat16": Stored(BFLOAT16.reshape(-1), (7, 5), (5, 1), kind="BFloat16"),
        "double": whole(MATRIX.astype("<f8")),
        "long": whole(np.arange(4, dtype="<i8")),
        "bool": whole(np.array([True, False])),
        "scalar": Stored(np.array([3.5], "<f4"), (), ()),
        "nothing": Stored(SHARED, (0, 3), (3, 1)),
        "transposed": Stored(SHARED, (5, 7), (1, 5)),
        "part": Stored(SHARED, (2, 2), (5, 1), offset=11),
        "tied": Stored(SHARED, (7, 5), (5, 1)),
    }

    arrays = read(write(tmp_path / "pytorch_model.bin", tensors))

    assert set(arrays) == set(tensors)
    np.testing.assert_array_equal(arrays["float"], MATRIX)
    np.testing.assert_array_equal(arrays["half"], MATRIX.astype("<f2").astype("<f4"))
    np.testing.assert_array_equal(arrays["bfloat16"], (BFLOAT16.astype("<u4") << 16).view("<f4"))
    np.testing.assert_array_equal(arrays["double"], MATRIX)
    np.testing.assert_array_equal(arrays["long"], np.arange(4))
    np.testing.assert_array_equal(arrays["bool"], [1, 0])
    assert (arrays["scalar"].shape, float(arrays["scalar"])) == ((), 3.5)
    assert arrays["nothing"].shape == (0, 3)
    np.testing.assert_array_equal(arrays["transposed"], MATRIX.T)
    np.testing.assert_array_equal(arrays["part"], MATRIX[2:4, 1:3])
    np.testing.assert_array_equal(arrays["tied"], MATRIX)


def test_a_training_checkpoint_gives_its_state_dictionary(tmp_path: Path) -> None:
    weights = dictionary(
        {"w": call(("torch._utils", "_rebuild_parameter"), tensor(whole(MATRIX), "0"), b"I01\n", b"N")}
    )
    pickle = dictionary({"epoch": integer(3), "state_dict": weights})

    arrays = read(write_zip(tmp_path / "a.pt", pickle, {"0": MATRIX.tobytes()}))

    np.testing.assert_array_equal(arrays["w"], MATRIX)


@pytest.mark.parametrize(
    ("module", "attribute"),
    [
        ("posix", "system"),
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch.nn.modules.container", "Sequential"),
        ("collections", "OrderedDict.__init__"),
        ("numpy._core.multiarray", "_reconstruct"),
    ],
)
@pytest.mark.parametrize("stack_global", [False, True])
def test_a_pickle_that_asks_for_anything_else_is_refused_by_name(
    module: str, attribute: str, stack_global: bool, tmp_path: Path
) -> None:
    witness = tmp_path / "executed"
    asked = text(module) + text(attribute) + b"\x93" if stack_global else name(module, attribute)
    pickle = asked + group(text(f"touch {witness}")) + b"R"
    file = write_zip(tmp_path / "evil.bin", dictionary({"w": tensor(whole(MATRIX), "0"), "x": pickle}), {})

    with pytest.raises(ModelFilesInvalid) as refusal:
        read_torch_file(file)

    assert f"asks for {module}.{attribute}," in str(refusal.value)
    assert not witness.exists()


def test_what_describes_a_tensor_cannot_be_changed_afterwards(tmp_path: Path) -> None:
    """By the BUILD instruction, after its bounds were checked."""
    changed = tensor(whole(MATRIX), "0") + dictionary({"offset": integer(1 << 40)}) + b"b"
    file = write_zip(tmp_path / "a.bin", dictionary({"w": changed}), {"0": MATRIX.tobytes()})
    with pytest.raises(ModelFilesInvalid, match="changes what describes a tensor"):
        read_torch_file(file)


@pytest.mark.parametrize(
    "stored",
    [
        Stored(SHARED, (36,), (1,)),
        Stored(SHARED, (35,), (1,), offset=1),
        Stored(SHARED, (2,), (1,), offset=-1),
        Stored(SHARED, (7, 5), (6, 1)),
        Stored(SHARED, (7, 5), (-5, 1)),
        Stored(SHARED, (-1,), (1,)),
        Stored(SHARED, (1 << 20, 1 << 20), (0, 0)),
        Stored(SHARED, (1 << 40, 1 << 40), (1 << 40, 1)),
        Stored(SHARED, (5,), (1, 1)),
        Stored(SHARED, (1,) * 9, (1,) * 9),
    ],
)
def test_a_tensor_stays_within_its_storage(stored: Stored, tmp_path: Path) -> None:
    with pytest.raises(ModelFilesInvalid, match=r"does not fit into its storage|impossible shape"):
        read_torch_file(write_checkpoint(tmp_path / "a.bin", {"w": stored}))


def test_a_storage_has_the_bytes_it_claims(tmp_path: Path) -> None:
    pickle = dictionary({"w": tensor(whole(MATRIX), "0")})
    for storages in ({"0": MATRIX.tobytes()[:-1]}, {"1": MATRIX.tobytes()}, {}):
        with pytest.raises(ModelFilesInvalid, match="should have 140 bytes and has"):
            read_torch_file(write_zip(tmp_path / "a.bin", pickle, storages))


def test_tensors_that_share_bytes_cannot_grow_without_bounds(tmp_path: Path) -> None:
    shared = np.zeros(100_000, "<f4")
    copies = {f"w{number}": Stored(shared, shared.shape, (1,)) for number in range(4)}
    with pytest.raises(ModelFilesInvalid, match="claim"):
        read_torch_file(write_checkpoint(tmp_path / "a.bin", copies))


@pytest.mark.parametrize(
    ("pickle", "reason"),
    [
        (integer(5), "holds a int, not a state dictionary"),
        (dictionary({}), "holds no tensors"),
        (dictionary({"lr": integer(1)}), "'lr' is a int, not a tensor"),
        (dictionary({"w": b"r\xff\xff\xff\xff"}), "pickle"),  # LONG_BINPUT: number an object 4294967295
        (call(REBUILD, integer(1)), "pickle is broken"),
        (call(REBUILD, text("x"), integer(0), group(), group()), "without a storage"),
        (text("file:///etc/passwd") + b"Q", "refers to something that is no storage"),
        (b"\x82\x01", "pickle is broken"),  # EXT1: an object of the extension registry
        (b"(" * 100, "pickle is broken"),
    ],
)
def test_what_is_no_state_dictionary_is_refused(pickle: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFilesInvalid, match=reason):
        read_torch_file(write_zip(tmp_path / "a.bin", pickle, {}))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello", b"\x80\x02}.", b"GGUF" * 100])
def test_what_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(ModelFilesInvalid, match=r"a\.bin: "):
        read_torch_file(tmp_path / "a.bin")


@pytest.mark.parametrize("write", [write_checkpoint, write_legacy])
def test_a_damaged_checkpoint_is_read_or_refused(write: Writer, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    sound = write(path, {"w": whole(MATRIX), "v": Stored(SHARED, (5, 7), (1, 5))}).read_bytes()

    @settings(max_examples=150, deadline=None)
    @given(st.integers(0, len(sound) - 1), st.binary(min_size=0, max_size=3), st.booleans())
    @example(147, b"\x96", False)  # in the old format, a length of more bytes than there is memory
    def damage(at: int, bytes_there: bytes, cut: bool) -> None:
        path.write_bytes(sound[:at] + bytes_there + (b"" if cut else sound[at + len(bytes_there) :]))
        try:
            for outgoing in read_torch_file(path):
                for piece in outgoing.pieces():
                    piece.copy()
        except ModelFilesInvalid:
            pass

    damage()
