"""Training in Amazon SageMaker, with plain boto3: training jobs of segloop's own, or a pipeline that is there."""

from segloop.aws.training.trainer import SageMakerTrainer

__all__ = ["SageMakerTrainer"]
