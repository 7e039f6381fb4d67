"""Where training runs: one protocol, one module per place."""
