"""WCH: token operations, loss and gradients against the authors' code, and what must hold for any input."""
import json
import re

import numpy as np
import paddle
import pytest

from models.backbones.build import build_backbone
from models.backbones.precomputed import Precomputed
from models.method import DataFacts
from models.wch import WCH, balance, mutual_attention, patch_similarity, patch_weights, pool_tokens, weighted_contrast
from tests.tiny import leaf, near, near_gradient
from utils.errors import InputError

HEAD = {"fc": "fc", "hash": "b", "fc_norm": "fc_norm"}  # our layer: the authors' name


def with_golden_head(backbone, z, **hyper):
    """WCH with the golden head's weights; temperatures from the file's meta."""
    meta = json.loads(str(z["meta"]))
    weights = {key: z[f"head_weights/{key}"] for key in
               [f"{theirs}.{part}" for theirs in HEAD.values() for part in ("weight", "bias")]}
    hidden, bits = weights["fc.weight"].shape[0], weights["b.weight"].shape[0]
    method = WCH(backbone, bits, DataFacts(0, 0), hidden=hidden, attention_temperature=meta["T_cross"],
                 weight_temperature=meta["T_weighted"], contrast_temperature=meta["T_contrast"], **hyper)
    for ours, theirs in HEAD.items():
        layer = getattr(method, ours)
        layer.weight.set_value(weights[f"{theirs}.weight"].T)
        layer.bias.set_value(weights[f"{theirs}.bias"])
    return method


def test_mutual_attention(golden):
    z = golden("wch")
    y1, y2 = mutual_attention(paddle.to_tensor(z["tok/x1"]), paddle.to_tensor(z["tok/x2"]),
                              json.loads(str(z["meta"]))["T_cross"])
    near(y1.numpy(), z["tok/cross1"])
    near(y2.numpy(), z["tok/cross2"])


def test_weights_of_attended_tokens(golden):
    z = golden("wch")
    temperature = json.loads(str(z["meta"]))["T_weighted"]
    own = paddle.to_tensor(z["tok/cross1"].astype("float32")), paddle.to_tensor(z["tok/cross2"].astype("float32"))
    near(patch_weights(*own, temperature).numpy(), z["tok/weighted"])


@pytest.mark.parametrize("limit", [1, 2000, 1 << 24])
def test_weights_and_their_gradient_in_chunks_of_any_size(golden, limit):
    z = golden("wch")
    x1, x2 = leaf(z["tok/x1"]), leaf(z["tok/x2"])
    out = patch_weights(x1, x2, json.loads(str(z["meta"]))["T_weighted"], limit=limit)
    near(out.numpy(), z["piece/weighted/out"])
    (out * paddle.to_tensor(z["piece/weighted/cotangent"].astype("float32"))).sum().backward()
    near_gradient(x1.grad.numpy(), z["piece/weighted/dx1"])
    near_gradient(x2.grad.numpy(), z["piece/weighted/dx2"])


def test_weighted_contrast_alone(golden):
    z = golden("wch")
    h1, h2, weights = (leaf(z[f"piece/cl/{name}"]) for name in ("h1", "h2", "weighted"))
    temperature = json.loads(str(z["meta"]))["T_contrast"]
    total = weighted_contrast(h1, h2, weights, temperature) + balance(h1)
    near(float(total), float(z["piece/cl/loss"]))
    total.backward()
    near_gradient(h1.grad.numpy(), z["piece/cl/dh1"])
    near_gradient(h2.grad.numpy(), z["piece/cl/dh2"])
    near_gradient(weights.grad.numpy(), z["piece/cl/dweighted"])


