"""Pipelines of the SageMaker emulator: definitions are executed step by step, each in AWS's own terms.

Schema of a definition: "2020-12-01". Executed are Training, Condition, RegisterModel and Fail steps, in the order in
which they stand.
"""

from __future__ import annotations

import json
import operator
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.aws.hosting_emulator import ACCOUNT, Refusal

if TYPE_CHECKING:
    from tests.aws.sagemaker_emulator.server import Emulator

Json = dict[str, Any]
_TYPES: dict[str, Callable[[Any], Any]] = {"String": str, "Integer": int, "Float": float, "Boolean": bool}
_STEPS = ("Training", "Condition", "RegisterModel", "Fail")
_CONDITIONS: dict[str, Callable[[Any, Any], bool]] = {
    "Equals": operator.eq,
    "GreaterThan": operator.gt,
    "GreaterThanOrEqualTo": operator.ge,
    "LessThan": operator.lt,
    "LessThanOrEqualTo": operator.le,
}
_METRIC = re.compile(r"FinalMetricDataList\['([^']+)'\]\.Value")


class StepFailure(Exception):
    """A step that failed, and the execution with it."""


@dataclass
class Execution:
    """An execution of a pipeline."""

    arn: str
    pipeline: str
    token: str
    values: Json
    created: float
    status: str = "Executing"
    reason: str = ""
    wish: str = ""
    steps: list[Json] = field(default_factory=list)
    outcomes: dict[str, Json] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.arn.rpartition("/")[2]


