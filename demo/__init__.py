"""The demo: a real Label Studio, generated scenes, and the whole loop."""
