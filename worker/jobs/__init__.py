"""The jobs: retrain, adopt, prelabel, reconcile. Each may be killed anywhere and started again, and ends the same."""
