"""Weight files: every format read without executing it, every known origin put into the right weights."""
import collections
import functools
import http.server
import io
import json
import os
import pickle
import re
import struct
import sys
import threading
import types
import urllib.error
import zipfile

import numpy as np
import paddle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from models.backbones import networks as backbones
from models.backbones import pretrained
from models.backbones.build import build_backbone
from models.backbones.pretrained import load_into, resize_grid
from models.backbones.weight_files import read_weights
from utils.errors import InputError

# writing torch's files without torch ------------------------------------------------------------
_KINDS = {"float32": "FloatStorage", "float16": "HalfStorage", "float64": "DoubleStorage", "int64": "LongStorage",
          "uint8": "ByteStorage", "bool": "BoolStorage", "uint16": "BFloat16Storage"}


def as_view(array):
    """(flat storage, offset, strides in elements) of an array, which may be a view of a flat one."""
    flat = array.base
    if not isinstance(flat, np.ndarray) or flat.ndim != 1:
        array = np.array(array, order="C")
        flat = array.reshape(-1)
    start = array.__array_interface__["data"][0] - flat.__array_interface__["data"][0]
    return flat, start // array.itemsize, tuple(step // array.itemsize for step in array.strides)


def write_torch(path, tree, legacy=False):
    """Write a tree of dicts with ndarrays in the layout of torch.save (uint16 stands for bfloat16)."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in set(_KINDS.values()):
        setattr(torch, name, type(name, (), {"__module__": "torch", "__qualname__": name}))

    def _rebuild_tensor_v2(*_):
        raise AssertionError("only named in the file")
    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    storages = {}

    class Storage:
        def __init__(self, flat):
            self.flat, self.key = flat, str(len(storages))
            storages[self.key] = flat

    class Pickler(pickle._Pickler):
        def reducer_override(self, value):
            if isinstance(value, np.ndarray):
                flat, offset, stride = as_view(value)
                hooks = collections.OrderedDict()
                return _rebuild_tensor_v2, (Storage(flat), offset, value.shape, stride, False, hooks)
            return NotImplemented

        def persistent_id(self, value):
            if not isinstance(value, Storage):
                return None
            kind = getattr(torch, _KINDS[str(value.flat.dtype)])
            return ("storage", kind, value.key, "cpu", value.flat.size, *([None] if legacy else []))

    saved = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update({"torch": torch, "torch._utils": utils})
    try:
        body = io.BytesIO()
        Pickler(body, protocol=2).dump(tree)
    finally:
        for name, module in saved.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module
    if not legacy:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("archive/data.pkl", body.getvalue())
            archive.writestr("archive/byteorder", "little")
            for key, flat in storages.items():
                archive.writestr(f"archive/data/{key}", flat.tobytes())
            archive.writestr("archive/version", "3\n")
        return
    with open(path, "wb") as file:
        for value in (0x1950a86a20f9469cfc6c, 1001, {"protocol_version": 1001, "little_endian": True}):
            pickle.dump(value, file, protocol=2)
        file.write(body.getvalue())
        pickle.dump(sorted(storages), file, protocol=2)
        for key in sorted(storages):
            file.write(struct.pack("<q", storages[key].size) + storages[key].tobytes())


def some_arrays():
    rng = np.random.RandomState(0)
    flat = rng.standard_normal(48).astype("float32")
    return collections.OrderedDict(
        plain=rng.standard_normal((3, 4)).astype("float32"), half=rng.standard_normal(5).astype("float16"),
        turned=flat.reshape(6, 8).T, part=flat.reshape(6, 8)[1:4, 1::2], count=np.array(7, "int64"),
        flags=np.array([True, False]), double=rng.standard_normal(2), empty=np.zeros((0, 3), "float32"))


# reading --------------------------------------------------------------------------------------
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
def test_torch_files(tmp_path, legacy, wrap):
    arrays = some_arrays()
    write_torch(tmp_path / "w.pth", {wrap: arrays, "epoch": 3} if wrap else arrays, legacy)
    read = read_weights(tmp_path / "w.pth")
    assert set(read) == set(arrays)
    for key, value in arrays.items():
        assert read[key].dtype == value.dtype and np.array_equal(read[key], value), key


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_bfloat16_becomes_float32(tmp_path, legacy):
    values = np.array([1.5, -2.0, 0.0, 3.140625], "float32")
    write_torch(tmp_path / "w.pth", {"a": (values.view("uint32") >> 16).astype("uint16")}, legacy)
    assert np.array_equal(read_weights(tmp_path / "w.pth")["a"], values)
    header = json.dumps({"a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    data = struct.pack("<Q", len(header)) + header + (values.view("uint32") >> 16).astype("<u2").tobytes()
    (tmp_path / "w.safetensors").write_bytes(data)
    assert np.array_equal(read_weights(tmp_path / "w.safetensors")["a"], values.reshape(2, 2))
    paddle.save({"a": paddle.to_tensor(values).astype("bfloat16")}, str(tmp_path / "w.pdparams"))
    assert np.array_equal(read_weights(tmp_path / "w.pdparams")["a"], values)


@pytest.mark.parametrize("protocol", [2, 4])
def test_paddle_files_of_layers_and_of_arrays(tmp_path, protocol):
    layer = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))
    paddle.save(layer.state_dict(), str(tmp_path / "a.pdparams"), protocol=protocol)
    paddle.save({key: value.numpy() for key, value in layer.state_dict().items()}, str(tmp_path / "b.pdparams"))
    for name in "ab":
        read = read_weights(tmp_path / f"{name}.pdparams")
        assert set(read) == set(layer.state_dict())
        assert all(np.array_equal(read[key], value.numpy()) for key, value in layer.state_dict().items())


def test_paddle_files_with_an_array_in_slices(tmp_path):
    array = np.arange(12, dtype="float32")
    tree = {"w@@.0": array[:7], "w@@.1": array[7:], "b": array[:2],
            "UnpackBigParamInfor@@": {"w": {"OriginShape": (3, 4), "slices": ["w@@.0", "w@@.1"]}}}
    (tmp_path / "w.pdparams").write_bytes(pickle.dumps(tree, protocol=2))
    read = read_weights(tmp_path / "w.pdparams")
    assert set(read) == {"w", "b"} and np.array_equal(read["w"], array.reshape(3, 4))


def test_safetensors_and_npz(tmp_path):
    arrays = {key: np.ascontiguousarray(value) for key, value in some_arrays().items()}
    save_file(arrays, str(tmp_path / "w.safetensors"), metadata={"format": "np"})
    np.savez_compressed(tmp_path / "w.npz", **arrays)
    for name in ("w.safetensors", "w.npz"):
        read = read_weights(tmp_path / name)
        assert set(read) == set(arrays)
        assert all(read[key].dtype == value.dtype and np.array_equal(read[key], value) for key, value in arrays.items())


def test_the_ending_does_not_matter(tmp_path):
    write_torch(tmp_path / "w.bin", {"a": np.ones(2, "float32")})
    assert set(read_weights(tmp_path / "w.bin")) == {"a"}


# hostile and broken files -----------------------------------------------------------------------
class Run:
    """Pickles to a call of a function with arguments: what a hostile file does."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HOSTILE = {"system": lambda mark: Run(os.system, f"touch {mark}"),
           "eval": lambda mark: Run(eval, f"open({str(mark)!r}, 'w')"),
           "open": lambda mark: Run(open, str(mark), "w"),
           "partial": lambda mark: Run(functools.partial, os.mkdir, str(mark))}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("layout", ["pdparams", "zip", "legacy", "npz"])
