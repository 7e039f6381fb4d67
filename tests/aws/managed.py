"""What tests of the managed route share: events as Label Studio sends them, and a pipeline on the SageMaker emulator."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.aws.sagemaker_emulator import Emulator

PAYLOADS = Path(__file__).parents[1] / "payloads"
PROJECT = "29.1795383040"
Json = dict[str, Any]


def recorded(name: str) -> Json:
    """The body of a webhook that Label Studio 1.23.2 sent."""
    found: Json = json.loads((PAYLOADS / name).read_text("utf-8"))[0]["body"]
    return found


def created(number: int, **fields: Any) -> Json:
    """The event of one new annotation."""
    event = recorded("10_webhook_ANNOTATION_CREATED.json")
    event["annotation"] |= {"id": number, **fields}
    return event


def bulk(numbers: Iterable[int], **fields: Any) -> Json:
    """The event of predictions that were turned into annotations."""
    one = recorded("10_webhook_ANNOTATION_CREATED.json")
    annotations = [{**one["annotation"], "id": number, "task": 1000 + number, **fields} for number in numbers]
    tasks = [{"id": annotation["task"]} for annotation in annotations]
    return {"action": "ANNOTATIONS_CREATED", "project": one["project"], "annotation": annotations, "task": tasks}


def connect(s3: Any, artifacts: str, key: str = PROJECT) -> None:
    """A project's description, as `segloop aws connect` writes it."""
    number = int(key.partition(".")[0])
    description = {"project": number, "key": key, "label_config": "<View/>"}
    s3.put_object(Bucket=artifacts, Key=f"projects/{number}/project.json", Body=json.dumps(description).encode())


def save(s3: Any, target: str, number: int, project: int = 29, **fields: Any) -> None:
    """An annotation in the target bucket, as Label Studio saves it."""
    annotation = created(number, **fields)["annotation"] | {"project": project}
    annotation["task"] = {"id": 1000 + number, "data": {"image": "s3://photos/1.png"}, "project": project}
    s3.put_object(Bucket=target, Key=f"projects/{project}/{number}", Body=json.dumps(annotation).encode())


def add_pipeline(emulator: Emulator, name: str) -> None:
    """A pipeline that takes the parameters of a launch, and has nothing to do."""
    parameters = [{"Name": "ProjectId", "Type": "String"}, {"Name": "Generation", "Type": "String"}]
    nothing = {"Conditions": [], "IfSteps": [], "ElseSteps": []}
    steps = [{"Name": "Nothing", "Type": "Condition", "Arguments": nothing}]
    definition = {"Version": "2020-12-01", "Parameters": parameters, "Steps": steps}
    emulator.flow.create_pipeline({"PipelineName": name, "PipelineDefinition": json.dumps(definition)})


def launches(emulator: Emulator) -> list[tuple[str, int]]:
    """Project and generation of each execution that was started, sorted."""
    given = [execution.values for execution in list(emulator.executions.values())]
    return sorted((item["ProjectId"], int(item["Generation"])) for item in given)


def counts(dynamodb: Any, table: str, project: str = PROJECT) -> dict[str, int]:
    """`pending`, `counted` and `generation` of a project."""
    key = {"pk": {"S": "projects"}, "sk": {"S": project}}
    item = dynamodb.get_item(TableName=table, Key=key, ConsistentRead=True).get("Item", {})
    return {name: int(value["N"]) for name, value in item.items() if "N" in value}
