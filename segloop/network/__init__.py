"""The networks: torchvision's parts with their weights, what they are given, and how a large image is seen in windows.

`segloop.network.network` and `segloop.network.checkpoint` alone need torch: a server on a CPU has none.
"""
