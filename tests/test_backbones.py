"""Backbones: names, the cut before the classifier, tokens, sizes, export."""
import copy
import os
import sys

import numpy as np
import paddle
import pytest
from paddle import nn

from models.backbones import wheel
from models.backbones.build import build_backbone
from models.backbones.wheel import list_backbones
from utils.errors import InputError

TINY = "ViT:patch=16,dim=32,depth=2,heads=4,mlp=2"


def build(name, size=64, **more):
    return build_backbone(name, pretrained=False, image_size=size, **more)


def pictures(size, count=2, seed=0):
    return paddle.to_tensor(np.random.RandomState(seed).standard_normal((count, 3, size, size)).astype("float32"))


# names ----------------------------------------------------------------------------------------
def test_the_names_of_the_papers_and_of_paddleclas_are_listed():
    names = list_backbones()
    assert {"AlexNet", "VGG16", "ResNet50", "ViT_base_patch16_224", "SqueezeNet1_1",
            "MobileNetV3_small_x0_35"} <= set(names)
    assert names == sorted(names) and len(names) > 300


def test_the_real_paddleclas_is_left_alone():
    list_backbones()
    assert "paddleclas" not in sys.modules and "ppcls" not in sys.modules


@pytest.mark.parametrize("wrong, near", [
    ("ResNet5O", "ResNet50"), ("alexnt", "AlexNet"), ("Vit_base_patch16", "ViT_base_patch16_224"),
    ("ViT-B_16", "ViT_base_patch16_224"), ("ViT-B/16", "ViT_base_patch16_224"), ("vit_b_16", "ViT_base_patch16_224"),
    ("ViT-L_32", "ViT_large_patch32_384"), ("google/vit-base-patch16-224", "ViT_base_patch16_224"),
    ("resnet-50", "ResNet50"), ("RESNET_101", "ResNet101"), ("vgg16_bn", "VGG16"), ("alex-net", "AlexNet"),
    ("swin_t", "SwinTransformer_tiny_patch4_window7_224"), ("swinv2_b", "SwinTransformerV2_base_patch4_window8_256"),
    ("convnext-tiny", "ConvNeXt_tiny"), ("deit_s", "DeiT_small_patch16_224"), ("squeezenet1.1", "SqueezeNet1_1"),
    ("efficientnet_b0", "EfficientNetB0"), ("mobilenet_v2", "MobileNetV2"), ("densenet-121", "DenseNet121"),
    ("inception_v3", "InceptionV3"), ("resnext50-32x4d", "ResNeXt50_32x4d"), ("resnet", "ResNet18"),
    ("conv-net", "ConvNet"), ("VGG", "VGG")])
def test_a_wrong_name_gets_the_nearest_one_first(wrong, near):
    with pytest.raises(InputError, match=f"did you mean {near}"):
        build(wrong)


def test_a_name_like_nothing_gets_no_hint():
    with pytest.raises(InputError) as caught:
        build("qqqq")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "no such network", "AlexNet:foo=1", "ViT:dim=33", "ViT:depth=0", "ViT:colour=2",
                                  "precomputed", "precomputed:x", "precomputed:0", "precomputed:5,6", "precomputed:²",
                                  "ConvNet:width=²", "ConvNet:width=9999999999", "ViT:dim=²", "ViT:mlp=0", "ViT:mlp=x",
                                  "ViT:mlp=1.01", "ViT:mlp=1e9", "ViT:mlp=-1", "ViT:mlp=", "ViT:mlp_width=0",
                                  "ViT:mlp=2,mlp_width=64", "ViT:mlp=nan", "ViT:mlp=9999999"])
def test_bad_names_and_options_are_one_line(name):
    with pytest.raises(InputError) as caught:
        build(name)
    assert "\n" not in str(caught.value)


def test_upper_and_lower_case_do_not_matter():
    assert build("squeezenet1_1").name == "SqueezeNet1_1"


