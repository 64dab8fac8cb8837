"""Weights of every known origin put into the right places of a network; the download."""
import http.server
import json
import os
import re
import sys
import threading
import time
import urllib.error

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from models.backbones import build as building
from models.backbones import download, wheel
from models.backbones.build import build_backbone
from models.backbones.pretrained import load_into
from models.backbones.renames import without_prefixes
from models.backbones.vit import resize_grid
from tests.test_paddle_hashnet import layout as paddle_hashnet_layout
from tests.torch_format import write_torch
from utils.errors import InputError


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


PREFIXES = ["module.", "_orig_mod.", "backbone.", "encoder_q.", "module.encoder_q.", "_orig_mod.module.backbone.",
            "module._orig_mod.", "module.backbone._orig_mod."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_training_code_are_taken_away(tmp_path, prefix):
    name = "ViT:patch=16,dim=16,depth=1,heads=2"
    first = shaken(build(name, 48))
    arrays = {prefix + key: value for key, value in as_torch(first.net).items()}
    if "encoder_q" in prefix:   # MoCo: the momentum encoder and its queue lie beside
        arrays.update({key.replace("encoder_q", "encoder_k"): value + 1 for key, value in arrays.items()})
        arrays.update({prefix.split("encoder_q")[0] + "queue": np.zeros((2, 3), "float32")})
    if "backbone." in prefix:
        arrays.update({prefix.split("backbone")[0] + "head.mlp.weight": np.zeros((2, 3), "float32")})
    write_torch(tmp_path / "w.pth", {"state_dict": arrays, "best_acc1": np.zeros(1, "float32"), "epoch": 1})
    other = build(name, 48, weights=tmp_path / "w.pth")
    assert np.array_equal(first(pictures(48)).numpy(), other(pictures(48)).numpy())


def test_a_student_and_a_teacher_as_a_backbone(tmp_path):
    name = "ViT:patch=16,dim=16,depth=1,heads=2"
    first = shaken(build(name, 48))
    teacher = {f"module.backbone.{key}": value for key, value in as_torch(first.net).items()}
    student = {key: np.zeros_like(value) for key, value in teacher.items()}
    write_torch(tmp_path / "w.pth", {"student": student, "teacher": teacher})
    with pytest.raises(InputError, match="::teacher"):
        build(name, 48, weights=tmp_path / "w.pth")
    other = build(name, 48, weights=f"{tmp_path}/w.pth::teacher")
    assert np.array_equal(first(pictures(48)).numpy(), other(pictures(48)).numpy())


def test_a_name_of_the_network_that_looks_like_a_prefix_is_kept():
    arrays = {"backbone.conv.weight": 1, "backbone.module.weight": 2}
    assert without_prefixes(arrays, ["backbone.conv.weight"]) == arrays
    assert without_prefixes(arrays, ["conv.weight"]) == {"conv.weight": 1, "module.weight": 2}


def test_the_backbone_of_a_whole_model_of_paddle_hashnet(tmp_path):
    arrays = paddle_hashnet_layout()
    paddle.save(arrays, str(tmp_path / "weights_16.pdparams"))
    backbone = build("AlexNet", 224, weights=tmp_path / "weights_16.pdparams")
    assert np.array_equal(backbone.net._fc7.weight.numpy(), arrays["classifier_plus.4.weight"])


def test_a_checkpoint_of_ours_is_no_weight_file(tmp_path):
    save_file({"model/backbone.net.norm.weight": np.ones(8, "float32")}, str(tmp_path / "best.safetensors"))
    with pytest.raises(InputError, match="--pretrained"):
        build("ViT:dim=8,heads=1,depth=1", 32, weights=tmp_path / "best.safetensors")


def test_vit_by_torch_names_of_the_same_spelling(tmp_path):
    name = "ViT:patch=16,dim=16,depth=1,heads=2"
    first = shaken(build(name, 48))
    arrays = as_torch(first.net)
    other = build(name, 48, weights=write(tmp_path / "w.pth", arrays, "pth"))
    assert np.array_equal(first(pictures(48)).numpy(), other(pictures(48)).numpy())


def full_network(name):
    with paddle.utils.unique_name.guard(""):
        return wheel.factories()[name]()


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
    return build(f"ViT:patch={patch},dim={dim},depth={depth},heads={heads},mlp_width={hidden}", size, weights=path)


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


@pytest.mark.parametrize("key", ["layer1.99999999999.conv1.weight", "layer9.0.conv1.weight", "module." * 100_000 + "w",
                                 "features." + "9" * 100_000 + ".weight"])
def test_names_made_to_cost_time_are_refused_at_once(tmp_path, key):
    arrays = {key: np.ones((1, 1, 1, 1), "float32"), "layer1.0.conv1.weight": np.ones((1, 1, 1, 1), "float32")}
    save_file({k: v for k, v in arrays.items() if k == key or not key.startswith("module.")},
              str(tmp_path / "w.safetensors"))
    started = time.process_time()
    with pytest.raises(InputError) as caught:
        load_into(build("ResNet18"), tmp_path / "w.safetensors")
    assert len(str(caught.value)) < 2000 and time.process_time() - started < 20


def test_a_position_embedding_made_to_cost_time_is_refused(tmp_path):
    state = {**tiny_state(), "pos_embed": np.zeros((1, 2000 * 2000 + 1, 1), "float32")}
    paddle.save(state, str(tmp_path / "w.pdparams"))
    with pytest.raises(InputError, match="1 mismatched: pos_embed"):
        build("ViT:dim=8,heads=1,depth=1", 32, weights=tmp_path / "w.pdparams")


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
    monkeypatch.setattr(download, "DOWNLOAD_FOLDER", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_failed_download_names_the_file_and_the_flags(home, monkeypatch):
    def refuse(url, timeout):
        raise urllib.error.URLError("no network")
    monkeypatch.setattr(download.urllib.request, "urlopen", refuse)
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
    monkeypatch.setattr(building, "download", lambda backbone: pytest.fail("download was tried"))
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
            monkeypatch.setattr(download, "weights_url", lambda name: f"{address}/{bad}/w.pdparams")
            with pytest.raises(InputError, match=f"fetch {address}/{bad}/w.pdparams"):
                build_backbone("SqueezeNet1_1", image_size=64)
            assert not home.exists() or not os.listdir(home)
        monkeypatch.setattr(download, "weights_url", lambda name: f"{address}/good/w.pdparams")
        for _ in range(2):
            got = build_backbone("SqueezeNet1_1", image_size=64)
            got.eval()
            assert np.array_equal(got(pictures(64)).numpy(), source(pictures(64)).numpy())
        assert sum("good" in path for path in served) == 1
    finally:
        server.shutdown()
        server.server_close()
