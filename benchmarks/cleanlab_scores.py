"""cleanlab's own module for segmentation, run by the python that has it: `python cleanlab_scores.py IN.npz OUT.npz`.

IN has `labels` (N, H, W) in 0, 1, ..., K - 1 and `probabilities` (N, K, H, W); OUT gets `images`, the quality of each image's
label by its soft minimum (N,), and `issues`, bool (N, H, W). Nothing of segloop is imported here.
"""

import sys

import numpy as np
from cleanlab.segmentation.filter import find_label_issues
from cleanlab.segmentation.rank import get_label_quality_scores

source, target = sys.argv[1:]
with np.load(source) as given:
    labels, probabilities = given["labels"].astype(np.int64), given["probabilities"].astype(np.float32)
images, _ = get_label_quality_scores(labels, probabilities, verbose=False)
issues = find_label_issues(labels, probabilities, n_jobs=1, verbose=False)
np.savez(target, images=images, issues=issues)