@pytest.mark.parametrize("name", ["SqueezeNet1_1:torchvision", "ResNet18:torchvision", TINY, "MobileNetV1_x0_25"])
def test_the_full_name_builds_the_same_network(name):
    first = build(name)
    second = build(first.name)
    assert first.name == second.name
    assert {k: v.shape for k, v in first.state_dict().items()} == {k: v.shape for k, v in second.state_dict().items()}
    second.set_state_dict(first.state_dict())
    first.eval(), second.eval()
    assert np.array_equal(first(pictures(64)).numpy(), second(pictures(64)).numpy())


@pytest.mark.parametrize("option, width, name", [
    ("mlp=2", 64, "mlp=2"), ("mlp=1.5", 48, "mlp_width=48"), ("mlp_width=50", 50, "mlp_width=50"),
    ("mlp_width=64", 64, "mlp=2"), ("mlp_width=1", 1, "mlp_width=1"), ("mlp=0.5", 16, "mlp_width=16")])
def test_the_mlp_of_a_vision_transformer_has_any_width(option, width, name):
    backbone = build(f"ViT:dim=32,depth=1,{option}", 32)
    assert backbone.net.blocks[0].mlp.fc1.weight.shape == [32, width]
    assert backbone.name == f"ViT:patch=16,dim=32,depth=1,heads=4,{name}"
    assert build(backbone.name, 32).name == backbone.name


@pytest.mark.parametrize("dim", [7, 49, 130])
def test_every_width_is_met_exactly(dim):
    for width in (1, dim - 1, dim + 1, 3 * dim - 1, 4 * dim):
        backbone = build(f"ViT:dim={dim},heads=1,depth=1,mlp_width={width}", 16)
        assert backbone.net.blocks[0].mlp.fc1.weight.shape[1] == width


# the cut --------------------------------------------------------------------------------------
FAMILIES = [("SqueezeNet1_1", 64, 512, 512), ("ResNet18", 64, 512, 512), ("MobileNetV3_small_x0_35", 64, 1280, 200),
            ("MobileNetV1_x0_25", 64, 256, 256), ("PPLCNet_x0_25", 64, 1280, 128), ("ShuffleNetV2_x0_25", 64, 512, 512),
            ("AlexNet", 64, 4096, 256), (TINY, 32, 32, 32), ("ViT:dim=8,heads=1,depth=1", 64, 8, 8)]
SLOW = [("ResNet50", 64, 2048, 2048), ("VGG16", 64, 4096, 512), ("DenseNet121", 64, 1024, 1024),
        ("EfficientNetB0", 64, 1280, 1280), ("GoogLeNet", 224, 1024, 1024), ("InceptionV3", 299, 2048, 2048),
        ("ViT_base_patch16_224", 64, 768, 768), ("DeiT_tiny_distilled_patch16_224", 64, 192, 192),
        ("SwinTransformer_tiny_patch4_window7_224", 224, 768, 768)]
ALL = FAMILIES + [pytest.param(*row, marks=pytest.mark.slow) for row in SLOW]


@pytest.mark.parametrize("name, size, out_dim, token_dim", ALL)
def test_features_and_tokens_of_many_families(name, size, out_dim, token_dim):
    backbone = build(name, size)
    backbone.eval()
    x = pictures(size)
    features, tokens = backbone(x), backbone.tokens(x)
    assert (backbone.out_dim, backbone.token_dim) == (out_dim, token_dim)
    assert list(features.shape) == [2, out_dim]
    assert list(tokens.shape) == [2, backbone.num_tokens, token_dim]
    assert np.isfinite(features.numpy()).all() and features.numpy().std() > 0
    # an image's features do not depend on its neighbours in the batch
    np.testing.assert_allclose(backbone(x[1:]).numpy(), features.numpy()[1:], rtol=1e-3,
                               atol=1e-4 * np.abs(features.numpy()).max())


@pytest.mark.parametrize("name, head", [("ResNet18", "fc"), ("MobileNetV1_x0_25", "fc"), ("ShuffleNetV2_x0_25", "_fc"),
                                        pytest.param("DenseNet121", "out", marks=pytest.mark.slow)])
