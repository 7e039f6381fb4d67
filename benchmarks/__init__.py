"""Every published figure is one command here."""
