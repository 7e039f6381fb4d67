"""The networks' shapes and strides, weights to begin with, heads copied by class name, bundles."""

from __future__ import annotations

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models.segmentation import deeplabv3_resnet50

from segloop.errors import RegistryError, SettingsError
from segloop.network.network import (
    build_network,
    load_bundle,
    pick_device,
    pick_output_stride,
    save_bundle,
)
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
    for key in ("classifier.4.weight", "classifier.4.bias"):
        shape = (len(classes) + 1, *state[key].shape[1:])
        rows = torch.arange(shape[0], dtype=torch.float32).reshape(-1, *[1] * (len(shape) - 1))
        state[key] = rows.expand(shape).contiguous()
    return state


# -- architecture


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "stride"), [("fpn_resnet50", 4), ("deeplabv3_resnet50", 16), ("fcn_resnet50", 16)])
def test_logits_are_at_the_output_stride(arch, stride):
    network = build_network(arch, 4, stride).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 64, 96)).shape == (1, 4, 64 // stride, 96 // stride)


@pytest.mark.slow
def test_at_stride_8_it_is_torchvisions():
    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=3, aux_loss=True).eval()
    ours = build_network("deeplabv3_resnet50", 3, 8).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        resized = torch.nn.functional.interpolate(ours(image), (64, 64), mode="bilinear", align_corners=False)
        torch.testing.assert_close(resized, theirs(image)["out"])


@pytest.mark.slow
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


@pytest.mark.parametrize(("arch", "stride"), [("unet", 16), ("deeplabv3_resnet50", 32), ("fpn_resnet50", 16)])
def test_unknown_networks_are_refused(arch, stride):
    with pytest.raises(SettingsError, match=r"use fpn_resnet50, deeplabv3_resnet50|has 8 or 16|has 4"):
        build_network(arch, 2, stride)


def test_devices_and_strides():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert pick_device(settings()) == cpu
    assert [pick_output_stride("deeplabv3_resnet50", settings(), device) for device in (cpu, gpu)] == [16, 8]
    assert [pick_output_stride("fpn_resnet50", settings(), device) for device in (cpu, gpu)] == [4, 4]
    assert pick_output_stride("fcn_resnet50", settings(output_stride="8"), cpu) == 8


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_an_error():
    with pytest.raises(SettingsError, match="no GPU"):
        pick_device(settings(device="cuda"))
    assert pick_device(settings(device="auto")) == torch.device("cpu")


# -- bundles


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_bundle_of_an_earlier_version_is_read_without_its_auxiliary_head(network, tmp_path):
    save_bundle(tmp_path, network, INFO)
    file = tmp_path / "model.safetensors"
    state = {key: tensor.clone() for key, tensor in load_file(file).items()}  # out of the file, which is replaced now
    save_file(state | {"aux_classifier.4.weight": torch.ones(3, 256, 1, 1)}, file)
    loaded, _ = load_bundle(tmp_path)
    assert loaded.state_dict().keys() == state.keys()


@pytest.mark.slow
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
