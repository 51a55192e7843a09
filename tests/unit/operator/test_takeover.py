from __future__ import annotations

from typing import Any

import pytest

from podwire_operator.takeover import taken_over

OURS = "podwire-operator"
RESTARTED: dict[str, Any] = {"f:kubectl.kubernetes.io/restartedAt": {}}


def managed(manager: str, fields: Any, operation: str = "Update", **more: Any) -> dict[str, Any]:
    return {"manager": manager, "operation": operation, "apiVersion": "apps/v1", "fieldsV1": fields, **more}


def template(fields: Any) -> dict[str, Any]:
    return {"f:spec": {"f:template": fields}}


def annotated(fields: Any) -> dict[str, Any]:
    return template({"f:metadata": {"f:annotations": fields}})


MINE = managed(OURS, {"f:spec": {"f:selector": {}}}, "Apply")


def after(*others: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The managedFields that the patch makes; None where there is nothing to do."""
    live = {"metadata": {"resourceVersion": "7", "managedFields": [MINE, *others]}}
    patch = taken_over(live, OURS)
    if patch is None:
        return None
    assert patch[0] == {"op": "test", "path": "/metadata/resourceVersion", "value": "7"}
    made: list[dict[str, Any]] = patch[1]["value"]
    return made


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(managed("kubectl", annotated({".": {}, **RESTARTED})), id="a restart by kubectl"),
        pytest.param(managed("controller", {"f:status": {}}, subresource="status"), id="the controller's status"),
        pytest.param(
            managed("scaler", {"f:spec": {"f:replicas": {}}}, subresource="scale"), id="what belongs to a subresource"
        ),
        pytest.param(managed("person", {"f:metadata": {"f:annotations": {"f:theirs": {}}}}), id="an annotation"),
    ],
)
def test_what_is_nobodys_business_is_left(other: dict[str, Any]) -> None:
    assert after(other) is None


def test_what_somebody_added_under_spec_becomes_ours() -> None:
    fields = {"f:metadata": {"f:labels": {"f:theirs": {}}}, **template({"f:spec": {"f:hostPID": {}}})}
    assert after(managed("person", fields)) == [
        managed(OURS, {"f:spec": {"f:selector": {}, "f:template": {"f:spec": {"f:hostPID": {}}}}}, "Apply"),
        managed("person", {"f:metadata": {"f:labels": {"f:theirs": {}}}}),
    ]


def test_whoever_has_nothing_left_is_not_told_of_any_more() -> None:
    assert after(managed("person", template({"f:spec": {"f:hostPID": {}}}))) == [
        managed(OURS, {"f:spec": {"f:selector": {}, "f:template": {"f:spec": {"f:hostPID": {}}}}}, "Apply")
    ]


def test_a_restart_stays_where_its_author_also_added_something() -> None:
    fields = template({"f:metadata": {"f:annotations": {"f:x": {}, **RESTARTED}}, "f:spec": {"f:hostPID": {}}})
    made = after(managed("person", fields))
    assert made is not None
    assert made[1] == managed("person", annotated(RESTARTED))
    assert made[0]["fieldsV1"]["f:spec"]["f:template"] == {
        "f:metadata": {"f:annotations": {"f:x": {}}},
        "f:spec": {"f:hostPID": {}},
    }


def test_an_object_that_somebody_else_made_gets_an_entry_of_ours() -> None:
    live = {
        "apiVersion": "apps/v1",
        "metadata": {"resourceVersion": "7", "managedFields": [managed("person", {"f:spec": {"f:selector": {}}})]},
    }
    patch = taken_over(live, OURS)
    assert patch is not None
    (entry,) = patch[1]["value"]
    assert (entry["manager"], entry["operation"], entry["fieldsV1"]) == (OURS, "Apply", {"f:spec": {"f:selector": {}}})


def test_an_object_that_is_all_ours_is_left() -> None:
    assert after() is None
    assert taken_over({"metadata": {}}, OURS) is None