@pytest.mark.parametrize("detach", [False, True])
def test_loss_and_gradients_from_tokens(golden, detach):
    z = golden("wch")
    method = with_golden_head(Precomputed(z["tok/x1"].shape[2]), z, detach_weights=detach)
    x1, x2 = leaf(z["tok/x1"]), leaf(z["tok/x2"])
    terms = method.loss({"feature0": x1, "feature1": x2})
    near(float(terms["contrast"]), float(z["tok/ce"]))
    near(float(terms["balance"]), float(z["tok/reg"]))
    near(float(terms["total"]), float(z["tok/loss"]))
    terms["total"].backward()
    prefix = "tok/grad_weight_detached" if detach else "tok/grad_attached"
    near_gradient(x1.grad.numpy(), z[f"{prefix}/x1"])
    near_gradient(x2.grad.numpy(), z[f"{prefix}/x2"])
    for ours, theirs in HEAD.items():
        layer = getattr(method, ours)
        weight = f"tok/grad_attached/{theirs}.weight"  # stored once where it does not depend on the switch
        near_gradient(layer.weight.grad.numpy().T, z[f"{prefix}/{theirs}.weight" if theirs == "fc_norm" else weight])
        near_gradient(layer.bias.grad.numpy(), z[f"{prefix}/{theirs}.bias"])


def test_codes_of_attended_tokens(golden):
    z = golden("wch")
    method = with_golden_head(Precomputed(z["tok/x1"].shape[2]), z)
    for view in "12":
        code = method.code(paddle.to_tensor(z[f"tok/cross{view}"].astype("float32"))).numpy()
        near(code, z[f"tok/tanh{view}"])
        assert (np.where(code >= 0, 1, -1) == z[f"tok/h{view}"]).all()


# the whole network ------------------------------------------------------------------------------------------
def tiny_vit(z, golden_path, size):
    """The golden ViT through our loader: its sizes are read from the arrays of the file itself."""
    patch, _, _, dim = z["embedding/kernel"].shape
    depth = len({key.split("/")[1] for key in z.files if key.startswith("Transformer/encoderblock_")})
    block = "Transformer/encoderblock_0"
    heads = z[f"{block}/MultiHeadDotProductAttention_1/query/kernel"].shape[1]
    mlp = z[f"{block}/MlpBlock_3/Dense_0/kernel"].shape[1] // dim
    name = f"ViT:patch={patch},dim={dim},depth={depth},heads={heads},mlp={mlp}"
    return build_backbone(name, weights=golden_path, image_size=size)


@pytest.mark.parametrize("case", ["vit32", "vit48"])
def test_whole_vit_from_the_google_file(golden, case):
    z = golden("wch")
    size = z[f"{case}/img1"].shape[-1]
    method = with_golden_head(tiny_vit(z, z.fid.name, size), z)
    method.eval()  # as the golden run: no dropout
    img1, img2 = paddle.to_tensor(z[f"{case}/img1"]), paddle.to_tensor(z[f"{case}/img2"])
    code = method.encode(img1).numpy()
    near(code, z[f"{case}/forward_tanh"], atol=2e-5)
    assert (np.where(code >= 0, 1, -1) == z[f"{case}/forward"]).all()

    y1, y2 = mutual_attention(method.backbone.tokens(img1), method.backbone.tokens(img2), method.attention_temperature)
    near(patch_weights(y1, y2, method.weight_temperature).numpy(), z[f"{case}/train_weighted"])
    for tokens, name in ((y1, "train_h1"), (y2, "train_h2")):
        assert (np.where(method.code(tokens).numpy() >= 0, 1, -1) == z[f"{case}/{name}"]).all()
    near(float(method.loss({"image0": img1, "image1": img2})["total"]), float(z[f"{case}/train_loss"]))


def test_gradients_through_the_whole_vit(golden):
    z = golden("wch")
    method = with_golden_head(tiny_vit(z, z.fid.name, z["vit32/img1"].shape[-1]), z)
    method.eval()
    method.loss({"image0": paddle.to_tensor(z["vit32/img1"]),
                 "image1": paddle.to_tensor(z["vit32/img2"])})["total"].backward()
    stored = [key[len("vit32/train_grad/"):] for key in z.files if key.startswith("vit32/train_grad/")]
    assert stored
    for name in stored:
        near_gradient(gradient(method, name), z[f"vit32/train_grad/{name}"])


