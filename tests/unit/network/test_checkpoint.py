"""Files of weights as states of the networks, and heads copied by class name."""

from __future__ import annotations

import logging
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models.segmentation import deeplabv3_resnet50

from segloop.errors import SettingsError, WeightsError
from segloop.network.checkpoint import initial_weights, load_matching, pretrained_network
from segloop.network.network import build_network, save_bundle
from segloop.network.voc_classes import VOC_CLASSES
from segloop.settings import Settings
from tests.toys import toy_info

INFO = toy_info()


def settings(**values):
    return Settings(_env_file=None, **{"weights": "none", "device": "cpu", **values})


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network("deeplabv3_resnet50", 3, 16).eval()


def tree(state, classes):
    """A network's state with a head for `classes`: row i of every head tensor is filled with i."""
    state = dict(state)
    for key in ("classifier.4.weight", "classifier.4.bias"):
        shape = (len(classes) + 1, *state[key].shape[1:])
        rows = torch.arange(shape[0], dtype=torch.float32).reshape(-1, *[1] * (len(shape) - 1))
        state[key] = rows.expand(shape).contiguous()
    return state


# -- heads by class name


@pytest.mark.slow
def test_head_rows_are_copied_by_class_name(network):
    state = tree(network.state_dict(), ("Sky", "Tree", "Road"))
    target = build_network("deeplabv3_resnet50", 4, 16)
    before = target.classifier[4].weight[2].clone()
    copied = load_matching(target, state, ("Sky", "Tree", "Road"), ("Road", "Car", "Sky"))
    assert copied == len(state)
    head = target.classifier[4]
    assert head.weight[[0, 1, 3], 0, 0, 0].tolist() == [0, 3, 1]
    assert head.bias[[0, 1, 3]].tolist() == [0, 3, 1]
    assert torch.equal(target.classifier[4].weight[2], before)
    assert torch.equal(target.backbone.conv1.weight, network.backbone.conv1.weight)


@pytest.mark.slow
def test_voc_names_match_loosely(network):
    state = tree(network.state_dict(), VOC_CLASSES)
    target = build_network("deeplabv3_resnet50", 4, 16)
    load_matching(target, state, VOC_CLASSES, ("Pedestrian", "Mountain", "cars"))
    assert target.classifier[4].bias[[0, 1, 3]].tolist() == [0, 15, 7]


@pytest.mark.slow
def test_a_head_of_unknown_channels_is_left_alone(network):
    target = build_network("deeplabv3_resnet50", 3, 16)
    before = target.classifier[4].weight.clone()
    load_matching(target, network.state_dict(), None, ("Road", "Sky"))
    assert torch.equal(target.classifier[4].weight, before)


@pytest.mark.slow
def test_another_architecture_gives_its_backbone(network):
    target = build_network("fcn_resnet50", 3, 16)
    load_matching(target, network.state_dict(), ("Road", "Sky"), ("Road", "Sky"))
    assert torch.equal(target.backbone.layer4[2].conv3.weight, network.backbone.layer4[2].conv3.weight)


# -- weights to begin with


@pytest.mark.slow
def test_a_file_with_21_channels_is_voc(network, tmp_path):
    file = tmp_path / "coco.pth"
    torch.save({"model": tree(network.state_dict(), VOC_CLASSES)}, file)
    weights = initial_weights(settings(weights=str(file)))
    assert weights.classes == VOC_CLASSES
    pretrained = pretrained_network(settings(weights=str(file)))
    assert pretrained.classifier[4].bias.tolist() == list(range(21))
    assert not pretrained.training


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["fpn_resnet50", "deeplabv3_resnet50", "fcn_resnet50"])
def test_a_file_tells_which_network_it_is_of(tmp_path, arch):
    stride = 4 if arch == "fpn_resnet50" else 16
    one = build_network(arch, 3, stride).eval()
    save_bundle(tmp_path, one, toy_info(arch=arch, output_stride=stride))
    for set_to in ("fpn_resnet50", "fcn_resnet50"):
        found = pretrained_network(settings(weights=str(tmp_path / "model.safetensors"), arch=set_to))
        with torch.inference_mode():
            assert torch.equal(found(torch.ones(1, 3, 64, 64)), one(torch.ones(1, 3, 64, 64)))


