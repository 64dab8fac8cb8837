"""DJSRH: similarity, losses, gradients and ten training steps against the authors' code; modes and bad input."""
import json

import numpy as np
import paddle
import pytest
from paddle import nn

from models.backbones.build import build_backbone
from models.backbones.precomputed import Precomputed
from models.djsrh import DJSRH, joint_affinity, reconstruction
from models.method import DataFacts
from tests.tiny import leaf, near, near_gradient
from utils.datasets import Split
from utils.errors import InputError


def data_sets(z, case):
    return sorted({key.split("/")[1] for key in z.files if key.startswith(f"{case}/") and key.endswith("/BETA")})


@pytest.mark.parametrize("case", ["full", "partial_batch"])
def test_similarity_losses_and_gradients(golden, case):
    z = golden("djsrh")
    meta = json.loads(str(z["meta"]))
    names = data_sets(z, case)
    assert names
    for name in names:
        setting = {key: float(z[f"{case}/{name}/{key}"]) for key in ("BETA", "LAMBDA1", "LAMBDA2")}
        target = joint_affinity(paddle.to_tensor(z[f"{case}/F_I"]), paddle.to_tensor(z[f"{case}/F_T"]),
                                setting["BETA"], meta["ETA"], meta["MU"], int(z[f"{case}/BATCH_SIZE"]))
        near(target.numpy(), z[f"{case}/{name}/S"])
        image, text = leaf(z[f"{case}/code_I"]), leaf(z[f"{case}/code_T"])
        losses = reconstruction(image, text, target)
        for number, loss in enumerate(losses, 1):
            near(float(loss), float(z[f"{case}/{name}/loss{number}"]))
        total = setting["LAMBDA1"] * losses[0] + losses[1] + setting["LAMBDA2"] * losses[2]
        near(float(total), float(z[f"{case}/{name}/loss"]))
        total.backward()
        near_gradient(image.grad.numpy(), z[f"{case}/{name}/dcode_I"])
        near_gradient(text.grad.numpy(), z[f"{case}/{name}/dcode_T"])


def test_full_batch_needs_no_batch_size(golden):
    z = golden("djsrh")
    meta = json.loads(str(z["meta"]))
    if len(z["full/F_I"]) != int(z["full/BATCH_SIZE"]):
        pytest.skip("the golden file's full batch is not as long as its BATCH_SIZE")
    for name in data_sets(z, "full"):
        target = joint_affinity(paddle.to_tensor(z["full/F_I"]), paddle.to_tensor(z["full/F_T"]),
                                float(z[f"full/{name}/BETA"]), meta["ETA"], meta["MU"])
        near(target.numpy(), z[f"full/{name}/S"])


def drawn(z, prefix, seed_key, draws):
    """Weights as golden/README.md says: one RandomState, nets in the order given, ``standard_normal * factor``."""
    stream = np.random.RandomState(int(z[f"{prefix}/{seed_key}"]))
    return {net: {key: (stream.standard_normal(shape) * factor).astype("float32")
                  for key, shape in json.loads(str(z[f"{prefix}/{keys}"]))} for net, keys, factor in draws}


def fill(layer, weights, name):
    layer.weight.set_value(weights[f"{name}.weight"].T)
    layer.bias.set_value(weights[f"{name}.bias"])


def test_continuation(golden):
    method = DJSRH(Precomputed(4), 8, DataFacts(0, 0, 3), text_hidden=5)
    scales = []
    for epoch in range(len(golden("djsrh")["alpha_schedule"])):
        method.start_epoch(epoch, 10)
        scales.append(method.scale)
    near(scales, golden("djsrh")["alpha_schedule"], 1e-6)