def test_a_hostile_file_is_refused_and_runs_nothing(tmp_path, kind, layout):
    mark, path = tmp_path / "mark", tmp_path / "w.pth"
    evil = HOSTILE[kind](mark)
    if layout == "npz":
        np.savez(path.with_suffix(".npz"), a=np.array([evil], dtype=object))
        path = path.with_suffix(".npz")
    elif layout == "pdparams":
        path.write_bytes(pickle.dumps({"w": np.ones(2, "float32"), "x": evil}))
    else:
        write_torch(path, {"w": np.ones(2, "float32"), "x": evil}, legacy=layout == "legacy")
    with pytest.raises(InputError) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not mark.exists()


def test_a_pickle_cannot_change_our_stand_ins(tmp_path):
    """BUILD on what a global stands for would reach into the reader itself."""
    good = pickle.dumps({"w": np.ones(2, "float32")}, protocol=2)
    evil = b"\x80\x02cnumpy\nndarray\nq\x00N}q\x01X\x07\x00\x00\x00__doc__X\x01\x00\x00\x00xs\x86b."
    (tmp_path / "evil.pdparams").write_bytes(evil)
    (tmp_path / "good.pdparams").write_bytes(good)
    with pytest.raises(InputError):
        read_weights(tmp_path / "evil.pdparams")
    assert np.array_equal(read_weights(tmp_path / "good.pdparams")["w"], np.ones(2))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Bytes of one small file of each format."""
    folder = tmp_path_factory.mktemp("files")
    arrays = {"a": np.arange(6, dtype="float32").reshape(2, 3), "b": np.ones(4, "float16")}
    write_torch(folder / "zip", arrays)
    write_torch(folder / "legacy", arrays, legacy=True)
    save_file(arrays, str(folder / "safetensors"))
    np.savez(folder / "x.npz", **arrays)
    paddle.save(arrays, str(folder / "pdparams"))
    return folder, {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["zip", "legacy", "safetensors", "x.npz", "pdparams"])
def test_a_truncated_file_is_refused(files, tmp_path, name):
    data = files[1][name]
    for size in range(0, len(data) - 1, max(1, len(data) // 40)):
        (tmp_path / "cut").write_bytes(data[:size])
        with pytest.raises(InputError):
            read_weights(tmp_path / "cut")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["zip", "legacy", "safetensors", "x.npz", "pdparams"]),
       where=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_damaged_file_is_read_or_refused(files, name, where, value):
    data = bytearray(files[1][name])
    data[int(where * len(data))] = value
    path = files[0] / "damaged"
    path.write_bytes(data)
    try:
        read = read_weights(path)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(array, np.ndarray) for array in read.values())


def test_a_tensor_cannot_reach_past_its_storage(tmp_path):
    write_torch(tmp_path / "w.pth", {"a": np.arange(6, dtype="float32").reshape(2, 3)})
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    body = parts["archive/data.pkl"]
    at = body.index(b"K\x02K\x03\x86")   # the size (2, 3)
    parts["archive/data.pkl"] = body[:at] + b"K\x09K\x03\x86" + body[at + 5:]
    with zipfile.ZipFile(tmp_path / "bad.pth", "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    with pytest.raises(InputError, match="past its storage"):
        read_weights(tmp_path / "bad.pth")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04]\x94.", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "w.pdparams").write_bytes(content)
    with pytest.raises(InputError, match="w.pdparams"):
        read_weights(tmp_path / "w.pdparams")


def test_a_missing_file_and_a_folder_are_said_so(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(InputError, match="does not exist"):
            read_weights(path)


# putting weights into networks ------------------------------------------------------------------
def build(name, size=64, **more):
    backbone = build_backbone(name, pretrained=False, image_size=size, **more)
    backbone.eval()
    return backbone


def pictures(size, count=2):
    return paddle.to_tensor(np.random.RandomState(1).standard_normal((count, 3, size, size)).astype("float32"))


def shaken(layer):
    """Give every weight and statistic of a layer a random value, so that a mix-up shows."""
    rng = np.random.RandomState(2)
    for key, value in layer.state_dict().items():
        scale = 0.5 / max(1, np.prod(value.shape[1:])) ** 0.5
        noise = rng.standard_normal(value.shape) * scale
        value.set_value((np.abs(noise) + 0.5 if key.endswith("_variance") else noise).astype("float32"))
    layer.eval()
    return layer


def as_torch(layer):
    """state_dict of a paddle.vision network in torch's names and layouts."""
    linear = {f"{name}.weight" for name, sub in layer.named_sublayers() if isinstance(sub, paddle.nn.Linear)}
    out = {}
    for key, value in layer.state_dict().items():
        value = value.numpy()
        if key.endswith("._mean"):
            out[key[:-len("_mean")] + "num_batches_tracked"] = np.array(3, "int64")
        key = re.sub(r"\._mean$", ".running_mean", re.sub(r"\._variance$", ".running_var", key))
        out[key] = np.ascontiguousarray(value.T) if key in linear else value
    return out