@pytest.mark.slow
def test_a_pyramids_head_is_copied_by_class_name():
    source, target = build_network("fpn_resnet50", 3, 4), build_network("fpn_resnet50", 4, 4)
    with torch.no_grad():
        source.classifier.last.bias.copy_(torch.tensor([7.0, 8, 9]))
    copied = load_matching(target, source.state_dict(), ("Road", "Sky"), ("Sky", "Car", "Road"))
    assert copied == len(source.state_dict())
    assert target.classifier.last.bias[[0, 1, 3]].tolist() == [7, 9, 8]


@pytest.mark.slow
def test_a_version_of_torchvisions_network_gives_a_pyramid_its_backbone(network):
    target = build_network("fpn_resnet50", 3, 4)
    load_matching(target, network.state_dict(), ("Road", "Sky"), ("Road", "Sky"))
    for key, tensor in network.state_dict().items():
        if key.startswith("backbone."):
            assert torch.equal(target.state_dict()[key], tensor), key


@pytest.mark.slow
def test_a_bundle_file_brings_its_classes(network, tmp_path):
    save_bundle(tmp_path, network, INFO)
    file = str(tmp_path / "model.safetensors")
    assert initial_weights(settings(weights=file)).classes == ("Road", "Sky")
    assert pretrained_network(settings(weights=file)) is not None, "a version pre-labels another project"
    (tmp_path / "version.json").unlink()
    assert initial_weights(settings(weights=file)).classes is None


def test_a_resnet_is_a_backbone(network, tmp_path):
    backbone = {key: value.contiguous() for key, value in network.backbone.state_dict().items()}
    save_file({**backbone, "fc.weight": torch.zeros(1000, 2048)}, tmp_path / "resnet.safetensors")
    weights = initial_weights(settings(weights=str(tmp_path / "resnet.safetensors")))
    assert weights.classes is None
    assert set(weights.state) == {f"backbone.{key}" for key in backbone}


class Malicious:
    def __reduce__(self):
        return print, ("pwned",)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("absent.pth", None, "no such file"),
        ("broken.safetensors", b"x" * 100, "not a file of weights"),
        ("pickle.pth", pickle.dumps(Malicious()), "not a file of weights"),
    ],
)
def test_unusable_files_are_refused(tmp_path, capsys, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingsError, match=reason):
        initial_weights(settings(weights=str(tmp_path / name)))
    assert "pwned" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "reason"), [([1, 2], "not a dictionary"), ({"a.weight": torch.zeros(1)}, "no ResNet-50")]
)
def test_files_of_something_else_are_refused(tmp_path, value, reason):
    torch.save(value, tmp_path / "other.pth")
    with pytest.raises(SettingsError, match=reason):
        initial_weights(settings(weights=str(tmp_path / "other.pth")))


def test_no_weights():
    assert initial_weights(settings()) is None
    assert pretrained_network(settings()) is None


def test_published_weights_that_cannot_be_had_are_said_once(caplog, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert initial_weights(settings(weights="coco", weights_url="http://127.0.0.1:9")) is None
    [record] = caplog.records
    assert "segloop weights fetch --to FILE" in record.getMessage()


# -- one's own weights, as trainings save them


def wrapped(state, form):
    """A state as a training saves it."""
    match form:
        case "plain":
            return state
        case "DataParallel":
            return {f"module.{key}": value for key, value in state.items()}
        case "reference":
            return {"model": state, "optimizer": {"lr": 0.1}, "epoch": 3}
        case "Lightning":
            renamed = {f"model.{key}": value for key, value in state.items()}
            return {"state_dict": {**renamed, "criterion.weight": torch.ones(3)}, "epoch": 3}
        case "compiled":
            return {"model": {"state_dict": {f"module._orig_mod.{key}": value for key, value in state.items()}}}
    raise AssertionError(form)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["plain", "DataParallel", "reference", "Lightning", "compiled"])
