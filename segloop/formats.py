"""Names of a version's files and values of a class map, which whoever writes them and whoever reads them must share."""

from __future__ import annotations

from typing import Final

#: The two files that every bundle has, the folder of a version: its network, and what is known of it.
WEIGHTS_FILE: Final = "model.safetensors"
VERSION_FILE: Final = "version.json"
#: Files that a version with a guided head has besides: its weights, and what a server runs.
GUIDED_FILE: Final = "guided.safetensors"
GUIDED_MODEL: Final = ("guided.xml", "guided.bin")
#: Maps that a guided head is given of a click's view; see `segloop.results.guided.head_inputs`.
GUIDED_MAPS: Final = 22

#: A class map is uint8 (H, W): 0 is background, n the n-th class, and a pixel that is IGNORED is neither learnt from nor
#: counted.
BACKGROUND: Final = 0
IGNORED: Final = 255
#: What stands for a version where predictions show suspected labels: they are no pre-labels.
SUSPECT_MODEL: Final = "suspected labels"
