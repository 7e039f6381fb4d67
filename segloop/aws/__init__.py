"""The managed route in an AWS account: its two CloudFormation stacks deployed, looked at and removed; projects connected to it."""

from segloop.aws.connecting import Storages, connect
from segloop.aws.deploying import Deployment
from segloop.aws.looking import look
from segloop.aws.options import Options
from segloop.aws.removing import Removal
from segloop.aws.session import Aws

__all__ = ["Aws", "Deployment", "Options", "Removal", "Storages", "connect", "look"]