def test_weights_as_trainings_save_them(network, tmp_path, form):
    file = tmp_path / "mine.pth"
    torch.save(wrapped(network.state_dict(), form), file)
    (tmp_path / "mine.json").write_text('["road", "sky"]')
    own = settings(weights=str(file))
    weights = initial_weights(own)
    assert (weights.classes, weights.state.keys()) == (("road", "sky"), network.state_dict().keys())
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(pretrained_network(own)(image), network(image))


@pytest.mark.slow
@pytest.mark.parametrize("has_auxiliary", [True, False])
def test_torchvisions_own_network_with_its_auxiliary_head_or_without(tmp_path, has_auxiliary):
    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=4, aux_loss=has_auxiliary)
    torch.save(theirs.state_dict(), tmp_path / "mine.pth")
    own = settings(weights=str(tmp_path / "mine.pth"), weights_classes="road,sky,tree", output_stride="8")
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        logits = pretrained_network(own)(image)
        resized = torch.nn.functional.interpolate(logits, (64, 64), mode="bilinear", align_corners=False)
        torch.testing.assert_close(resized, theirs.eval()(image)["out"])


@pytest.mark.slow
def test_a_head_without_background_gets_one_that_never_wins(network, tmp_path):
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(state, tmp_path / "mine.safetensors", {"classes": "road,sky,tree"})
    own = settings(weights=str(tmp_path / "mine.safetensors"))
    weights = initial_weights(own)
    assert (weights.classes, weights.has_background) == (("road", "sky", "tree"), False)
    with torch.inference_mode():
        logits = pretrained_network(own)(image := torch.rand(1, 3, 64, 64))
        torch.testing.assert_close(logits[:, 1:], network(image))
    assert (logits.argmax(dim=1) > 0).all()
    target = build_network("deeplabv3_resnet50", 2, 16)
    before = target.classifier[4].bias[0].clone()
    load_matching(target, weights.state, weights.classes, ("Sky",), has_background=weights.has_background)
    assert target.classifier[4].bias[0] == before, "its background is to be learnt"
    assert target.classifier[4].bias[1] == state["classifier.4.bias"][1]


def test_background_may_have_any_channel(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    weights = initial_weights(settings(weights=str(tmp_path / "mine.pth"), weights_classes="road,background,sky"))
    assert weights.classes == ("road", "sky")
    own = network.state_dict()["classifier.4.bias"]
    assert torch.equal(weights.state["classifier.4.bias"], own[[1, 0, 2]])


def without(state, *keys):
    return {key: value for key, value in state.items() if key not in keys}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda state: without(state, "classifier.1.weight"),
            r"of a deeplabv3_resnet50 \(classifier.1.weight missing\)",
        ),
        (
            lambda state: {**state, "backbone.layer1.0.conv1.weight": torch.zeros(1, 1, 1, 1)},
            r"backbone.layer1.0.conv1.weight is \(1, 1, 1, 1\), not \(64, 64, 1, 1\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(network, tmp_path, spoil, reason):
    torch.save(spoil(network.state_dict()), tmp_path / "mine.pth")
    (tmp_path / "mine.json").write_text('["road", "sky"]')
    with pytest.raises(WeightsError, match=reason):
        pretrained_network(settings(weights=str(tmp_path / "mine.pth")))


@pytest.mark.slow
def test_a_head_that_nothing_names_is_said(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    own = settings(weights=str(tmp_path / "mine.pth"))
    assert initial_weights(own).classes is None, "its backbone can be trained"
    with pytest.raises(
        WeightsError, match=r"3 channels, and nothing names their classes: write their names to mine\.json"
    ):
        pretrained_network(own)
    (tmp_path / "mine.names").write_text("road")
    with pytest.raises(WeightsError, match=r"its head has 3 channels, and 1 names are given"):
        initial_weights(own)