def test_text_encoder(golden):
    z = golden("djsrh")
    weights = drawn(z, "txtnet", "seed", [("text", "keys", 0.05)])["text"]
    (hidden, width), bits = weights["fc1.weight"].shape, weights["fc2.weight"].shape[0]
    method = DJSRH(Precomputed(4), bits, DataFacts(0, 0, width), text_hidden=hidden)
    fill(method.text_encoder[0], weights, "fc1")
    fill(method.text_encoder[2], weights, "fc2")
    feature = method.text_encoder[:2](paddle.to_tensor(z["txtnet/x"])).numpy()
    near(feature.mean(1), z["txtnet/feat_mean_per_row"])
    near(feature[:, :64], z["txtnet/feat_first64"])
    for key in [key for key in z.files if key.startswith("txtnet/epoch") and key.endswith("/alpha")]:
        case = key[:-len("/alpha")]
        method.start_epoch(int(case[len("txtnet/epoch"):]), 10)
        near(method.scale, float(z[key]))
        x = leaf(z["txtnet/x"])
        hidden_output = method.text_encoder(x)
        near(hidden_output.numpy(), z[f"{case}/hid"])
        code = paddle.tanh(method.scale * hidden_output)
        near(code.numpy(), z[f"{case}/code"])
        (code * paddle.cos(code.detach())).sum().backward()
        near_gradient(x.grad.numpy(), z[f"{case}/dx_of_sum_code_times_cos_code"])
    signs = np.sign(method.encode_text(paddle.to_tensor(z["txtnet/x"])).numpy())
    assert (signs == np.sign(z[f"{case}/code"])).all()


class ToyBackbone(nn.Layer):
    """relu(fc1 x), in a backbone's clothes."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.out_dim = outputs
        self.fc1 = nn.Linear(inputs, outputs)

    def forward(self, x):
        return nn.functional.relu(self.fc1(x))


def test_ten_training_steps(golden):
    z = golden("djsrh")
    meta = json.loads(str(z["meta"]))
    weights = drawn(z, "toy", "seed", [("image", "img_keys", 0.1), ("text", "txt_keys", 0.05)])
    inputs, hidden, width, bits = (int(n) for n in z["toy/dims_dx_dh_dt_bits"])
    setting = {name: float(z[f"full/{z['toy/dataset']}/{key}"])
               for name, key in (("beta", "BETA"), ("lambda1", "LAMBDA1"), ("lambda2", "LAMBDA2"))}
    backbone = ToyBackbone(inputs, hidden)
    fill(backbone.fc1, weights["image"], "fc1")
    method = DJSRH(backbone, bits, DataFacts(0, 0, width), text_hidden=weights["text"]["fc1.weight"].shape[0],
                   eta=meta["ETA"], mu=meta["MU"], text_lr_mult=float(z["toy/lr_txt"]) / float(z["toy/lr_img"]),
                   **setting)
    fill(method.hash, weights["image"], "fc_encode")
    fill(method.text_encoder[0], weights["text"], "fc1")
    fill(method.text_encoder[2], weights["text"], "fc2")
    optimizer = paddle.optimizer.Momentum(float(z["toy/lr_img"]), momentum=meta["momentum"],
                                          parameters=method.param_groups(head_lr_mult=1.0),
                                          weight_decay=meta["weight_decay"])
    stored = z["toy/losses_l1_l2_l3_total"]
    batches = len(z["toy/x"])
    for step in range(len(stored)):
        method.train()
        method.start_epoch(step // batches, 2)
        terms = method({"image0": paddle.to_tensor(z["toy/x"][step % batches]),
                        "text": paddle.to_tensor(z["toy/t"][step % batches])})
        near([float(terms[key]) for key in ("image", "cross", "text", "total")], stored[step], 1e-4, 1e-5)
        terms["total"].backward()
        optimizer.step()
        optimizer.clear_grad()
    final = {"img/fc1": backbone.fc1, "img/fc_encode": method.hash,
             "txt/fc1": method.text_encoder[0], "txt/fc2": method.text_encoder[2]}
    checked = 0
    for key in [key for key in z.files if key.startswith("toy/final_")]:
        name, _, cut = key[len("toy/final_"):].partition(":")   # img/fc1.weight, txt/fc2.weight with 64cols
        layer, part = name.split(".")
        value = getattr(final[layer], part).numpy().T
        if cut:
            number = int(cut.replace("cols", ""))
            value = value[:, :number] if "cols" in cut else value[:number]
        near(value, z[key], 1e-4, 1e-5)
        checked += 1
    assert checked == 2 * len(final)


# where the image affinity's features come from ---------------------------------------------------------------------
def batch_of(rng, n=4, image=(3, 64, 64), width=6):
    return {"image0": paddle.to_tensor(rng.standard_normal((n, *image)).astype("float32")),
            "text": paddle.to_tensor(rng.random_sample((n, width)).astype("float32"))}


def on_images(name="SqueezeNet1_1", **hyper):
    paddle.seed(1)
    backbone = build_backbone(name, pretrained=False, image_size=64)
    return DJSRH(backbone, 16, DataFacts(0, 0, 6), text_hidden=16, **hyper)


@pytest.fixture(scope="module")
def trained():
    """A fine-tuned network after one large step, the batch, and the affinity's features before and after it."""
    method = on_images()
    batch = batch_of(np.random.RandomState(0))
    before = method._image_features(batch)[1].numpy()
    method.loss(batch)["total"].backward()
    optimizer = paddle.optimizer.SGD(1.0, parameters=method.param_groups(1.0))
    optimizer.step()
    optimizer.clear_grad()
    return method, batch, before, method._image_features(batch)[1].numpy()