class Pipelines:
    """Pipelines, their executions, and the models that they register.

    Attributes:
        definitions: of pipelines, by name.
        executions: by ARN, oldest first.
        groups: model packages of each group, oldest first.
    """

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self.definitions: dict[str, Json] = {}
        self.executions: dict[str, Execution] = {}
        self.groups: dict[str, list[Json]] = {}
        self._threads: list[threading.Thread] = []

    def close(self) -> None:
        """Wait for the ends of all executions, whose jobs have ended."""
        for thread in self._threads:
            thread.join()

    # -- pipelines

    def create_pipeline(self, request: Json) -> Json:
        name = request["PipelineName"]
        if name in self.definitions:
            raise Refusal("ValidationException", f"Pipeline names must be unique within an AWS account: {name}")
        self.definitions[name] = _checked(request)
        return {"PipelineArn": _arn(f"pipeline/{name}")}

    def update_pipeline(self, request: Json) -> Json:
        self._definition(request["PipelineName"])
        self.definitions[request["PipelineName"]] = _checked(request)
        return {"PipelineArn": _arn(f"pipeline/{request['PipelineName']}")}

    def delete_pipeline(self, request: Json) -> Json:
        self._definition(request["PipelineName"])
        del self.definitions[request["PipelineName"]]
        return {"PipelineArn": _arn(f"pipeline/{request['PipelineName']}")}

    def describe_pipeline(self, request: Json) -> Json:
        name = request["PipelineName"]
        return {
            "PipelineArn": _arn(f"pipeline/{name}"),
            "PipelineName": name,
            "PipelineStatus": "Active",
            "PipelineDefinition": json.dumps(self._definition(name)),
        }

    # -- models

    def create_model_package_group(self, request: Json) -> Json:
        name = request["ModelPackageGroupName"]
        if name in self.groups:
            raise Refusal("ValidationException", f"Model Package Group already exists: {name}")
        self.groups[name] = []
        return {"ModelPackageGroupArn": _arn(f"model-package-group/{name}")}

    def create_model_package(self, request: Json) -> Json:
        name = request["ModelPackageGroupName"]
        if name not in self.groups:
            raise Refusal("ValidationException", f"Model Package Group {name} does not exist.")
        arn = _arn(f"model-package/{name}/{len(self.groups[name]) + 1}")
        self.groups[name].append({**request, "ModelPackageArn": arn, "CreationTime": time.time()})
        return {"ModelPackageArn": arn}

    def list_model_packages(self, request: Json) -> Json:
        packages = self.groups.get(request.get("ModelPackageGroupName", ""), [])
        return {
            "ModelPackageSummaryList": [
                {"ModelPackageGroupName": one["ModelPackageGroupName"], "ModelPackageArn": one["ModelPackageArn"],
                 "CreationTime": one["CreationTime"], "ModelPackageStatus": "Completed"}
                for one in reversed(packages)
            ]
        }  # fmt: skip

    def package(self, arn: str) -> Json:
        """What was registered under an ARN."""
        for one in (one for packages in self.groups.values() for one in packages):
            if one["ModelPackageArn"] == arn:
                return one
        raise Refusal("ValidationException", f"ModelPackage {arn} does not exist.")

    def update_model_package(self, request: Json) -> Json:
        self.package(request["ModelPackageArn"])["ModelApprovalStatus"] = request["ModelApprovalStatus"]
        return {"ModelPackageArn": request["ModelPackageArn"]}

    def delete_model_package(self, request: Json) -> Json:
        for packages in self.groups.values():
            packages[:] = [one for one in packages if one["ModelPackageArn"] != request["ModelPackageName"]]
        return {}

    def delete_model_package_group(self, request: Json) -> Json:
        if self.groups.get(request["ModelPackageGroupName"]):
            raise Refusal("ConflictException", "Model Package Group cannot be deleted: it has model packages.")
        self.groups.pop(request["ModelPackageGroupName"], None)
        return {}

    # -- executions

    def start_pipeline_execution(self, request: Json) -> Json:
        name = request["PipelineName"]
        definition = self._definition(name)
        values = _values(definition, request.get("PipelineParameters", []))
        token = request.get("ClientRequestToken") or uuid.uuid4().hex
        for arn, execution in self.executions.items():
            if (execution.pipeline, execution.token) == (name, token):
                return {"PipelineExecutionArn": arn}
        arn = _arn(f"pipeline/{name}/execution/{uuid.uuid4().hex[:12]}")
        execution = Execution(arn, name, token, values, time.time())
        self.executions[arn] = execution
        thread = threading.Thread(target=self._execute, args=(execution, definition["Steps"]))
        self._threads.append(thread)
        thread.start()
        return {"PipelineExecutionArn": arn}

    def describe_pipeline_execution(self, request: Json) -> Json:
        return _summary(self._execution(request))

    def list_pipeline_executions(self, request: Json) -> Json:
        self._definition(request["PipelineName"])
        after = request.get("CreatedAfter", 0)
        found = [one for one in self.executions.values() if one.pipeline == request["PipelineName"]]
        if request.get("SortOrder", "Descending") == "Descending":
            found.reverse()
        return {"PipelineExecutionSummaries": [_listed(one) for one in found if one.created >= after]}

    def list_pipeline_execution_steps(self, request: Json) -> Json:
        steps = [dict(step) for step in self._execution(request).steps]
        if request.get("SortOrder", "Descending") == "Descending":
            steps.reverse()
        return {"PipelineExecutionSteps": steps}

    def stop_pipeline_execution(self, request: Json) -> Json:
        execution = self._execution(request)
        if execution.status != "Executing":
            raise Refusal("ValidationException", f"The execution is {execution.status}: it cannot be stopped.")
        execution.status, execution.wish = "Stopping", "stop"
        for step in execution.steps:
            if "TrainingJob" in step["Metadata"] and step["StepStatus"] == "Executing":
                name = step["Metadata"]["TrainingJob"]["Arn"].rpartition("/")[2]
                self._emulator.stop_training_job({"TrainingJobName": name})
        return {"PipelineExecutionArn": execution.arn}

    # -- an execution's life, in a thread

    def _execute(self, execution: Execution, steps: list[Json]) -> None:
        try:
            self._run(execution, steps)
            status = "Stopped" if execution.wish else "Succeeded"
        except StepFailure:
            status = "Stopped" if execution.wish else "Failed"
            execution.reason = "" if execution.wish else "Step failure: One or multiple steps failed."
        except Exception as error:  # noqa: BLE001 - a broken emulator must fail the test, not hang it
            status, execution.reason = "Failed", f"InternalServerError: {type(error).__name__}: {error}"
        execution.status = status

    def _run(self, execution: Execution, steps: list[Json]) -> None:
        for step in steps:
            if execution.wish:
                return
            told: Json = {
                "StepName": step["Name"], "StepStatus": "Executing", "StartTime": time.time(), "Metadata": {},
            }  # fmt: skip
            execution.steps.append(told)
            try:
                following = getattr(self, f"_{step['Type'].lower()}")(execution, step, told)
            except (StepFailure, Refusal) as failure:
                told |= {"StepStatus": "Failed", "EndTime": time.time(), "FailureReason": str(failure)}
                raise StepFailure(str(failure)) from failure
            told |= {"StepStatus": "Succeeded", "EndTime": time.time()}
            self._run(execution, following)

    def _training(self, execution: Execution, step: Json, told: Json) -> list[Json]:
        name = f"pipelines-{execution.id}-{step['Name']}-{uuid.uuid4().hex[:10]}"
        request = {"TrainingJobName": name, **self._filled(step["Arguments"], execution)}
        self._emulator.check("CreateTrainingJob", request)
        with self._emulator.lock:
            told["Metadata"] = {"TrainingJob": {"Arn": self._emulator.create_training_job(request)["TrainingJobArn"]}}
        job = self._emulator.jobs[name]
        while job.description["TrainingJobStatus"] in ("InProgress", "Stopping"):
            time.sleep(0.02)
        execution.outcomes[step["Name"]] = job.description
        if job.description["TrainingJobStatus"] != "Completed":
            reason = job.description.get("FailureReason", "")
            raise StepFailure(f"ClientError: Training job {name} {job.description['TrainingJobStatus']}. {reason}")
        return []

    def _condition(self, execution: Execution, step: Json, told: Json) -> list[Json]:
        arguments = step["Arguments"]
        holds = all(
            _CONDITIONS[one["Type"]](
                self._filled(one["LeftValue"], execution), self._filled(one["RightValue"], execution)
            )
            for one in arguments["Conditions"]
        )
        told["Metadata"] = {"Condition": {"Outcome": str(holds)}}
        return list(arguments["IfSteps" if holds else "ElseSteps"])

    def _registermodel(self, execution: Execution, step: Json, told: Json) -> list[Json]:
        request = self._filled(step["Arguments"], execution)
        self._emulator.check("CreateModelPackage", request)
        with self._emulator.lock:
            told["Metadata"] = {"RegisterModel": {"Arn": self.create_model_package(request)["ModelPackageArn"]}}
        return []

    def _fail(self, execution: Execution, step: Json, told: Json) -> list[Json]:
        message = self._filled(step["Arguments"]["ErrorMessage"], execution)
        told["Metadata"] = {"Fail": {"ErrorMessage": message}}
        raise StepFailure(message)

    def _filled(self, value: Any, execution: Execution) -> Any:
        """Arguments of a step with the values of what they refer to."""
        if isinstance(value, dict):
            if set(value) == {"Get"}:
                return _referred(value["Get"], execution)
            if set(value) == {"Std:Join"}:
                joined = [str(self._filled(item, execution)) for item in value["Std:Join"]["Values"]]
                return str(value["Std:Join"]["On"]).join(joined)
            return {name: self._filled(item, execution) for name, item in value.items()}
        return [self._filled(item, execution) for item in value] if isinstance(value, list) else value

    # -- inside

    def _definition(self, name: str) -> Json:
        if name not in self.definitions:
            raise Refusal("ResourceNotFound", f"Pipeline {name} does not exist.")
        return self.definitions[name]

    def _execution(self, request: Json) -> Execution:
        found = self.executions.get(request["PipelineExecutionArn"])
        if found is None:
            raise Refusal("ResourceNotFound", f"Pipeline execution {request['PipelineExecutionArn']} does not exist.")
        return found