def test_the_removed_classifier_on_our_features_gives_the_networks_scores(name, head):
    paddle.seed(3)
    backbone = build(name)
    paddle.seed(3)
    with paddle.utils.unique_name.guard(f"full_{name}."):
        full = wheel.factories()[name]()
    backbone.eval(), full.eval()
    x = pictures(64)
    np.testing.assert_allclose(getattr(full, head)(backbone(x)).numpy(), full(x).numpy(), rtol=1e-5, atol=1e-5)
    assert backbone.classifier_keys == {f"{head}.weight", f"{head}.bias"}
    assert not backbone.classifier_keys & {key[len("net."):] for key in backbone.state_dict()}


@pytest.mark.parametrize("name", ["ResNet18", "SqueezeNet1_1", "MobileNetV1_x0_25"])
def test_pooled_features_are_the_mean_of_the_tokens(name):
    backbone = build(name, 96)
    backbone.eval()
    x = pictures(96)
    mean = backbone.tokens(x).mean(1).numpy()
    np.testing.assert_allclose(backbone(x).numpy(), mean, rtol=1e-4, atol=1e-5 * np.abs(mean).max())


def test_tokens_run_row_by_row():
    backbone = build("MobileNetV1_x0_25", 96)   # a 3 x 3 map; early in training one pixel moves its own cell most
    backbone.eval()
    x = pictures(96, 1)
    moved = x.numpy().copy()
    moved[:, :, :16, 80:] += 3.0    # top right corner
    change = np.abs(backbone.tokens(paddle.to_tensor(moved)).numpy() - backbone.tokens(x).numpy()).sum((0, 2))
    assert backbone.num_tokens == 9
    assert change[2] > change[6] and change[2] > change[8]   # row 0, column 2 against the bottom corners


def test_vit_tokens_leave_out_the_class_token():
    backbone = build(TINY, 48)
    backbone.eval()
    seen = []
    hook = backbone.net.norm.register_forward_post_hook(lambda layer, inputs, output: seen.append(output.numpy()))
    features, tokens = backbone(pictures(48)).numpy(), backbone.tokens(pictures(48)).numpy()
    hook.remove()
    assert tokens.shape == (2, 9, 32)
    assert np.array_equal(tokens, seen[0][:, 1:]) and np.array_equal(features, seen[0][:, 0])


def test_alexnet_takes_other_sizes_than_224():
    for size in (224, 96):
        backbone = build("AlexNet", size)
        backbone.eval()
        assert list(backbone(pictures(size, 1)).shape) == [1, 4096]


def test_dropout_of_alexnet_keeps_the_scale():
    """Zeros and doubled values in training, nothing in evaluation (torchvision's convention)."""
    backbone = build("AlexNet")
    seen = []
    backbone.net._fc6.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].numpy()))
    backbone.eval()
    backbone(pictures(64))
    backbone.train()
    backbone(pictures(64))
    plain, dropped = seen
    kept = dropped != 0
    assert 0.3 < kept[plain != 0].mean() < 0.7
    np.testing.assert_allclose(dropped[kept], 2 * plain[kept], rtol=1e-6)


# training -------------------------------------------------------------------------------------
def test_initial_weights_follow_the_seed():
    def weights(seed):
        paddle.seed(seed)
        return np.concatenate([p.numpy().ravel() for p in build("SqueezeNet1_1").parameters()])
    assert np.array_equal(weights(1), weights(1))
    assert not np.array_equal(weights(1), weights(2))


def test_building_draws_nothing_beyond_the_weights():
    """The probe run must not shift the random numbers of training."""
    paddle.seed(5)
    build(TINY, 32)
    after = paddle.rand([4]).numpy()
    paddle.seed(5)
    build(TINY, 32)
    assert np.array_equal(after, paddle.rand([4]).numpy())


def test_the_probe_leaves_batch_statistics_and_mode_alone():
    backbone = build("MobileNetV1_x0_25")
    assert backbone.training and all(layer.training for layer in backbone.sublayers())
    for key, value in backbone.state_dict().items():
        if key.endswith("._mean"):
            assert not value.numpy().any(), key