def test_affinity_features_are_those_of_the_initial_network(trained):
    method, batch, before, after = trained
    assert np.array_equal(before, after)
    method.backbone.eval()
    now = method.backbone(batch["image0"]).numpy()
    method.train()
    assert np.abs(now - before).max() > 1e-3  # the encoder has moved meanwhile
    assert (before >= 0).all()


def test_affinity_network_is_no_part_of_the_model_identity(trained):
    method, _, _, _ = trained
    inside = {id(p) for p in method.teacher.parameters()}
    assert not inside & {id(p) for group in method.param_groups() for p in group["params"]}
    before = method.fingerprint({})
    with paddle.no_grad():
        first = method.teacher.parameters()[0]
        first.set_value(first + 1)
    assert method.fingerprint({}) == before
    stored = [key for key in method.state_dict() if key.startswith(method.training_state)]
    assert len(stored) == len(inside)  # checkpointed all the same: a resumed run goes on with the same target
    with paddle.no_grad():
        method.hash.bias.set_value(method.hash.bias + 1)
    assert method.fingerprint({}) != before


def test_frozen_backbone_keeps_no_second_network_and_cached_features_give_the_same_loss():
    method = on_images(frozen=True, feature_norm="log1p_standardize")
    assert method.teacher is None and not method.backbone.training
    batch = batch_of(np.random.RandomState(0))
    raw = method.backbone_features(batch["image0"])
    method.norm.fit(raw.numpy())
    direct = method.loss(batch)
    cached = method.loss({"feature0": raw.detach(), "text": batch["text"]})
    for key in direct:
        assert float(direct[key]) == float(cached[key])


def test_normalisation_is_for_the_encoder_not_for_the_affinity():
    rng = np.random.RandomState(2)
    features = rng.random_sample((6, 8)).astype("float32") * 5
    batch = {"feature0": paddle.to_tensor(features), "text": batch_of(rng, 6)["text"]}
    terms = {}
    for kind in ("none", "standardize"):
        paddle.seed(0)
        method = DJSRH(Precomputed(8), 16, DataFacts(0, 0, 6), text_hidden=4, feature_norm=kind)
        method.norm.fit(features)
        terms[kind] = method.loss(batch)
    assert float(terms["none"]["text"]) == float(terms["standardize"]["text"])  # same target, same text codes
    assert float(terms["none"]["image"]) != float(terms["standardize"]["image"])


def test_train_conv_false_trains_fully_connected_layers_only():
    method = on_images("AlexNet", train_conv=False)
    ranks = [parameter.ndim for parameter in method.param_groups()[0]["params"]]
    assert sorted(ranks) == [1, 1, 2, 2]  # fc6 and fc7
    assert method.teacher is not None
    method.loss(batch_of(np.random.RandomState(0)))["total"].backward()
    assert all(p.grad is not None for group in method.param_groups() for p in group["params"])


def test_train_conv_false_on_a_network_without_fully_connected_layers_freezes_it():
    method = on_images(train_conv=False)
    assert method.frozen and method.teacher is None


