"""Our check of answers against pydantic's own, on schemas that pydantic writes."""

import json
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_processing.services.json_schema import parse_object
from data_processing.services.protocols import ServiceError


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    id: int
    text: Annotated[str, Field(min_length=1, max_length=3)]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    label: Literal["x", "y"]
    only: Literal["z"]
    maybe: str | None
    inner: Annotated[list[Inner], Field(max_length=2)]
    flag: bool = False


SCHEMA = Model.model_json_schema()
scalars = st.sampled_from(["x", "y", "z", "", "abcd", None, True, 1, 1.5, [], {}])
inners = st.fixed_dictionaries({}, optional={"id": scalars | st.just(1), "text": scalars, "more": scalars})
good_inner = st.fixed_dictionaries({"id": st.just(1), "text": st.just("ab")})
answers = st.fixed_dictionaries(
    {"label": st.just("x") | scalars, "only": st.just("z") | scalars, "maybe": scalars},
    optional={"inner": st.lists(good_inner | inners, max_size=3) | scalars, "flag": scalars, "more": scalars},
)


@given(answers | st.fixed_dictionaries({"label": st.just("x")}))
def test_agrees_with_pydantic(answer):
    text = json.dumps(answer)
    try:
        Model.model_validate_json(text)
        fits = True
    except ValidationError:
        fits = False
    try:
        parse_object(text, SCHEMA)
        ours = True
    except ServiceError:
        ours = False
    assert ours == fits


GOOD = {"label": "x", "only": "z", "maybe": None, "inner": [{"id": 1, "text": "ab"}]}


@pytest.mark.parametrize("form", ["{}", " {} \n", "```json\n{}\n```", "```\n{}```"])
def test_fences_come_off(form):
    assert parse_object(form.replace("{}", json.dumps(GOOD)), SCHEMA) == GOOD


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"label": "q"}, "answer.label is 'q', none of x, y"),
        ({"only": "q"}, "answer.only is 'q', not 'z'"),
        ({"inner": [{"id": 1, "text": "abcd"}]}, r"answer.inner\[0\].text has 4 characters, more than 3"),
        ({"inner": GOOD["inner"] * 3}, "answer.inner has 3 items, more than 2"),
        ({"inner": [{"id": True, "text": "a"}]}, r"answer.inner\[0\].id is not of type integer"),
        ({"more": 1}, "answer has more, which was not asked for"),
    ],
)
def test_the_place_is_named(change, reason):
    with pytest.raises(ServiceError, match=reason):
        parse_object(json.dumps({**GOOD, **change}), SCHEMA)


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", '{"a": NaN}', "[]", '"text"', '{"maybe": "\\ud800"}', "[" * 100_000, "Sure!\nHere it is"]
)
def test_what_is_no_object(text):
    with pytest.raises(ServiceError, match="not JSON|not a JSON object") as caught:
        parse_object(text, SCHEMA)
    assert "\n" not in str(caught.value)