@pytest.mark.parametrize("name", ["MobileNetV3_small_x0_35", "ResNet18", TINY, "SqueezeNet1_1"])
def test_tail_parameters_are_those_that_tokens_do_not_reach(name):
    backbone = build(name)
    (backbone.tokens(pictures(64)) ** 2).mean().backward()
    learned = [p for p in backbone.parameters() if not p.stop_gradient]
    without = {p.name for p in learned if p.grad is None}
    assert without == {p.name for p in backbone.tail_parameters()}
    backbone(pictures(64)).mean().backward()
    assert all(p.grad is not None for p in learned)


def test_two_of_a_kind_share_no_parameter_names():
    names = [p.name for _ in range(2) for p in build("SqueezeNet1_1").parameters()]
    assert len(names) == len(set(names))


def test_a_copy_is_independent():
    backbone = build(TINY, 32)
    backbone.eval()
    twin = copy.deepcopy(backbone)
    before = twin(pictures(32)).numpy()
    for parameter in backbone.parameters():
        parameter.set_value(parameter * 0.5)
    backbone(pictures(32))
    assert np.array_equal(twin(pictures(32)).numpy(), before)
    assert np.array_equal(twin.tokens(pictures(32)).numpy().shape, [2, 4, 32])


# sizes ----------------------------------------------------------------------------------------
def test_vit_of_224_pixels_takes_another_size():
    backbone = build("DeiT_tiny_patch16_224", 64)
    assert backbone.num_tokens == 16 and list(backbone.net.pos_embed.shape) == [1, 17, 192]
    assert list(backbone(pictures(64)).shape) == [2, 192]


@pytest.mark.parametrize("name, size", [("DeiT_tiny_patch16_224", 100), (TINY, 40), ("SqueezeNet1_1", 8)])
def test_a_size_that_cannot_be_is_said_so(name, size):
    with pytest.raises(InputError, match=str(size)):
        build(name, size)


def test_a_network_that_cannot_be_cut_is_said_so():
    with pytest.raises(InputError, match="MicroNet_M0 cannot be cut"):
        build("MicroNet_M0", 224)


def test_precomputed_features_pass_through():
    backbone = build("precomputed:7")
    x = paddle.rand([3, 7])
    assert (backbone.name, backbone.out_dim, backbone.token_dim) == ("precomputed:7", 7, 7)
    assert np.array_equal(backbone(x).numpy(), x.numpy())
    assert np.array_equal(backbone.tokens(x).numpy(), x.numpy()[:, None])
    assert not backbone.parameters()


# export ---------------------------------------------------------------------------------------
class Encoder(nn.Layer):
    def __init__(self, backbone, kind):
        super().__init__()
        self.backbone, self.kind = backbone, kind

    def forward(self, image):
        return self.backbone.tokens(image) if self.kind == "tokens" else self.backbone(image)


@pytest.mark.parametrize("kind", ["pooled", "tokens"])
@pytest.mark.parametrize("name, size", [("SqueezeNet1_1", 64), ("MobileNetV3_small_x0_35", 64), (TINY, 32),
                                        pytest.param("AlexNet", 224, marks=pytest.mark.slow),
                                        pytest.param("AlexNet", 64, marks=pytest.mark.slow),
                                        pytest.param("VGG11", 64, marks=pytest.mark.slow),
                                        pytest.param("ResNet18", 64, marks=pytest.mark.slow),
                                        pytest.param("DeiT_tiny_distilled_patch16_224", 64, marks=pytest.mark.slow)])
def test_the_exported_graph_gives_the_same_numbers(name, size, kind, tmp_path):
    encoder = Encoder(build(name, size), kind)
    encoder.eval()
    x = pictures(size, 3)
    expected = encoder(x).numpy()
    spec = [paddle.static.InputSpec([None, 3, size, size], "float32", "image")]
    graph = paddle.jit.to_static(encoder, input_spec=spec, full_graph=True)
    paddle.jit.save(graph, os.path.join(tmp_path, "inference"))
    loaded = paddle.jit.load(os.path.join(tmp_path, "inference"))
    loaded.eval()
    np.testing.assert_allclose(loaded(x).numpy(), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