def _referred(path: str, execution: Execution) -> Any:
    """The value of Parameters.X, Execution.X or Steps.NAME.PATH."""
    kind, _, rest = path.partition(".")
    if kind == "Parameters":
        return execution.values[rest]
    if kind == "Execution":
        named = {"PipelineExecutionId": execution.id, "PipelineExecutionArn": execution.arn}
        return {**named, "PipelineName": execution.pipeline}[rest]
    step, _, rest = rest.partition(".")
    value: Any = execution.outcomes[step]
    if metric := _METRIC.fullmatch(rest):
        values = {one["MetricName"]: one["Value"] for one in value["FinalMetricDataList"]}
        if metric[1] not in values:
            raise StepFailure(f"ClientError: The training job has no metric {metric[1]}.")
        return values[metric[1]]
    for name in rest.split("."):
        value = value[name]
    return value


def _values(definition: Json, given: list[Json]) -> Json:
    """The values of an execution's parameters, each of its type."""
    declared = {item["Name"]: item for item in definition.get("Parameters", [])}
    values = {name: item["DefaultValue"] for name, item in declared.items() if "DefaultValue" in item}
    for item in given:
        if item["Name"] not in declared:
            raise Refusal("ValidationException", f"The pipeline has no parameter {item['Name']}")
        values[item["Name"]] = item["Value"]
    if missing := sorted(declared.keys() - values.keys()):
        raise Refusal("ValidationException", f"Assigned values are required for the parameters {missing}")
    try:
        return {name: _TYPES[declared[name]["Type"]](value) for name, value in values.items()}
    except ValueError as error:
        raise Refusal("ValidationException", f"A parameter is of another type: {error}") from error


