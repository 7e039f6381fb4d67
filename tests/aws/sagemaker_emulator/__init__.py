"""An emulator of SageMaker's training jobs, pipelines and (hosting_emulator.py) endpoints: AWS's JSON protocol, S3 (moto's), and real child processes."""

from tests.aws.hosting_emulator import ACCOUNT, Refusal
from tests.aws.sagemaker_emulator.server import Emulator, emulated_aws
from tests.aws.sagemaker_emulator.stack import deploy, tell

__all__ = ["ACCOUNT", "Emulator", "Refusal", "deploy", "emulated_aws", "tell"]
