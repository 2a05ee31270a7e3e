"""Messages over gRPC beside Google's own runtime, and bytes that are no message."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.serving import kserve_grpc as ours
from recsys.serving import wire
from tests import kserve_grpc as google

FIELDS = [wire.Field("timestamp", "time"), wire.Field("item_id", "text"), wire.Field("level", "number", once=True)]


def test_messages_are_those_of_protocol_buffers() -> None:
    """The same bytes as Google's runtime writes, with shapes whose numbers take several bytes too."""
    names = np.empty((300, 1), dtype=object)
    names[:] = "Wände".encode()
    tensors = {"item_id": names, "level": np.arange(300, dtype="<f8")[:, None], "k": np.full((300, 1), 5, "<i4")}
    assert ours.dump_request("fused", tensors) == google.request_of("fused", tensors)
    answer = google.MESSAGES["ModelInferResponse"](
        model_name="m",
        outputs=google.described(tensors),
        raw_output_contents=[google.raw(values) for values in tensors.values()],
    )
    for name, values in ours.load_answer(answer.SerializeToString()).items():
        assert values.dtype == tensors[name].dtype and np.array_equal(values, tensors[name])
    for ready in (True, False):
        assert ours.load_ready(google.MESSAGES["ModelReadyResponse"](ready=ready).SerializeToString()) is ready


def test_metadata_is_that_of_the_protocols_json() -> None:
    inputs, outputs = wire.signature(FIELDS)
    message = google.MESSAGES["ModelMetadataResponse"](name="m", versions=["1"], inputs=inputs, outputs=outputs)
    assert ours.load_metadata(message.SerializeToString()) == {"inputs": inputs, "outputs": outputs}


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(message: bytes) -> None:
    for read in (ours.load_answer, ours.load_metadata, ours.load_ready):
        try:
            read(message)
        except wire.WireError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("message", [b"\x2a\x05ab", b"\x2a", b"\xff" * 11, b"\x09abc", b"\x0d"])
def test_what_is_cut_off(message: bytes) -> None:
    with pytest.raises(wire.WireError, match="the message is cut off"):
        ours.load_answer(message)