def _checked(request: Json) -> Json:
    """A request's definition, which names known steps and refers to what is there."""
    try:
        definition: Json = json.loads(request["PipelineDefinition"])
    except (KeyError, ValueError) as error:
        raise Refusal("ValidationException", f"The pipeline's definition is no JSON: {error}") from error
    if definition.get("Version") != "2020-12-01" or not definition.get("Steps"):
        raise Refusal("ValidationException", "A definition has the Version 2020-12-01, and Steps")
    names = {item["Name"] for item in definition.get("Parameters", [])}
    for step in _steps(definition["Steps"]):
        if step["Type"] not in _STEPS:
            raise Refusal("ValidationException", f"Step {step['Name']}: the emulator has no {step['Type']}")
    for path in re.findall(r'"Get": "Parameters\.(\w+)"', json.dumps(definition)):
        if path not in names:
            raise Refusal("ValidationException", f"The definition refers to Parameters.{path}, which is not declared")
    return definition


def _steps(steps: list[Json]) -> list[Json]:
    """Steps, with those within conditions."""
    found = []
    for step in steps:
        arguments = step.get("Arguments", {})
        found += [step, *_steps(arguments.get("IfSteps", [])), *_steps(arguments.get("ElseSteps", []))]
    return found


def _listed(execution: Execution) -> Json:
    """What a list tells of an execution: as a description, under other names."""
    summary = _summary(execution)
    reason = {"PipelineExecutionFailureReason": execution.reason} if execution.reason else {}
    kept = ("PipelineExecutionArn", "PipelineExecutionStatus", "StartTime")
    return {name: summary[name] for name in kept} | reason


def _summary(execution: Execution) -> Json:
    reason = {"FailureReason": execution.reason} if execution.reason else {}
    return {
        "PipelineExecutionArn": execution.arn,
        "PipelineExecutionStatus": execution.status,
        "StartTime": execution.created,
        "CreationTime": execution.created,
        **reason,
    }


def _arn(resource: str) -> str:
    return f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:{resource}"
