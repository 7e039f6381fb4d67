"""The guided head: trained by simulated clicks, exported, judged by clicks, and left out where it gains nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from demo.scenes import NO_LABEL, STREET_CLASSES, draw_street
from segloop.errors import RegistryError
from segloop.formats import GUIDED_FILE, GUIDED_MAPS, GUIDED_MODEL
from segloop.network.guided import GuidedUNet, TorchHead, load_guided, save_guided
from segloop.network.network import build_network, save_bundle
from segloop.registry import open_registry
from segloop.results import Click, Prompt, Tools, prompted_mask
from segloop.results.clicks import next_mask
from segloop.results.views import Asked, Place, Sight
from segloop.serving import load_served_model
from segloop.serving.guided import OpenVINOHead
from segloop.settings import Settings
from segloop.training.guided import Seen, pieces_of, train_guided
from segloop.training.guided_export import export_guided, exported, judged
from segloop.versions import EngineReport, GuidedFigures
from tests.exports import PROJECT, ROOT
from tests.snapshots import write_snapshot
from tests.toys import toy_info
from worker.jobs.guided import inherited_head

#: The map of `head_inputs` that has the log-odds of the chosen label.
LABEL_ODDS = 4

CLICK = """
import json, sys
from pathlib import Path
import numpy as np
from segloop.results.clicks import next_mask
from segloop.results.views import Asked, Place, Sight
from segloop.serving import load_served_model
from segloop.serving.guided import OpenVINOHead
from segloop.settings import Settings

folder = Path(sys.argv[1])
kept = np.load(folder / "sight.npz")
sight = Sight(kept["pixels"], kept["class_map"], kept["probabilities"])
clicks = tuple(Place(*one) for one in json.loads(sys.argv[2]))
head, mask = OpenVINOHead(folder / "guided.xml"), None
for count in range(1, len(clicks) + 1):
    mask = next_mask(sight, Asked(clicks[:count], value=1), mask, head)
np.save(folder / "mask.npy", mask)
print(json.dumps([name for name in ("torch", "onnx", "safetensors") if name in sys.modules]))
"""


def street(index: int) -> Seen:
    """A drawn street, and what a network says of it that sees its things a little too large."""
    picture, truth = draw_street(0, index, (160, 120))
    truth = np.where(truth == NO_LABEL, 255, truth + 1).astype(np.uint8)
    chances = np.stack([cv2.blur((truth == value).astype(np.float32), (15, 15)) for value in range(12)]) + 0.01
    chances /= chances.sum(axis=0)
    return Seen(Sight(picture, chances.argmax(axis=0).astype(np.uint8), chances.astype(np.float16)), truth)


def noise(index: int) -> Seen:
    """A disk on a picture of noise, which a network sees rightly but faintly: edges and colours only mislead."""
    random = np.random.default_rng(index)
    disk = np.zeros((96, 128), np.uint8)
    cv2.circle(disk, (40 + 12 * index, 40 + 5 * index), 22, 1, cv2.FILLED)
    chances = np.stack([np.where(disk, 0.46, 0.54), np.where(disk, 0.54, 0.46)]).astype(np.float32)
    picture = cv2.resize(random.integers(0, 256, (24, 32, 3), np.uint8), (128, 96), interpolation=cv2.INTER_NEAREST)
    return Seen(Sight(picture, np.zeros_like(disk), chances), disk)


def trusting() -> GuidedUNet:
    """A head that believes the network's log-odds of the chosen label and little else: fine[0] and fine[1] are the label's
    odds and their opposite."""
    torch.manual_seed(0)
    head = GuidedUNet()
    with torch.no_grad():
        for part in (head.fine, head.up[0], head.mix):
            part.weight.zero_()
            part.bias.zero_()
        head.fine.weight[0, LABEL_ODDS], head.fine.weight[1, LABEL_ODDS] = 1.0, -1.0
        head.last.weight[1, 0], head.last.weight[1, 1] = 100.0, -100.0
    return head.eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trusting head, exported by way of its file."""
    folder = tmp_path_factory.mktemp("head")
    save_guided(trusting(), folder / GUIDED_FILE)
    exported(load_guided(folder / GUIDED_FILE), folder)
    return folder


