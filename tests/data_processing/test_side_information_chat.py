import pytest
from pydantic import ValidationError

from data_processing.services.protocols import ServiceDown, ServiceError
from data_processing.side_information_chat import answer_model, ask
from tests.data_processing.side_information_fakes import ScriptedChat

MODEL = answer_model(["Create", "Delete"], ["Wall", "Sheet Layer"])
GOOD = '{"summary": " Draws\\n it. ", "classification": "Create", "target": "Sheet Layer"}'


def test_the_schema_lists_the_labels_and_asks_for_every_field() -> None:
    schema = MODEL.model_json_schema()
    assert schema["properties"]["classification"]["enum"] == ["Create", "Delete"]
    assert schema["properties"]["target"]["enum"] == ["Wall", "Sheet Layer"]
    assert sorted(schema["required"]) == ["classification", "summary", "target"]
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("old", "new"), [("Create", "create"), (" Draws\\n it. ", "  "), ('"target"', '"aim"'), ("}", "")]
)
def test_answers_that_do_not_fit(old: str, new: str) -> None:
    with pytest.raises(ValidationError):
        MODEL.model_validate_json(GOOD.replace(old, new))


def test_a_service_error_is_corrected_once_and_a_fence_is_taken_off() -> None:
    chat = ScriptedChat({"x": [ServiceError("3 answers did not fit"), f"```json\n{GOOD}\n```"]})
    reply = ask(chat, "x", MODEL)
    assert reply.answer is not None
    assert (reply.answer.summary, reply.answer.target, reply.corrected) == ("Draws it.", "Sheet Layer", True)
    assert "3 answers did not fit" in chat.asked[1]
    reply = ask(ScriptedChat({"x": ["[]", GOOD.replace("Wall", "Roof").replace("Create", "Roof")]}), "x", MODEL)
    assert reply.answer is None
    assert "classification: Input should be 'Create' or 'Delete'" in reply.reason


def test_a_service_that_is_down_stops_the_run() -> None:
    with pytest.raises(ServiceDown):
        ask(ScriptedChat({"x": ServiceDown("key refused")}), "x", MODEL)