def write(path, arrays, kind):
    if kind == "pth":
        write_torch(path, arrays)
    elif kind == "safetensors":
        save_file(arrays, str(path))
    else:
        paddle.save(arrays, str(path))
    return path


RESNETS = ["resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet34", "resnet50"))]


@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.parametrize("kind", ["pth", "pdparams"])
def test_resnets_by_torchvisions_names(tmp_path, name, kind):
    """paddle.vision's network is torchvision's, written by others: ours must give the same features."""
    other = shaken(getattr(paddle.vision.models, name)(num_classes=0))
    arrays = as_torch(other) if kind == "pth" else {k: v.numpy() for k, v in other.state_dict().items()}
    arrays.update({"fc.weight": np.zeros((1000, 9), "float32"), "fc.bias": np.zeros(1000, "float32")})
    ours = build(name.replace("resnet", "ResNet"), weights=write(tmp_path / f"w.{kind}", arrays, kind))
    expected = other(pictures(64)).numpy()[:, :, 0, 0]
    np.testing.assert_allclose(ours(pictures(64)).numpy(), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pth", "safetensors", "pdparams"])
def test_vgg_by_torchvisions_names(tmp_path, kind):
    other = shaken(paddle.vision.models.vgg11())
    arrays = {k: v.numpy() for k, v in other.state_dict().items()} if kind == "pdparams" else as_torch(other)
    ours = build("VGG11", weights=write(tmp_path / f"w.{kind}", arrays, kind))
    assert ours.name == "VGG11:torchvision"
    x = other.avgpool(other.features(pictures(64))).flatten(1)
    fc6 = paddle.nn.functional.relu(other.classifier[0](x))
    expected = paddle.nn.functional.relu(other.classifier[3](fc6)).numpy()
    np.testing.assert_allclose(ours(pictures(64)).numpy(), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_vit_by_torch_names_of_the_same_spelling(tmp_path):
    name = "ViT:patch=16,dim=16,depth=1,heads=2"
    first = shaken(build(name, 48))
    arrays = as_torch(first.net)
    other = build(name, 48, weights=write(tmp_path / "w.pth", arrays, "pth"))
    assert np.array_equal(first(pictures(48)).numpy(), other(pictures(48)).numpy())


def full_network(name):
    with paddle.utils.unique_name.guard(""):
        return backbones._factories()[name]()


@pytest.mark.parametrize("name, size, fc7", [("AlexNet", 224, "_fc7"),
                                             pytest.param("VGG11", 224, "fc2", marks=pytest.mark.slow)])
def test_paddleclas_weights_keep_their_function_in_our_dropout_convention(tmp_path, name, size, fc7):
    """Their dropout halves in evaluation, ours does nothing: fc6 and fc7 carry the half."""
    full = full_network(name)
    full.eval()
    seen = []
    getattr(full, fc7).register_forward_post_hook(lambda layer, inputs, output: seen.append(output))
    full(pictures(size, 1))
    expected = paddle.nn.functional.relu(seen[0]).numpy()
    paddle.save(full.state_dict(), str(tmp_path / "w.pdparams"))
    ours = build(name, size, weights=tmp_path / "w.pdparams")
    assert ours.name == name
    np.testing.assert_allclose(ours(pictures(size, 1)).numpy(), expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())
    if name == "AlexNet":    # and in training, where the same elements are dropped
        full.train(), ours.train()
        paddle.seed(4)
        full(pictures(size, 1))
        paddle.seed(4)
        trained = ours(pictures(size, 1)).numpy()
        np.testing.assert_allclose(trained, paddle.nn.functional.relu(seen[1]).numpy(), rtol=1e-4, atol=1e-5)


def test_the_shared_squeezenet_weights(shared, tmp_path):
    """Unpadded, as they were trained; the same maps as paddle.vision's network with its padding taken away."""
    path = shared / "weights" / "squeezenet1_1_imagenet.npz"
    ours = build("SqueezeNet1_1", 96, weights=path)
    assert ours.name == "SqueezeNet1_1:torchvision"
    other = paddle.vision.models.squeezenet1_1()
    sys.path.insert(0, str(shared / "tools"))
    try:
        from squeezenet_npz_to_pdparams import to_paddle
    finally:
        sys.path.pop(0)
    with np.load(path) as archive:
        state = to_paddle(archive)
    other.set_state_dict(state)
    other.eval()
    other._conv._updated_padding = [0, 0]
    seen = []
    other._conv8.register_forward_post_hook(lambda layer, inputs, output: seen.append(output.numpy()))
    other(pictures(96))
    np.testing.assert_allclose(ours(pictures(96)).numpy(), seen[0].mean((2, 3)), rtol=1e-4, atol=1e-4)
    # the same weights under PaddleClas' names keep PaddleClas' structure
    paddle.save(state, str(tmp_path / "w.pdparams"))
    padded = build("SqueezeNet1_1", 96, weights=tmp_path / "w.pdparams")
    assert padded.name == "SqueezeNet1_1" and not np.allclose(padded(pictures(96)).numpy(), seen[0].mean((2, 3)), 1e-3)


# golden ---------------------------------------------------------------------------------------
def golden_names():
    return [("AlexNet", "alexnet", "dhn_alexnet"),
            pytest.param("VGG16", "vgg16", "dhn_vgg16_repaired", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name, prefix, keys", golden_names())
def test_golden_fc7_by_torchvisions_names(golden, tmp_path, name, prefix, keys):
    vectors = golden("alexnet")
    meta = json.loads(str(vectors["meta"]))
    x = np.random.RandomState(meta["seed_x"]).standard_normal((2, 3, 224, 224)).astype("float32")
    assert np.array_equal(x.ravel()[:8], vectors["input_first_8"])
    x = paddle.to_tensor(x)
    styles = sorted({key.split("/")[1] for key in vectors.files if key.startswith(f"{prefix}/")})
    assert styles
    rng = np.random.RandomState(meta["seed"])
    draws = {key: rng.standard_normal(shape) for key, shape in json.loads(str(vectors[f"state_dict/{keys}"]))}
    for style in styles:
        arrays = {}
        for key, draw in draws.items():
            he = style == "he" and key.endswith("weight")
            arrays[key] = (draw * (np.sqrt(2 / np.prod(draw.shape[1:])) if he else 0.05)).astype("float32")
        weight, bias = arrays.pop("hash_layer.weight"), arrays.pop("hash_layer.bias")
        write_torch(tmp_path / "w.pth", arrays)
        backbone = build(name, 224, weights=tmp_path / "w.pth")
        os.remove(tmp_path / "w.pth")
        fc7, tokens = backbone(x).numpy(), backbone.tokens(x).numpy()
        got = {"features": tokens.transpose(0, 2, 1), "fc7": fc7, "hash_pre_tanh": fc7 @ weight.T + bias}
        for key, value in got.items():
            expected = vectors[f"{prefix}/{style}/{key}"].reshape(value.shape)
            assert np.abs(value - expected).max() <= 1e-4 * np.abs(expected).max(), (style, key)


def golden_vit(vectors, path, size):
    """The tiny ViT whose Google-named arrays lie in the golden file itself; sizes are read off the arrays."""
    patch, _, _, dim = vectors["embedding/kernel"].shape
    _, heads, _ = vectors["Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"].shape
    hidden = vectors["Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel"].shape[1]
    depth = len({key.split("/")[1] for key in vectors.files if key.startswith("Transformer/encoderblock_")})
    return build(f"ViT:patch={patch},dim={dim},depth={depth},heads={heads},mlp={hidden // dim}", size, weights=path)


def test_golden_vit_from_googles_npz(golden, tmp_path):
    vectors = golden("wch")
    path = tmp_path / "ViT-tiny.npz"
    np.savez(path, **{key: vectors[key] for key in vectors.files
                      if key.startswith(("Transformer/", "embedding/", "cls", "head/"))})
    patch = vectors["embedding/kernel"].shape[0]
    cases = sorted({key.split("/")[0] for key in vectors.files if key.startswith("vit")})
    assert any(f"{case}/encoded" in vectors.files for case in cases)
    for case in cases:
        expected = vectors[f"{case}/pos_embedding"]
        side = round((expected.shape[1] - 1) ** 0.5)
        backbone = golden_vit(vectors, path, side * patch)
        np.testing.assert_allclose(backbone.net.pos_embed.numpy(), expected, rtol=1e-5, atol=2e-5)
        if f"{case}/encoded" in vectors.files:
            x, encoded = paddle.to_tensor(vectors[f"{case}/img1"]), vectors[f"{case}/encoded"]
            np.testing.assert_allclose(backbone(x).numpy(), encoded[:, 0], rtol=1e-5, atol=2e-5)
            np.testing.assert_allclose(backbone.tokens(x).numpy(), encoded[:, 1:], rtol=1e-5, atol=2e-5)


def test_golden_position_embedding_grids(golden):
    vectors = golden("wch")
    cases = [key[:-len("/in")] for key in vectors.files if key.startswith("zoom/") and key.endswith("/in")]
    assert cases
    for case in cases:
        expected = vectors[f"{case}/out"]
        np.testing.assert_allclose(resize_grid(vectors[f"{case}/in"], len(expected)), expected, rtol=1e-5, atol=2e-6)


@settings(max_examples=30, deadline=None)
@given(old=st.integers(1, 9), new=st.integers(2, 12), slope=st.tuples(*[st.floats(-2, 2)] * 3))
def test_a_linear_grid_stays_linear_with_its_corners(old, new, slope):
    def plane(n):
        at = np.linspace(0, 1, n) if n > 1 else np.zeros(1)
        return (slope[0] + slope[1] * at[:, None] + slope[2] * at[None, :])[..., None]
    expected = plane(new) if old > 1 else np.full((new, new, 1), slope[0])
    np.testing.assert_allclose(resize_grid(plane(old), new), expected, atol=1e-9)


# mismatches -----------------------------------------------------------------------------------
def tiny_state():
    return {key: value.numpy() for key, value in build("ViT:dim=8,heads=1,depth=1", 32).net.state_dict().items()}


@pytest.mark.parametrize("change, text", [
    (lambda s: s.pop("norm.weight"), "1 missing: norm.weight"),
    (lambda s: s.update(extra=np.ones(3, "float32")), "1 unexpected: extra"),
    (lambda s: s.update({"norm.bias": np.ones(9, "float32")}), r"1 mismatched: norm.bias \[9\] instead of \[8\]"),
    (lambda s: [s.pop(key) for key in list(s) if "blocks" in key], "12 missing: .* and 7 more")])
def test_what_does_not_fit_is_listed(tmp_path, change, text):
    state = tiny_state()
    change(state)
    paddle.save(state, str(tmp_path / "w.pdparams"))
    with pytest.raises(InputError, match=text):
        build("ViT:dim=8,heads=1,depth=1", 32, weights=tmp_path / "w.pdparams")


def test_the_classifier_of_a_file_is_ignored(tmp_path):
    state = {**tiny_state(), "head.weight": np.ones((8, 21), "float32"), "head.bias": np.ones(21, "float32")}
    paddle.save(state, str(tmp_path / "w.pdparams"))
    loaded = build("ViT:dim=8,heads=1,depth=1", 32, weights=tmp_path / "w.pdparams")
    assert np.array_equal(loaded.net.state_dict()["norm.weight"].numpy(), state["norm.weight"])


def test_weights_of_another_network_change_nothing(tmp_path):
    paddle.save(tiny_state(), str(tmp_path / "w.pdparams"))
    backbone = build("SqueezeNet1_1")
    before = backbone(pictures(64)).numpy()
    with pytest.raises(InputError, match="does not fit backbone SqueezeNet1_1: .*missing"):
        load_into(backbone, tmp_path / "w.pdparams")
    assert np.array_equal(backbone(pictures(64)).numpy(), before)


def test_a_google_file_with_a_hole_is_one_line(tmp_path):
    np.savez(tmp_path / "w.npz", **{"embedding/kernel": np.ones((16, 16, 3, 8), "float32")})
    with pytest.raises(InputError, match="does not fit"):
        build("ViT:dim=8,heads=1,depth=1", 32, weights=tmp_path / "w.npz")


# download -------------------------------------------------------------------------------------
@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "DOWNLOAD_FOLDER", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_failed_download_names_the_file_and_the_flags(home, monkeypatch):
    def refuse(url, timeout):
        raise urllib.error.URLError("no network")
    monkeypatch.setattr(pretrained.urllib.request, "urlopen", refuse)
    with pytest.raises(InputError) as caught:
        build_backbone("SqueezeNet1_1", image_size=64)
    text = str(caught.value)
    assert "\n" not in text and not home.exists()
    for part in ("https://", "SqueezeNet1_1_pretrained.pdparams", "--backbone-weights", "--no-pretrained",
                 "no network"):
        assert part in text


@pytest.mark.parametrize("name", ["ViT:dim=8,heads=1,depth=1", "SqueezeNet1_1:torchvision"])
def test_what_has_no_published_weights_says_so(home, name):
    with pytest.raises(InputError, match="no weights to download.*--no-pretrained"):
        build_backbone(name, image_size=64)


def test_no_pretrained_and_own_weights_do_not_touch_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "download", lambda backbone: pytest.fail("download was tried"))
    paddle.save(tiny_state(), str(tmp_path / "w.pdparams"))
    build_backbone("SqueezeNet1_1", pretrained=False, image_size=64)
    build_backbone("ViT:dim=8,heads=1,depth=1", weights=tmp_path / "w.pdparams", image_size=32)


def test_download_from_a_server_once(home, tmp_path, monkeypatch):
    source = build("SqueezeNet1_1")
    paddle.save({**{k: v.numpy() for k, v in source.net.state_dict().items()}, "an.extra": np.ones(1, "float32")},
                str(tmp_path / "SqueezeNet.pdparams"))
    data, served = (tmp_path / "SqueezeNet.pdparams").read_bytes(), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            served.append(self.path)
            self.send_response(404 if "gone" in self.path else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:100] if "short" in self.path else data)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        for bad in ("gone", "short"):
            monkeypatch.setattr(pretrained, "weights_url", lambda name: f"{address}/{bad}/w.pdparams")
            with pytest.raises(InputError, match=f"fetch {address}/{bad}/w.pdparams"):
                build_backbone("SqueezeNet1_1", image_size=64)
            assert not home.exists() or not os.listdir(home)
        monkeypatch.setattr(pretrained, "weights_url", lambda name: f"{address}/good/w.pdparams")
        for _ in range(2):
            got = build_backbone("SqueezeNet1_1", image_size=64)
            got.eval()
            assert np.array_equal(got(pictures(64)).numpy(), source(pictures(64)).numpy())
        assert sum("good" in path for path in served) == 1
    finally:
        server.shutdown()
        server.server_close()
