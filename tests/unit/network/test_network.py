"""The networks' shapes and strides, weights to begin with, heads copied by class name, bundles."""

from __future__ import annotations

import hashlib
import logging
import pickle
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models.segmentation import deeplabv3_resnet50

from segloop.errors import RegistryError, SettingsError
from segloop.network import network as network_module
from segloop.network.network import (
    build_network,
    initial_weights,
    load_bundle,
    load_matching,
    pick_device,
    pick_output_stride,
    pretrained_network,
    save_bundle,
)
from segloop.network.voc_classes import VOC_CLASSES
from segloop.settings import Settings
from segloop.versions import FileInfo
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
    for key in ("classifier.4.weight", "classifier.4.bias", "aux_classifier.4.weight", "aux_classifier.4.bias"):
        shape = (len(classes) + 1, *state[key].shape[1:])
        rows = torch.arange(shape[0], dtype=torch.float32).reshape(-1, *[1] * (len(shape) - 1))
        state[key] = rows.expand(shape).contiguous()
    return state


# -- architecture


@pytest.mark.parametrize("arch", ["deeplabv3_resnet50", "fcn_resnet50"])
def test_logits_are_at_the_output_stride(arch):
    network = build_network(arch, 4, 16).eval()
    with torch.inference_mode():
        logits, auxiliary = network.with_auxiliary(torch.zeros(1, 3, 64, 96))
        assert logits.shape == auxiliary.shape == (1, 4, 4, 6)
        assert torch.equal(network(torch.zeros(1, 3, 64, 96)), logits)


def test_at_stride_8_it_is_torchvisions():
    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=3, aux_loss=True).eval()
    ours = build_network("deeplabv3_resnet50", 3, 8).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        resized = torch.nn.functional.interpolate(ours(image), (64, 64), mode="bilinear", align_corners=False)
        torch.testing.assert_close(resized, theirs(image)["out"])


def test_stride_16_computes_every_second_feature_of_stride_8(network):
    for block in network.backbone.layer4:  # the residual branches begin at zero: switch them on
        torch.nn.init.constant_(block.bn3.weight, 0.5)
    fine = build_network("deeplabv3_resnet50", 3, 8).eval()
    fine.load_state_dict(network.state_dict())
    image = torch.rand(1, 3, 128, 128)
    with torch.inference_mode():
        coarse_features, fine_features = (net.backbone(image)["out"] for net in (network, fine))
        torch.testing.assert_close(fine_features[:, :, ::2, ::2], coarse_features, rtol=1e-3, atol=1e-4)
        # ASPP's four convolutions as well; its fifth branch is a mean over all places
        for index in range(4):
            coarse = network.classifier[0].convs[index](coarse_features)
            expected = fine.classifier[0].convs[index](fine_features)[:, :, ::2, ::2]
            torch.testing.assert_close(coarse, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("arch", "stride"), [("unet", 16), ("deeplabv3_resnet50", 32)])
def test_unknown_networks_are_refused(arch, stride):
    with pytest.raises(SettingsError, match=r"use (8 or 16|deeplabv3_resnet50)"):
        build_network(arch, 2, stride)


def test_devices_and_strides():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert pick_device(settings()) == cpu
    assert [pick_output_stride(settings(), device) for device in (cpu, gpu)] == [16, 8]
    assert pick_output_stride(settings(output_stride="8"), cpu) == 8


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_an_error():
    with pytest.raises(SettingsError, match="no GPU"):
        pick_device(settings(device="cuda"))
    assert pick_device(settings(device="auto")) == torch.device("cpu")


# -- heads by class name


def test_head_rows_are_copied_by_class_name(network):
    state = tree(network.state_dict(), ("Sky", "Tree", "Road"))
    target = build_network("deeplabv3_resnet50", 4, 16)
    before = target.classifier[4].weight[2].clone()
    copied = load_matching(target, state, ("Sky", "Tree", "Road"), ("Road", "Car", "Sky"))
    assert copied == len(state)
    for head in (target.classifier[4], target.aux_classifier[4]):
        assert head.weight[[0, 1, 3], 0, 0, 0].tolist() == [0, 3, 1]
        assert head.bias[[0, 1, 3]].tolist() == [0, 3, 1]
    assert torch.equal(target.classifier[4].weight[2], before)
    assert torch.equal(target.backbone.conv1.weight, network.backbone.conv1.weight)