def gradient(method, name):
    """Gradient of a parameter by its name in the authors' network, in torch's layout."""
    net = method.backbone.net
    path = name.replace("transformer.embeddings.patch_embeddings", "patch_embed.proj") \
        .replace("transformer.embeddings.position_embeddings", "pos_embed").replace("transformer.embeddings.", "") \
        .replace("transformer.encoder.encoder_norm", "norm").replace("transformer.encoder.layer", "blocks") \
        .replace("attention_norm", "norm1").replace("ffn_norm", "norm2").replace("ffn", "mlp") \
        .replace("attn.out", "attn.proj")
    part = next((i for i, word in enumerate(("query", "key", "value")) if f"attn.{word}." in path), None)
    if part is not None:  # one layer makes queries, keys and values
        path = re.sub("attn.(query|key|value)", "attn.qkv", path)
    head = {theirs: ours for ours, theirs in HEAD.items()}.get(path.rsplit(".", 1)[0])
    value = dict((net if head is None else method).named_parameters())[path if head is None else
                                                                       f"{head}.{path.rsplit('.', 1)[1]}"]
    grad = value.grad.numpy()
    if part is not None:
        grad = np.split(grad, 3, axis=-1)[part]
    return grad.T if grad.ndim == 2 else grad


# beyond the golden file --------------------------------------------------------------------------------------
def naive_weights(y1, y2, temperature, norm):
    """The definition, loop by loop, in float64."""
    y1, y2 = y1.astype("float64"), y2.astype("float64")
    unit = [y / np.linalg.norm(y, axis=-1, keepdims=True) for y in (y1, y2)]
    n = len(y1)
    q = np.array([[(unit[0][a] @ unit[1][b].T).max(1).mean() for b in range(n)] for a in range(n)])
    p = np.exp(q / temperature)
    p /= p.sum(1, keepdims=True)
    return np.array([[p[a, b] / (p[b, b] if norm == "column" else p[a, a]) for b in range(n)] for a in range(n)])


@pytest.mark.parametrize("norm", ["column", "row"])
def test_weight_norms_against_the_definition(norm):
    rng = np.random.RandomState(3)
    y1, y2 = (rng.standard_normal((5, 4, 6)).astype("float32") for _ in range(2))
    near(patch_weights(paddle.to_tensor(y1), paddle.to_tensor(y2), 0.3, norm).numpy(),
         naive_weights(y1, y2, 0.3, norm))


def test_similarity_takes_other_numbers_of_tokens_and_a_constant_side():
    rng = np.random.RandomState(4)
    anchors, keys = leaf(rng.standard_normal((3, 5, 6)), "float64"), paddle.to_tensor(rng.standard_normal((4, 2, 6)))
    q = patch_similarity(anchors, keys)
    assert q.shape == [3, 4]
    q.sum().backward()
    step = 1e-6 * rng.standard_normal((3, 5, 6))
    with paddle.no_grad():
        change = float((patch_similarity(anchors + paddle.to_tensor(step), keys) - q).sum())
    assert change == pytest.approx((anchors.grad.numpy() * step).sum(), rel=1e-4)


@pytest.mark.parametrize("tokens", [np.zeros((1, 4, 8)), np.ones((1, 4, 8)), np.zeros((3, 4, 8)),
                                    np.ones((3, 4, 8)) * 1e4])
def test_one_image_or_constant_images_stay_finite(tokens):
    method = WCH(Precomputed(8), 16, DataFacts(0, 0), hidden=8)
    x = leaf(tokens.astype("float32"))
    terms = method.loss({"feature0": x, "feature1": x + 0})
    assert all(np.isfinite(float(term)) for term in terms.values())
    terms["total"].backward()
    for value in [x] + method.head_parameters():
        assert value.grad is None or np.isfinite(value.grad.numpy()).all()


