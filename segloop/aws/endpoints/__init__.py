"""SageMaker endpoints that serve a version: what their container runs, and how they are made and updated."""
