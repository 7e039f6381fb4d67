"""The route deployed: its code uploaded, its two stacks made or updated. Every step may be repeated."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import SecretStr

from segloop.aws.clients import Clients, explained
from segloop.aws.endpoints.packing import inference_files
from segloop.aws.route import templates
from segloop.aws.route.buckets import Buckets
from segloop.aws.route.change_sets import Change, Event
from segloop.aws.route.options import Options, repository_of, route_parameters, sagemaker_parameters
from segloop.aws.route.preflight import Plan, Preflight
from segloop.aws.route.stack import UNMADE, Stack
from segloop.aws.training.code import ENTRY, code_files
from segloop.aws.training.requests import INFERENCE_IMAGE, default_image, max_wait_s, tag_of
from segloop.aws.uploads import Bucket, Folder, digest_of
from segloop.errors import SettingsError
from segloop.settings import Settings

#: Tag of all that a route's stacks make; its value is the route's name.
_TAG = "segloop:route"
#: The stack's outputs that are the sagemaker stack's parameters.
_BUCKETS = ("SourceBucketName", "TargetBucketName", "ArtifactsBucketName")


@dataclass(frozen=True)
class StackResult:
    """What was done to a stack, or, of a dry run, what is planned."""

    stack: str
    done: Literal["created", "updated", "unchanged", "planned"]
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Deployed:
    """A route after its deployment; `outputs` are those of its stacks."""

    name: str
    region: str
    account: str
    stacks: tuple[StackResult, ...]
    outputs: dict[str, str]


class Watch(Protocol):
    """Who is told how a deployment goes."""

    def say(self, text: str) -> None:
        """A sentence about what happens now."""

    def begin(self, stack: str, changes: int) -> None:
        """A stack begins to change, so many resources of it."""

    def event(self, event: Event) -> None:
        """An event of that stack."""


def sagemaker_name(name: str) -> str:
    """The name of the second stack of the route `name`."""
    return f"{name}-sagemaker"


class Deployment:
    """A route brought to what its options and this segloop's code say.

    Raises (every method):
        StackError: a stack's own failure, with its reason.
        TrainingError: AWS refused.
        TrainerUnavailable: AWS cannot be reached now.
    """

    def __init__(self, clients: Clients, options: Options, watch: Watch) -> None:
        self._clients, self._options, self._watch = clients, options, watch
        self._buckets = Buckets(clients)
        self._route = Stack(clients, options.name)
        self._sagemaker = Stack(clients, sagemaker_name(options.name))

    def run(self, settings: Settings, *, dry_run: bool = False, force: bool = False) -> Deployed:
        """Deploy what differs, once nothing that the account says is in the way; `force` deploys all the same.

        The functions' own secrets become what the settings have: `webhook_secret` for segloop, `label_studio_api_key`.

        A dry run makes the change sets, reads and discards them (`planned`): nothing is changed or uploaded.

        Raises:
            SettingsError: what is in the way, in a line for each finding.
        """
        before = self._route.describe().parameters
        self._check(before, force=force)
        if not self._options.label_studio_url and not before.get("LabelStudioOrigin"):
            self._watch.say("Without --label-studio-url, Label Studio's pages may not load images by signed addresses")
        with tempfile.TemporaryDirectory(prefix="segloop-code-") as scratch:
            stacks = [self._deploy_route(dry_run)]
            target = self._route.describe().outputs.get("TargetBucketName")
            if target and not dry_run and self._buckets.tell_eventbridge(target):
                self._watch.say(f"The bucket {target} tells EventBridge of its objects now")
            if self._plan(before).trains:
                stacks.append(self._deploy_sagemaker(Path(scratch), dry_run))
        outputs = {**self._route.describe().outputs, **self._sagemaker.describe().outputs}
        if not dry_run:
            self._put_secret(outputs.get("SegloopSecretArn"), settings.webhook_secret, "SEGLOOP_WEBHOOK_SECRET")
            self._put_secret(outputs.get("LabelStudioTokenArn"), settings.label_studio_api_key, "LABEL_STUDIO_API_KEY")
        return Deployed(self._options.name, self._clients.region, self._buckets.account, tuple(stacks), outputs)

    # -- steps

    def _plan(self, route: Mapping[str, str]) -> Plan:
        sagemaker = self._sagemaker.describe().parameters
        defaults = {} if sagemaker else self._sagemaker.defaults(templates.template(templates.SAGEMAKER_TEMPLATE))
        return Plan(self._options, route, sagemaker, defaults)

    def _check(self, route: Mapping[str, str], *, force: bool) -> None:
        checked = Preflight(self._clients, self._plan(route)).run()
        for note in checked.notes:
            self._watch.say(note)
        if checked.problems and not (force and not self._options.problems()):
            raise SettingsError("\n".join(checked.problems))
        for problem in checked.problems:
            self._watch.say(f"Deployed all the same: {problem}")
        self._options = checked.options

    def _deploy_route(self, dry_run: bool) -> StackResult:
        bucket = self._buckets.code_bucket(self._options.name)
        digest, archive = templates.webhook_archive()
        key = f"webhook/{digest}.zip"
        if not dry_run:
            if self._buckets.ensure_private(bucket):
                self._watch.say(f"Made the bucket {bucket} for the functions' code")
            if self._buckets.put_once(bucket, key, archive):
                self._watch.say(f"Sent the functions' code to s3://{bucket}/{key}")
        values = self._left_buckets() | route_parameters(self._options) | {"CodeBucket": bucket, "CodeKey": key}
        return self._deploy(self._route, templates.template(templates.TEMPLATE), values, dry_run)

    def _left_buckets(self) -> dict[str, str]:
        """Of a new route, the buckets that an earlier one of its name has left."""
        if self._route.describe().id:
            return {}
        own = self._buckets.own()
        left = {name: bucket for name, bucket in self._route.left_buckets().items() if bucket in own}
        for bucket in left.values():
            self._watch.say(f"Takes up the bucket {bucket}, which an earlier route of this name has left")
        return {f"Existing{name}": bucket for name, bucket in left.items()}

    def _deploy_sagemaker(self, scratch: Path, dry_run: bool) -> StackResult:
        outputs = self._route.describe().outputs
        # before the first deployment a dry run has no buckets to name
        buckets = {name: outputs.get(name, f"{self._options.name}-not-made-yet") for name in _BUCKETS}
        code = code_files(scratch) | inference_files()
        folder = Folder(f"code/{digest_of(code)}", code, ENTRY)
        place = Bucket(self._clients, f"s3://{buckets['ArtifactsBucketName']}")
        if not dry_run and place.upload(folder):
            self._watch.say(f"Sent the training's code to {place.uri(folder.key)}/")
        values = sagemaker_parameters(self._options) | buckets | {"CodeUri": place.uri(f"{folder.key}/")}
        values |= self._image() | self._inference_image() | self._wait()
        return self._deploy(self._sagemaker, templates.template(templates.SAGEMAKER_TEMPLATE), values, dry_run)

    def _image(self) -> dict[str, str]:
        """The image of a new stack or of another instance type, where none is given."""
        instance, image = self._options.instance, self._options.image
        before = self._sagemaker.describe().parameters
        if image is not None or (before and instance in (None, before.get("InstanceType"))):
            return {}
        declared = self._sagemaker.defaults(templates.template(templates.SAGEMAKER_TEMPLATE))
        named = instance or before.get("InstanceType") or declared.get("InstanceType", "")
        image = default_image(self._clients.region, named, named="--image is not given")
        return {"TrainingImage": image, "TrainingRepository": repository_of(image)}

    def _inference_image(self) -> dict[str, str]:
        """The image that models are registered with, of a stack that has none, where none is given."""
        if self._options.inference_image is not None or "InferenceImage" in self._sagemaker.describe().parameters:
            return {}
        image = default_image(self._clients.region, "", INFERENCE_IMAGE, "--inference-image is not given")
        return {"InferenceImage": image, "InferenceRepository": repository_of(image)}

    def _wait(self) -> dict[str, str]:
        """How long a spot training may wait, which is no shorter than it may train."""
        plan = self._plan({})
        return {"MaxWaitSeconds": str(max_wait_s(int(plan.training("MaxRuntimeSeconds", self._options.max_runtime_s))))}

    def _deploy(self, stack: Stack, template: str, values: dict[str, str], dry_run: bool) -> StackResult:
        status = stack.describe().status
        if status in UNMADE:
            said = f"The stack {stack.name} is {status}, because it could not be made: {stack.failure() or 'no reason given'}"
            if dry_run:
                self._watch.say(f"{said}. A deployment removes it and makes it anew")
                return StackResult(stack.name, "planned")
            self._watch.say(f"{said}. It is removed and made anew")
            values = stack.kept(template) | values
            stack.delete(self._watch.event)
        given = {tag["Key"]: tag["Value"] for tag in map(tag_of, self._options.tags)}
        kept = {key: value for key, value in stack.describe().tags.items() if not given}
        proposal = stack.propose(template, values, {**kept, **given, _TAG: self._options.name})
        if not proposal.changes:
            return StackResult(stack.name, "unchanged")
        if dry_run:
            stack.discard(proposal)
            return StackResult(stack.name, "planned", proposal.changes)
        self._watch.begin(stack.name, len(proposal.changes))
        stack.execute(proposal, self._watch.event)
        return StackResult(stack.name, "created" if proposal.is_new else "updated", proposal.changes)

    def _put_secret(self, arn: str | None, value: SecretStr, setting: str) -> None:
        """Give a secret of the stack its value, where it has another."""
        if arn is None:
            return
        if not value.get_secret_value():
            self._watch.say(
                f"{setting} is empty: put its value into the secret {arn} yourself, or deploy again with it"
            )
            return
        client = self._clients.client("secretsmanager")
        with explained("secretsmanager:GetSecretValue"):
            before = client.get_secret_value(SecretId=arn)["SecretString"]
        if before != value.get_secret_value():
            with explained("secretsmanager:PutSecretValue"):
                client.put_secret_value(SecretId=arn, SecretString=value.get_secret_value())
            self._watch.say(f"Put {setting} into the secret {arn}")