def test_head_starts_as_the_authors():
    paddle.seed(0)
    method = WCH(Precomputed(64), 32, DataFacts(0, 0))
    for layer, outputs in ((method.fc, 1024), (method.hash, 32)):
        bound = (6 / outputs) ** 0.5
        largest = np.abs(layer.weight.numpy()).max()
        assert 0.9 * bound < largest <= bound
    assert method.fc.bias.numpy().std() == pytest.approx(1, abs=0.1)


def test_small_networks_give_tokens_and_train():
    paddle.seed(0)
    method = WCH(build_backbone("SqueezeNet1_1", pretrained=False, image_size=64), 16, DataFacts(0, 0), hidden=32)
    rng = np.random.RandomState(0)
    batch = {f"image{view}": paddle.to_tensor(rng.standard_normal((2, 3, 64, 64)).astype("float32"))
             for view in range(2)}
    method.loss(batch)["total"].backward()
    trained = [p for group in method.param_groups() for p in group["params"]]
    assert trained and all(p.grad is not None for p in trained)  # DataParallel wants every one of them
    method.eval()
    code = method.encode(batch["image0"])
    assert code.shape == [2, 16] and np.abs(code.numpy()).max() <= 1


def test_pooled_tokens_are_means_of_their_cells():
    tokens = np.random.RandomState(0).random_sample((2, 36, 5)).astype("float32")
    found = pool_tokens(paddle.to_tensor(tokens), 3).numpy()
    cells = tokens.reshape(2, 3, 2, 3, 2, 5).mean(axis=(2, 4)).reshape(2, 9, 5)
    near(found, cells)
    near(found.mean(axis=1), tokens.mean(axis=1))
    assert pool_tokens(paddle.to_tensor(tokens), 0).shape == [2, 36, 5]
    for wrong, grid in ((tokens, 7), (tokens[:, :35], 3)):
        with pytest.raises(InputError, match="token_grid"):
            pool_tokens(paddle.to_tensor(wrong), grid)


def test_layers_behind_the_tokens_do_not_train():
    backbone = build_backbone("MobileNetV3_small_x0_35", pretrained=False, image_size=64)
    assert backbone.tail_parameters()
    method = WCH(backbone, 16, DataFacts(0, 0), hidden=8)
    trained = {id(p) for group in method.param_groups() for p in group["params"]}
    assert not trained & {id(p) for p in backbone.tail_parameters()}


@pytest.mark.parametrize("wrong", [{"weight_norm": "both"}, {"weight_temperature": 0.0},
                                   {"contrast_temperature": -1.0}, {"attention_temperature": 0.0},
                                   {"head_start": "large"}, {"neighbour_share": -0.1}, {"token_grid": -1}])
def test_wrong_settings_are_one_line(wrong):
    with pytest.raises(InputError) as error:
        WCH(Precomputed(8), 16, DataFacts(0, 0), **wrong)
    assert next(iter(wrong)) in str(error.value) and "\n" not in str(error.value)


def test_shared_weights_leave_the_image_itself_in_the_lead():
    rng = np.random.RandomState(3)
    y1, y2 = (paddle.to_tensor(rng.standard_normal((5, 4, 6)).astype("float32")) for _ in range(2))
    weights = patch_weights(y1, y2, 0.1, "share", 0.3).numpy()
    plain = paddle.nn.functional.softmax(patch_similarity(y1, y2) / 0.1, axis=-1).numpy()
    others = ~np.eye(5, dtype=bool)
    near(np.diag(weights), np.ones(5))
    near(weights[others], 0.3 * plain[others])
    assert (weights[others].reshape(5, 4).sum(1) <= 0.3 + 1e-6).all()
    np.testing.assert_array_equal(patch_weights(y1, y2, 0.1, "share", 0.0).numpy(), np.eye(len(weights)))


def test_small_start_saturates_no_tanh():
    paddle.seed(0)
    x = paddle.randn([64, 1, 512])
    share = {}
    for start in ("authors", "small"):
        method = WCH(Precomputed(512), 16, DataFacts(0, 0), head_start=start)
        share[start] = float((method.code(x).abs() > 0.99).astype("float32").mean())
    assert share["small"] == 0 and share["authors"] > 0.5
