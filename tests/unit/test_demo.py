"""The figures that the demo shows, of predictions that a Label Studio holds."""

from __future__ import annotations

from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from demo.__main__ import Demo
from demo.data import generated
from tests.e2e.loop import region


@pytest.mark.parametrize(("moved", "miou", "boundary_f1"), [(0, (1.0, 1.0), (1.0, 1.0)), (12, (0.3, 0.8), (0.1, 0.5))])
def test_predictions_are_judged_by_their_regions_and_by_their_outlines(tmp_path, moved, miou, boundary_f1):
    data = generated(tmp_path, train=1, val=3)

    def predictions(request: httpx.Request) -> httpx.Response:
        truth = data.val[int(request.url.params["task"])].truth(len(data.classes))
        shown = np.roll(truth, moved, axis=1)
        regions = [region(shown, index, name) for index, name in enumerate(data.classes, 1)]
        return httpx.Response(200, json=[{"model_version": "v1", "result": regions}])

    client = httpx.Client(base_url="http://label-studio", transport=httpx.MockTransport(predictions))
    demo = Demo(data, SimpleNamespace(client=lambda: client), None)
    demo.val_tasks = [0, 1, 2]
    quality = demo.quality("v1")
    assert miou[0] <= quality.miou <= miou[1]
    assert boundary_f1[0] <= quality.boundary_f1 <= boundary_f1[1]
    assert demo.quality("v2") == (0, 0)
    client.close()