def test_voc_names_match_loosely(network):
    state = tree(network.state_dict(), VOC_CLASSES)
    target = build_network("deeplabv3_resnet50", 4, 16)
    load_matching(target, state, VOC_CLASSES, ("Pedestrian", "Mountain", "cars"))
    assert target.classifier[4].bias[[0, 1, 3]].tolist() == [0, 15, 7]


def test_a_head_of_unknown_channels_is_left_alone(network):
    target = build_network("deeplabv3_resnet50", 3, 16)
    before = target.classifier[4].weight.clone()
    load_matching(target, network.state_dict(), None, ("Road", "Sky"))
    assert torch.equal(target.classifier[4].weight, before)


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
    with pytest.raises(SettingsError, match="not of arch fcn_resnet50"):
        pretrained_network(settings(weights=str(file), arch="fcn_resnet50"))


def test_a_bundle_file_brings_its_classes(network, tmp_path):
    save_bundle(tmp_path, network, INFO)
    file = str(tmp_path / "model.safetensors")
    assert initial_weights(settings(weights=file)).classes == ("Road", "Sky")
    assert pretrained_network(settings(weights=file)) is None  # its classes are not VOC's
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


# -- published weights: a server on this machine stands for the publisher's


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def publisher(tmp_path):
    """A folder, and the address under which its files are served."""
    folder = tmp_path / "published"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def hub(tmp_path):
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path / "hub")
    yield tmp_path / "hub" / "checkpoints"
    torch.hub.set_dir(before)
    network_module._downloaded.cache_clear()


def test_published_files_are_fetched_once_and_checked(publisher, hub):
    folder, address = publisher
    name = f"weights-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth"
    (folder / name).write_bytes(b"weights")
    path = network_module._downloaded(f"{address}/{name}")
    assert path == hub / name
    assert path.read_bytes() == b"weights"
    (folder / name).unlink()
    network_module._downloaded.cache_clear()
    assert network_module._downloaded(f"{address}/{name}") == path


def test_a_download_that_fails_is_said_once(publisher, hub, caplog):
    folder, address = publisher
    (folder / "forged-01234567.pth").write_bytes(b"something else")
    with caplog.at_level(logging.WARNING):
        for name, reason in (("forged-01234567.pth", "SHA-256"), ("absent-01234567.pth", "404")):
            assert network_module._downloaded(f"{address}/{name}") is None
            assert network_module._downloaded(f"{address}/{name}") is None
            assert reason in caplog.records[-1].getMessage()
    assert len(caplog.records) == 2
    assert list(hub.iterdir()) == []


# -- bundles


def test_a_bundle_comes_back_as_it_was(network, tmp_path):
    save_bundle(tmp_path, network.to(memory_format=torch.channels_last), INFO)
    loaded, info = load_bundle(tmp_path)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(image), network(image))
    assert not loaded.training
    weights = (tmp_path / "model.safetensors").read_bytes()
    digest = FileInfo(sha256=hashlib.sha256(weights).hexdigest(), bytes=len(weights))
    assert info == INFO.model_copy(update={"files": {"model.safetensors": digest}})
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "version.json"}


def test_a_bundle_that_is_not_whole_is_refused(network, tmp_path):
    with pytest.raises(RegistryError, match=r"version\.json cannot be read"):
        load_bundle(tmp_path)
    save_bundle(tmp_path, network, INFO)
    file = tmp_path / "model.safetensors"
    state = {key: tensor.clone() for key, tensor in load_file(file).items()}  # out of the file, which is cut now
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(RegistryError, match=r"not the weights"):
        load_bundle(tmp_path)
    state.pop("backbone.conv1.weight")
    save_file(state, file)
    with pytest.raises(RegistryError, match=r"not the weights"):
        load_bundle(tmp_path)
