"""What would keep a route from being made or from training, found before anything is made. It only reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from segloop.aws.clients import Clients, bucket_region, explained
from segloop.aws.route.buckets import Buckets
from segloop.aws.route.options import Options
from segloop.aws.training.requests import INFERENCE_IMAGE, default_image
from segloop.errors import SettingsError, StackError, TrainerRefused, TrainingError

#: Concurrent executions that Lambda wants unreserved.
_UNRESERVED = 100
#: Of a new route, as the template has them: those of the receiver and of the counter.
_CONCURRENCY = (10, 4)


@dataclass(frozen=True)
class Plan:
    """A deployment as it will be: its options, the stacks' parameters before it, and what a new stack begins with.

    Args:
        route, sagemaker: parameters of the two stacks, empty for one that is not there.
        defaults: parameters of the template aws/sagemaker.yaml with their defaults.
    """

    options: Options
    route: Mapping[str, str]
    sagemaker: Mapping[str, str]
    defaults: Mapping[str, str]

    @property
    def trains(self) -> bool:
        """Whether it has a pipeline."""
        return (self.options.target or self.route.get("Target") or "pipeline") == "pipeline"

    def training(self, parameter: str, given: object) -> str:
        """A parameter of the sagemaker stack as it will be, where an option may give it."""
        if given is not None:
            return str(given).lower()
        return self.sagemaker.get(parameter) or self.defaults.get(parameter, "")


@dataclass(frozen=True)
class Checked:
    """The options to deploy with, what is in the way of them, and what is only to be known."""

    options: Options
    problems: tuple[str, ...]
    notes: tuple[str, ...]


class Preflight:
    """Checks a deployment against the account.

    Raises (every method):
        TrainerUnavailable: AWS cannot be reached now.
    """

    def __init__(self, clients: Clients, plan: Plan) -> None:
        self._clients, self._plan = clients, plan
        self._notes: list[str] = []

    def run(self) -> Checked:
        """All findings, not the first alone."""
        options = self._plan.options
        problems = [*options.problems(), *options.missing(self._plan.route)]
        problems += self._buckets(options)
        options, concurrency = self._concurrency(options)
        problems += concurrency
        if self._plan.trains:
            problems += [*self._image(), *self._inference_image()]
            problems += self._quota()
        return Checked(options, tuple(problems), tuple(self._notes))

    def _asked(self, what: str, ask: Callable[[], int | None]) -> int | None:
        """What the account says; None, with a note, where it says nothing, or nothing to these credentials."""
        try:
            return ask()
        except (TrainerRefused, TrainingError) as error:
            self._notes.append(f"{what} is not checked: {error}")
            return None

    def _buckets(self, options: Options) -> Iterator[str]:
        """What is wrong with buckets of one's own."""
        for parameter, bucket in options.buckets.items():
            option = f"--{parameter.removeprefix('Existing').removesuffix('Bucket').lower()}-bucket {bucket}"
            try:
                if not Buckets(self._clients).exists(bucket):
                    yield f"{option}: there is no such bucket; without the option one is made"
                elif (region := bucket_region(bucket)) not in ("", self._clients.region):
                    yield f"{option}: it is in {region}, and the route in {self._clients.region}"
            except (StackError, TrainerRefused, TrainingError) as error:
                yield f"{option}: {error}"

    # -- Lambda

    def _concurrency(self, options: Options) -> tuple[Options, list[str]]:
        """The options with concurrency that the account can reserve; a problem where one asks for more."""
        before = self._plan.route
        names = ("ReceiverConcurrency", "WorkerConcurrency")
        given = (options.receiver_concurrency, options.worker_concurrency)
        reserved = sum(int(before.get(name, 0)) for name in names)
        wanted = [
            int(before.get(name, default)) if value is None else value
            for name, value, default in zip(names, given, _CONCURRENCY, strict=True)
        ]
        if sum(wanted) <= reserved:
            return options, []
        unreserved = self._asked("the account's Lambda concurrency", self._unreserved)
        if unreserved is None or sum(wanted) <= max(unreserved + reserved - _UNRESERVED, 0):
            return options, []
        room = max(unreserved + reserved - _UNRESERVED, 0)
        says = (
            f"the account lets {room} concurrent executions of Lambda be reserved ({unreserved + reserved} are free, and "
            f"{_UNRESERVED} have to stay unreserved)"
        )
        if any(value is not None for value in given):
            fix = "ask for more in Service Quotas, or give --receiver-concurrency 0 --worker-concurrency 0"
            return options, [f"--receiver-concurrency and --worker-concurrency need {sum(wanted)}: {says}; {fix}"]
        self._notes.append(f"No concurrency is reserved for the functions: {says}")
        return replace(options, receiver_concurrency=0, worker_concurrency=0, is_checked=False), []

    def _unreserved(self) -> int:
        with explained("lambda:GetAccountSettings"):
            limits = self._clients.client("lambda").get_account_settings()["AccountLimit"]
        return int(limits.get("UnreservedConcurrentExecutions", limits["ConcurrentExecutions"]))

    # -- SageMaker

    @property
    def _instance(self) -> str:
        return self._plan.training("InstanceType", self._plan.options.instance)

    def _image(self) -> Iterator[str]:
        options, before = self._plan.options, self._plan.sagemaker
        if options.image is not None or (before and options.instance in (None, before.get("InstanceType"))):
            return
        try:
            default_image(self._clients.region, self._instance, named="--image is not given")
        except SettingsError as error:
            yield str(error)

    def _inference_image(self) -> Iterator[str]:
        if self._plan.options.inference_image is not None or "InferenceImage" in self._plan.sagemaker:
            return
        try:
            default_image(self._clients.region, "", INFERENCE_IMAGE, "--inference-image is not given")
        except SettingsError as error:
            yield str(error)

    def _quota(self) -> Iterator[str]:
        if self._plan.sagemaker and (self._plan.options.instance, self._plan.options.spot) == (None, None):
            return
        is_spot = self._plan.training("UseSpot", self._plan.options.spot) == "true"
        name = f"{self._instance} for {'spot ' if is_spot else ''}training job usage"
        if self._asked(f"the quota {name!r}", lambda: self._quota_of(name)) == 0:
            yield (
                f"the quota {name!r} of SageMaker is 0 in {self._clients.region}: no training would begin. Ask for 1 in the "
                "console of Service Quotas, or give another --instance; --force deploys all the same"
            )

    def _quota_of(self, name: str) -> int | None:
        client = self._clients.client("service-quotas")
        # what was granted goes before what an account begins with
        for operation in ("list_service_quotas", "list_aws_default_service_quotas"):
            with explained("servicequotas:ListServiceQuotas"):
                pages = client.get_paginator(operation).paginate(ServiceCode="sagemaker")
                for page in pages:
                    for quota in page["Quotas"]:
                        if quota["QuotaName"] == name:
                            return int(quota["Value"])
        return None