@pytest.mark.slow
def test_an_untrained_head_gives_the_evidence_and_a_trained_one_is_the_same_each_time() -> None:
    seen = [street(index) for index in range(2)]
    assert pieces_of(seen)
    sight, untrained = seen[0].sight, TorchHead(GuidedUNet())
    clicks = Asked((Place(60, 80),), value=int(sight.class_map[60, 80]))
    assert (next_mask(sight, clicks, None, untrained) == next_mask(sight, clicks, None)).all()
    first, second = (train_guided(seen, steps=2) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.last.weight.abs().max() > 0
    for name, weights in first.state_dict().items():
        assert torch.equal(weights, second.state_dict()[name]), name


def test_there_is_nothing_to_learn_from_images_without_pieces() -> None:
    seen = street(0)
    assert train_guided([Seen(seen.sight, np.zeros_like(seen.truth))], steps=1) is None


@pytest.mark.slow
def test_a_head_that_gains_serves_and_one_that_loses_does_not(made: Path) -> None:
    held_out = [noise(index) for index in range(4)]
    gains = judged(OpenVINOHead(made / GUIDED_MODEL[0]), held_out)
    assert gains.serves, gains.reason
    assert gains.iou[5] > gains.iou_without[5]
    assert gains.pieces == 4
    loses = judged(lambda inputs, evidence: -evidence, held_out)
    assert not loses.serves, loses.reason
    assert loses.iou[5] < loses.iou_without[5]
    nothing = judged(lambda inputs, evidence: evidence, [Seen(held_out[0].sight, np.zeros((96, 128), np.uint8))])
    assert (nothing.serves, nothing.pieces) == (False, 0)


@pytest.mark.slow
def test_a_process_without_torch_gives_the_mask_that_torch_gives(made: Path) -> None:
    sight = street(1).sight
    np.savez(made / "sight.npz", pixels=sight.pixels, class_map=sight.class_map, probabilities=sight.probabilities)
    clicks = [(70, 60, True), (40, 100, True), (90, 120, False)]
    done = subprocess.run(
        [sys.executable, "-c", CLICK, made, json.dumps(clicks)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == []
    mask = None
    for count in range(1, len(clicks) + 1):
        places = tuple(Place(*one) for one in clicks[:count])
        mask = next_mask(sight, Asked(places, value=1), mask, TorchHead(trusting()))
    assert mask is not None
    assert mask[70, 60]
    assert not mask[90, 120]
    assert (np.load(made / "mask.npy") != mask).mean() < 0.001


def test_whatever_a_head_says_clicks_hold_and_the_rest_stays() -> None:
    """Here it says the opposite of the evidence."""
    sight = street(2).sight
    clicks = (Click(50, 40), Click(75, 70, positive=False), Click(20, 60), Click(52, 45, positive=False))
    tools, masks = Tools(head=lambda inputs, evidence: -evidence), []
    for count in range(1, len(clicks) + 1):
        mask = prompted_mask(sight, Prompt(clicks[:count]), tools=tools)
        for click in clicks[:count]:
            assert mask[int(click.y * 1.2), int(click.x * 1.6)] == click.positive
        masks.append(mask)
    changed = np.nonzero(masks[3] ^ masks[2])
    assert np.hypot(changed[0] - 54, changed[1] - 83.2).max(initial=0) < 60
    # with fewer clicks it is the mask of before
    assert (prompted_mask(sight, Prompt(clicks[:2]), tools=tools) == masks[1]).all()


def test_what_is_no_guided_head_is_refused(tmp_path: Path) -> None:
    other = torch.nn.Conv2d(GUIDED_MAPS, 1, 1)
    save_file(other.state_dict(), tmp_path / "guided.safetensors")
    with pytest.raises(RegistryError, match="no guided head"):
        load_guided(tmp_path / "guided.safetensors")
    (tmp_path / "guided.xml").write_text("<net/>")
    with pytest.raises(RegistryError, match="no OpenVINO model"):
        OpenVINOHead(tmp_path / "guided.xml")


@pytest.mark.slow
def test_an_export_leaves_a_head_out_that_learnt_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives the evidence itself, which can't be better than itself. With few images none is trained."""
    monkeypatch.setattr("segloop.training.guided.LEARNING_RATE", 0.0)
    monkeypatch.setattr("segloop.training.guided_export.MOST_PIECES", 4)
    examples = [
        (one.sight.pixels, np.minimum(one.truth, 11), "train" if i < 8 else "val")
        for i, one in enumerate(map(street, range(10)))
    ]
    write_snapshot(tmp_path / "snapshot", STREET_CLASSES, examples)
    (tmp_path / "out").mkdir()
    network = build_network("fpn_resnet50", 12, 4)
    info = toy_info(STREET_CLASSES, arch="fpn_resnet50")
    figures = export_guided(network, info, tmp_path / "snapshot", tmp_path / "out", steps=1)
    assert figures is not None
    assert not figures.serves
    assert figures.iou == figures.iou_without
    assert list((tmp_path / "out").iterdir()) == []
    write_snapshot(tmp_path / "few", STREET_CLASSES, examples[4:])
    assert export_guided(network, info, tmp_path / "few", tmp_path / "out", steps=1) is None


@pytest.mark.slow
def test_a_version_serves_with_its_head_and_hands_it_on(made: Path, tmp_path: Path) -> None:
    """A version without a head, as all from before there were any, serves as it did; so does one whose head did not gain."""
    settings = Settings(_env_file=None, data_dir=tmp_path / "data", device="cpu", workers=1)
    registry, bundle = open_registry(settings), tmp_path / "bundle"
    torch.manual_seed(0)
    info = save_bundle(bundle, build_network("fcn_resnet50", 3, 16), toy_info(arch="fcn_resnet50"))
    figures = GuidedFigures(pieces=4, iou={1: 0.7}, iou_without={1: 0.6}, serves=True, reason="It is better.")

    def added(guided: GuidedFigures | None) -> str:
        engines = EngineReport(error="none here", guided=guided)
        return registry.add(PROJECT, bundle, info.model_copy(update={"engines": engines}))

    without = added(None)
    assert load_served_model(registry, PROJECT, without, settings).guided is None
    assert inherited_head(registry, PROJECT, without, tmp_path) is None
    for name in (GUIDED_FILE, *GUIDED_MODEL):
        shutil.copyfile(made / name, bundle / name)
    better = added(figures)
    assert registry.get(PROJECT, better).engines.guided == figures
    served = load_served_model(registry, PROJECT, better, settings).guided
    assert served is not None
    evidence = np.ones((16, 32), np.float32)
    assert served(np.zeros((GUIDED_MAPS, 16, 32), np.float32), evidence).shape == (16, 32)
    inherited = inherited_head(registry, PROJECT, better, tmp_path)
    assert inherited is not None
    assert inherited.serves
    assert better in inherited.reason
    assert (tmp_path / GUIDED_FILE).read_bytes() == (made / GUIDED_FILE).read_bytes()
    # the files alone do not make it serve
    (bundle / "note.json").write_text("{}")
    worse = added(figures.model_copy(update={"serves": False}))
    assert load_served_model(registry, PROJECT, worse, settings).guided is None
    assert inherited_head(registry, PROJECT, worse, tmp_path) is None
