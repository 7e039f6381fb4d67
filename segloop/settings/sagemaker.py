"""Settings of where training runs: on this machine, or in Amazon SageMaker."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings

from segloop.settings.sources import Several


class TrainerSettings(BaseSettings):
    """Where versions are trained, and what a training job of SageMaker's is given."""

    trainer: Literal["local", "sagemaker"] = "local"
    """Where versions are trained: on this machine, or in Amazon SageMaker training jobs."""
    sagemaker_region: str = ""
    """AWS region of the training jobs. Empty: that of the AWS configuration (AWS_DEFAULT_REGION)."""
    sagemaker_s3: str = ""
    """Where training jobs read and write, s3://bucket/prefix: snapshots, code, checkpoints, trained models."""
    sagemaker_role: str = ""
    """ARN of the IAM role that training jobs have."""
    sagemaker_pipeline: str = ""
    """Name of a SageMaker pipeline that trains. Empty: segloop creates training jobs itself."""
    sagemaker_route: str = ""
    """Name of the managed route's pipeline (docs/aws.md): the models that it trains are compared and promoted here.
    Empty: none are."""
    sagemaker_image: str = ""
    """Container image of training jobs. Empty: AWS's own of PyTorch, for a GPU where the instance has one."""
    sagemaker_wheels: str = ""
    """Folder of wheels, s3://bucket/prefix/, that training jobs install what their image lacks from. Empty: from PyPI,
    with the hashes that segloop carries."""
    sagemaker_instance: str = "ml.g4dn.xlarge"
    """Instance type of training jobs."""
    sagemaker_instances: int = Field(1, ge=1, le=64)
    """Instances of a training job."""
    sagemaker_spot: bool = False
    """Train on spot instances: cheaper, may wait, and goes on from a checkpoint after an interruption."""
    sagemaker_max_runtime_s: int = Field(4 * 3600, ge=60, le=28 * 86400)
    """A training job that trains longer than this is stopped, in seconds."""
    sagemaker_max_wait_s: int = Field(0, ge=0, le=28 * 86400)
    """Longest time of a spot training job, waiting included, in seconds. 0: twice sagemaker_max_runtime_s."""
    sagemaker_retries: int = Field(2, ge=0, le=30)
    """How often SageMaker starts a training job again after an error of its own."""
    sagemaker_warm_pool_s: int = Field(0, ge=0, le=3600)
    """How long instances are kept, and paid, for the next training job, in seconds; 0: not."""
    sagemaker_volume_gb: int = Field(50, ge=1, le=16384)
    """Disk of each instance of a training job, in GB."""
    sagemaker_volume_kms_key: str = ""
    """KMS key of that disk. Empty: none of your own."""
    sagemaker_output_kms_key: str = ""
    """KMS key of what a training job writes to S3. Empty: S3's own."""
    sagemaker_subnets: Several = ()
    """Subnets of your VPC that training jobs run in, commas between. Empty: no VPC."""
    sagemaker_security_groups: Several = ()
    """Security groups of training jobs in your VPC, commas between."""
    sagemaker_tags: Several = ()
    """Tags of training jobs: name=value, commas between."""
    sagemaker_price_per_hour: float = Field(0.0, ge=0)
    """Price of one instance for an hour, in your currency; progress then shows what a training costs. 0: unknown."""
    sagemaker_poll_s: float = Field(30.0, gt=0, le=3600)
    """How often SageMaker is asked how a training job is, in seconds."""
    sagemaker_events: str = ""
    """Address of an SQS queue that gets EventBridge's "SageMaker Training Job State Change"; the end of a training job
    is then seen at once. Empty: polling alone."""