def test_learning_rates():
    method = DJSRH(ToyBackbone(3, 5), 8, DataFacts(0, 0, 6), text_hidden=4, text_lr_mult=7.0)
    groups = method.param_groups(head_lr_mult=3.0)
    assert [group["learning_rate"] for group in groups] == [1.0, 3.0, 7.0]
    assert sum(len(group["params"]) for group in groups) == 2 + 2 + 4
    assert len(DJSRH(Precomputed(5), 8, DataFacts(0, 0, 6), text_hidden=4).param_groups()) == 2


# edges ---------------------------------------------------------------------------------------------------------
def test_empty_texts_and_black_images_stay_finite():
    paddle.seed(0)
    method = DJSRH(Precomputed(8), 16, DataFacts(0, 0, 6), text_hidden=4)
    rng = np.random.RandomState(2)
    features, text = rng.random_sample((5, 8)).astype("float32"), rng.random_sample((5, 6)).astype("float32")
    features[0] = 0
    text[[1, 2]] = 0
    with paddle.no_grad():  # the worst case: without biases the empty text's code is exactly zero
        for layer in (method.hash, method.text_encoder[0], method.text_encoder[2]):
            layer.bias.set_value(paddle.zeros_like(layer.bias))
    terms = method.loss({"feature0": paddle.to_tensor(features), "text": paddle.to_tensor(text)})
    assert all(np.isfinite(float(term)) for term in terms.values())
    terms["total"].backward()
    for parameter in method.head_parameters():
        assert np.isfinite(parameter.grad.numpy()).all() and np.abs(parameter.grad.numpy()).max() < 1e3
    code = method.encode_text(paddle.zeros([1, 6]))
    assert np.isfinite(code.numpy()).all()


def test_one_row_is_a_batch():
    method = DJSRH(Precomputed(8), 16, DataFacts(0, 0, 6), text_hidden=4)
    terms = method.loss({"feature0": paddle.ones([1, 8]), "text": paddle.ones([1, 6])})
    # one pair, both affinities 1: the target is mu whatever the shares, and a code's cosine with itself is 1
    near(float(terms["image"]), (method.mu - 1) ** 2)


def test_codes_do_not_depend_on_the_epoch():
    method = DJSRH(Precomputed(8), 16, DataFacts(0, 0, 6), text_hidden=4)
    features = paddle.randn([3, 8])
    first = method.encode_features(features).numpy()
    method.start_epoch(50, 100)
    assert np.array_equal(first, method.encode_features(features).numpy())


def test_texts_of_another_width_are_refused():
    method = DJSRH(Precomputed(8), 16, DataFacts(0, 0, 6), text_hidden=4)
    with pytest.raises(InputError, match="7 columns.*wants 6.*vectoriser"):
        method.encode_text(paddle.zeros([2, 7]))
    with pytest.raises(InputError, match="7 columns"):
        method.loss({"feature0": paddle.zeros([2, 8]), "text": paddle.zeros([2, 7])})
    with pytest.raises(InputError, match="needs texts"):
        DJSRH(Precomputed(8), 16, DataFacts(0, 0))


def test_text_scale_makes_texts_of_any_length_alike():
    """rms: the encoder sees the same numbers whatever the unit of the text features, and zeros stay finite."""
    rng = np.random.RandomState(0)
    texts = rng.random_sample((8, 6)).astype("float32")
    codes = []
    for unit in (1.0, 0.01):
        method = on_images(text_norm="rms")
        method.fit(Split("train", ["a"] * len(texts), text_features=texts * unit))
        codes.append(method.encode_text(paddle.to_tensor(texts * unit)).numpy())
        assert "text_scale" in method.state_dict()
    near(codes[0], codes[1], 1e-4, 1e-5)
    method.fit(Split("train", ["a"] * 3, text_features=np.zeros((3, 6), "float32")))
    assert np.isfinite(method.encode_text(paddle.zeros([2, 6])).numpy()).all()
    with pytest.raises(InputError, match="text_norm"):
        on_images(text_norm="unit")
