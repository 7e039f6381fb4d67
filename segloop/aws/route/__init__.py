"""The managed route in an AWS account: its two CloudFormation stacks deployed, looked at and removed; projects connected to it."""

from segloop.aws.route.backfill import Backfill
from segloop.aws.route.connect import Connection, Storages
from segloop.aws.route.deploy import Deployment
from segloop.aws.route.destroy import Removal
from segloop.aws.route.options import Options
from segloop.aws.route.status import RouteStatus, route_status
from segloop.aws.route.upload import Upload

__all__ = [
    "Backfill",
    "Connection",
    "Deployment",
    "Options",
    "Removal",
    "RouteStatus",
    "Storages",
    "Upload",
    "route_status",
]
