"""Which weights are moved by which optimizer, how far, and what a checkpoint keeps of it."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn

from segloop.network.network import build_network
from segloop.training.optimizers import (
    BLOCK,
    Muon,
    Optimizers,
    adamw,
    for_random_weights,
    make_head_optimizer,
    make_optimizer,
    orthogonalised,
)
from segloop.training.run import Run, restore, save_checkpoint

CPU = torch.device("cpu")


@pytest.mark.parametrize(("rows", "columns"), [(BLOCK, 200), (3 * BLOCK, 600), (600, 2 * BLOCK), (100, 150)])
def test_the_rows_of_a_block_become_orthogonal_and_of_one_length(rows, columns):
    matrix = torch.randn(rows, columns, generator=torch.manual_seed(0)) * torch.linspace(0.1, 10, columns)
    found = orthogonalised(matrix)
    assert found.shape == matrix.shape
    if rows > columns:
        found = found.T
    block = BLOCK if len(found) % BLOCK == 0 else len(found)
    for one in found.split(block):
        singular = torch.linalg.svdvals(one) / one.shape[1] ** 0.5
        assert singular.min() > 0.4  # as far as five iterations bring it
        assert singular.max() < 1.4


def test_a_matrix_of_zeros_stays_one():  # as gradients are in residual branches that begin at zero
    assert not orthogonalised(torch.zeros(BLOCK, 100)).any()


def test_a_block_moves_in_the_direction_of_torchs_muon():
    ours = nn.Parameter(torch.zeros(BLOCK, 100, 1, 1))
    theirs = nn.Parameter(torch.zeros(BLOCK, 100))
    optimizers = (Muon([ours], 0.1), torch.optim.Muon([theirs], 0.1, weight_decay=0))
    for seed in range(3):
        theirs.grad = torch.randn(BLOCK, 100, generator=torch.manual_seed(seed))
        ours.grad = theirs.grad[:, :, None, None].clone()
        for one in optimizers:
            one.step()
    moved = ours.detach().flatten(1)
    assert torch.cosine_similarity(moved.flatten(), theirs.detach().flatten(), dim=0) > 0.995  # theirs has 8 bits


def test_a_convolution_is_moved_alike_however_its_memory_lies():
    weight = torch.randn(BLOCK, BLOCK, 3, 3, generator=torch.manual_seed(0))
    gradient = torch.randn(weight.shape, generator=torch.manual_seed(1))
    moved = []
    for layout in (torch.contiguous_format, torch.channels_last):
        one = nn.Parameter(weight.clone(memory_format=layout))
        one.grad = gradient.clone(memory_format=layout)
        Muon([one], 0.1).step()
        moved.append(one.detach())
    torch.testing.assert_close(*moved)


def test_a_weight_without_a_gradient_stays():
    weight = nn.Parameter(torch.ones(BLOCK, BLOCK, 1, 1))
    Muon([weight], 0.1).step()
    assert (weight == 1).all()


def test_random_weights_have_muon_between_the_first_convolution_and_the_logits():
    network = build_network("fpn_resnet50", 3, 4)
    names = {id(weight): name for name, weight in network.named_parameters()}
    inner, rest = (
        {names[id(weight)] for weight in group["params"]} for group in make_optimizer(network, 1e-3, 1.0).param_groups
    )
    assert inner | rest == set(names.values())
    assert not inner & rest
    assert {"backbone.layer4.2.conv2.weight", "classifier.smooth.0.0.weight", "classifier.pooled.weight"} <= inner
    assert {
        "backbone.conv1.weight",
        "classifier.last.weight",
        "classifier.last.bias",
    } <= rest
    assert all(network.get_parameter(name).ndim == 4 for name in inner)


def test_a_head_alone_has_muon_on_a_backbone_that_began_at_random():
    head = build_network("fpn_resnet50", 3, 4).classifier
    muon, rest = make_head_optimizer(head, 1e-3, 1.0).param_groups
    assert (muon["base_lr"], rest["base_lr"]) == (2e-3, 2e-3)
    assert any(weight is head.smooth[0][0].weight for weight in muon["params"])
    assert any(weight is head.last.weight for weight in rest["params"])
    (published,) = make_head_optimizer(head, 1e-3, 0.1).param_groups
    assert published["base_lr"] == 1e-3
    assert len(published["params"]) == len(list(head.parameters()))


def test_published_weights_keep_adamw_and_a_slower_backbone():
    network = build_network("fpn_resnet50", 3, 4)
    optimizer = make_optimizer(network, 1e-3, 0.1)
    assert [group["base_lr"] for group in optimizer.param_groups] == [1e-4, 1e-3]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
    assert all("betas" in group for group in optimizer.param_groups)  # AdamW's


# -- what a checkpoint keeps


def a_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, BLOCK, 1), nn.Conv2d(BLOCK, BLOCK, 3), nn.Conv2d(BLOCK, 2, 1))


def a_run(optimizer_of):
    network = a_network()
    return Run(network, optimizer_of(network), CPU, 100, 10, 0.0, 0, torch.ones(2))


def take_step(run, seed):
    images = torch.randn(2, 3, 8, 8, generator=torch.manual_seed(seed))
    run.optimizer.zero_grad()
    run.network(images).square().mean().backward()
    run.optimizer.step()
    run.step += 1


def muon(network):
    return for_random_weights(network, 1e-2)


def test_a_restored_run_goes_on_as_one_that_never_stopped(tmp_path):
    whole, resumed = a_run(muon), a_run(muon)
    take_step(whole, 1)
    save_checkpoint(whole, tmp_path / "checkpoint.pt")
    restore(resumed, tmp_path / "checkpoint.pt")
    for run in (whole, resumed):
        take_step(run, 2)
    assert resumed.step == 2
    for one, other in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("key", ["optimizer", "optimizers"])
def test_an_older_versions_checkpoint_loses_its_optimizer_alone(tmp_path, caplog, key):
    older = a_run(lambda network: Optimizers(adamw([{"params": list(network.parameters()), "base_lr": 1e-2}])))
    take_step(older, 1)
    save_checkpoint(older, tmp_path / "checkpoint.pt")
    if key == "optimizer":  # as versions before Muon wrote it
        state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
        state["optimizer"] = state.pop("optimizers")[0]
        torch.save(state, tmp_path / "checkpoint.pt")
    run = a_run(muon)
    with caplog.at_level(logging.WARNING):
        restore(run, tmp_path / "checkpoint.pt")
    assert run.step == 1
    assert "begins anew" in caplog.text
    before = copy.deepcopy(run.network.state_dict())
    assert all(torch.equal(before[name], value) for name, value in older.network.state_dict().items())
    take_step(run, 2)
    assert not torch.equal(before["1.weight"], run.network[1].weight)
