from __future__ import annotations

from typing import Any

import pytest

from segloop.aws.route.options import Options
from segloop.aws.route.preflight import Checked, Plan, Preflight
from segloop.errors import TrainerRefused

DEFAULTS = {"InstanceType": "ml.g4dn.xlarge", "UseSpot": "false"}


class Account:
    """Stands for an account's Lambda and Service Quotas; no emulator has both."""

    def __init__(self, unreserved: int = 1000, **quotas: float) -> None:
        self.region = "eu-west-1"
        self.unreserved, self.refused = unreserved, False
        self.quotas = {"ml.g4dn.xlarge for training job usage": 1.0, **quotas}

    def client(self, service: str) -> Account:
        if self.refused:
            raise TrainerRefused(f"AWS does not allow {service}")
        return self

    def get_account_settings(self) -> Any:
        return {"AccountLimit": {"ConcurrentExecutions": 1000, "UnreservedConcurrentExecutions": self.unreserved}}

    def get_paginator(self, operation: str) -> Account:
        return self

    def paginate(self, *, ServiceCode: str) -> Any:  # noqa: N803
        return [{"Quotas": [{"QuotaName": name, "Value": value} for name, value in self.quotas.items()]}]


def check(account: Account, *, route: Any = None, sagemaker: Any = None, **options: Any) -> Checked:
    plan = Plan(Options("street", is_checked=False, **options), route or {}, sagemaker or {}, DEFAULTS)
    return Preflight(account, plan).run()  # type: ignore[arg-type]


def test_an_account_that_has_it_all_is_let_through() -> None:
    checked = check(Account())
    assert (checked.problems, checked.notes) == ((), ())
    assert checked.options.receiver_concurrency is None


@pytest.mark.parametrize("unreserved", [10, 50, 113])
def test_a_new_account_reserves_only_what_it_may(unreserved: int) -> None:
    checked = check(Account(unreserved))
    assert checked.problems == ()
    assert (checked.options.receiver_concurrency, checked.options.worker_concurrency) == (0, 0)
    assert "No concurrency is reserved" in checked.notes[0]
    (problem,) = check(Account(unreserved), receiver_concurrency=10, worker_concurrency=5).problems
    assert "--receiver-concurrency and --worker-concurrency need 15" in problem
    assert check(Account(unreserved), receiver_concurrency=0, worker_concurrency=0).problems == ()


def test_what_the_route_has_reserved_is_its_own() -> None:
    before = {"ReceiverConcurrency": "10", "WorkerConcurrency": "4"}
    assert check(Account(100), route=before).notes == ()
    assert check(Account(100), route=before, worker_concurrency=5).problems


def test_a_quota_of_none_is_found_before_anything_is_made() -> None:
    quotas = {"ml.g4dn.xlarge for training job usage": 0.0, "ml.g4dn.xlarge for spot training job usage": 4.0}
    (problem,) = check(Account(**quotas)).problems
    assert "'ml.g4dn.xlarge for training job usage' of SageMaker is 0 in eu-west-1" in problem
    assert check(Account(**quotas), spot=True).problems == ()
    assert check(Account(**quotas), target="segloop", segloop_url="https://a.b").problems == ()
    # a route that is there trains already
    assert check(Account(**quotas), sagemaker=DEFAULTS).problems == ()
    assert check(Account(**quotas), sagemaker={**DEFAULTS, "UseSpot": "true"}, spot=False).problems


def test_a_region_without_the_image_is_found_before_anything_is_made() -> None:
    account = Account()
    account.region = "us-iso-east-1"
    training, inference = check(account).problems
    assert training.startswith("--image is not given, and segloop does not know where AWS keeps its images for us-iso")
    assert inference.startswith("--inference-image is not given")
    assert "give the pytorch-inference image" in inference
    own = "123456789012.dkr.ecr.us-iso-east-1.amazonaws.com/own:1"
    assert check(account, image=own).problems == (inference,)
    assert check(account, image=own, inference_image=own).problems == ()
    assert check(account, sagemaker={**DEFAULTS, "InferenceImage": own}).problems == ()


def test_every_finding_is_told() -> None:
    account = Account(50, **{"ml.g4dn.xlarge for training job usage": 0.0})
    account.region = "mars-1"
    checked = check(account, annotations=0, endpoint="street", receiver_concurrency=10)
    words = ("--annotations", "--label-studio-url", "--receiver-concurrency", "mars-1", "--inference-image", "quota")
    assert len(checked.problems) == len(words)
    assert all(word in problem for word, problem in zip(words, checked.problems, strict=True))


def test_what_the_account_does_not_tell_is_said() -> None:
    account = Account()
    account.refused = True
    checked = check(account)
    assert checked.problems == ()
    assert len(checked.notes) == 2
    assert all("is not checked" in note for note in checked.notes)
