"""What a record keeps of payloads with images and audio in them."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logos.gateway.media import without_media

BYTES = bytes(range(256)) * 3 + b"x"  # its base64 has +, / and padding
TEXT = base64.b64encode(BYTES).decode()
IMAGE = f"data:image/png;base64,{TEXT}"
IMAGE_NOTE = f"[image/png, {len(BYTES)} bytes]"
AUDIO_NOTE = f"[audio, {len(BYTES)} bytes]"


def question(*parts: dict[str, Any], **more: object) -> dict[str, Any]:
    asked = {"type": "text", "text": "What is this?"}
    return {"model": "m", "messages": [{"role": "user", "content": [*parts, asked]}], **more}


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


def audio(data: str) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"format": "wav", "data": data}}


def spoken(data: str, transcript: str) -> dict[str, Any]:
    return {"audio": {"id": "audio_1", "transcript": transcript, "data": data, "expires_at": 17}}


@pytest.mark.parametrize("indent", [None, 2])
def test_images_and_audio_of_a_request_are_noted_and_the_rest_stays(indent: int | None) -> None:
    sent = question(image(IMAGE), audio(TEXT), image(IMAGE), audio={"voice": "alloy", "format": "wav"})
    kept = question(image(IMAGE_NOTE), audio(AUDIO_NOTE), image(IMAGE_NOTE), audio={"voice": "alloy", "format": "wav"})
    assert without_media(json.dumps(sent, indent=indent).encode()) == json.dumps(kept, indent=indent).encode()


@pytest.mark.parametrize("kind", ["image/svg+xml", "audio/wav;codecs=1", "video/mp4"])
def test_every_kind_of_data_url_is_noted(kind: str) -> None:
    kept = json.loads(without_media(json.dumps({"url": f"data:{kind};base64,{TEXT}"}).encode()))
    assert kept == {"url": f"[{kind.partition(';')[0]}, {len(BYTES)} bytes]"}


@pytest.mark.parametrize(
    "escaped",
    [
        lambda text: text.replace("/", "\\/"),
        lambda text: text.replace("+", "\\u002B"),
        lambda text: "\\r\\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
    ],
)
def test_other_ways_to_write_the_same_bytes_are_found_too(escaped: Any) -> None:
    url, data = escaped("data:image/png;base64,") + escaped(TEXT), escaped(TEXT)
    body = f'{{"image_url": "{url}", "input_audio": {{"data": "{data}"}}}}'
    assert json.loads(without_media(body.encode())) == {"image_url": IMAGE_NOTE, "input_audio": {"data": AUDIO_NOTE}}


FILE_NOTE = f"[file, {len(BYTES)} bytes]"
PDF_NOTE = f"[application/pdf, {len(BYTES)} bytes]"


@pytest.mark.parametrize(
    ("part", "note"),
    [
        ({"file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,%s"}}, PDF_NOTE),
        ({"file": {"file_data": "%s", "filename": "a.pdf"}}, FILE_NOTE),
        ({"file": {"file_data": "data:text/plain;base64,%s"}}, FILE_NOTE),
        ({"file": {"file_data": "data:;base64,%s"}}, FILE_NOTE),
        ({"image_url": {"url": "data:application/octet-stream;base64,%s"}}, PDF_NOTE.replace("pdf", "octet-stream")),
        ({"source": {"type": "base64", "media_type": "application/pdf", "data": "%s"}}, FILE_NOTE),
        ({"inline_data": {"mime_type": "image/png", "data": "%s"}}, FILE_NOTE),
        ({"b64_json": "%s"}, FILE_NOTE),
    ],
)
def test_files_are_noted_whoever_names_the_fields(part: dict[str, Any], note: str) -> None:
    raw = json.dumps(question(part))
    kept = without_media(raw.replace("%s", TEXT).encode()).decode()
    assert TEXT[:40] not in kept
    (text,) = re.findall(r"\[[\w/-]+, \d+ bytes\]", kept)
    assert text == note
    assert without_media(kept.encode()).decode() == kept


def test_a_document_that_is_text_stays() -> None:
    said = "It was the best of times, it was the worst of times. " * 3
    raw = json.dumps(question({"source": {"type": "text", "media_type": "text/plain", "data": said}})).encode()
    assert without_media(raw) == raw


def test_a_picture_in_the_middle_of_a_text_leaves_the_text() -> None:
    kept = without_media(json.dumps({"content": f"See ![]({IMAGE}) and {IMAGE}\nWhat is it?"}).encode())
    assert json.loads(kept) == {"content": f"See ![]({IMAGE_NOTE}) and {IMAGE_NOTE}\nWhat is it?"}


@pytest.mark.parametrize("transcript", ["", 'He said "{data}": \\', "}{", "Ünïcode\n"])
def test_the_audio_of_an_answer_is_noted_and_its_transcript_stays(transcript: str) -> None:
    def answer(data: str) -> bytes:
        return json.dumps({"choices": [{"message": spoken(data, transcript)}], "usage": {"audio": {}}}).encode()

    assert without_media(answer(TEXT)) == answer(AUDIO_NOTE)


def test_every_event_of_a_stream_is_treated_and_a_cut_off_one_too() -> None:
    def event(data: str) -> bytes:
        return b"data: " + json.dumps({"choices": [{"delta": {"audio": {"data": data}}}]}).encode() + b"\n\n"

    cut = event(TEXT)[:-100]
    kept = without_media(event(TEXT) * 2 + cut)
    assert kept.startswith(event(AUDIO_NOTE) * 2)
    assert TEXT[:8].encode() not in kept
    assert kept.endswith(b" bytes]")


@pytest.mark.parametrize(
    "payload",
    [
        question(image("https://example.com/cat.png")),
        question(text="the word data:image/png and ;base64, and data:text/plain;base64,aGVsbG8="),
        question(tools=[{"data": TEXT}], audio={"voice": "alloy"}, modalities=["text", "audio"]),
        {"choices": [{"message": {"content": "x", "audio": None}}]},
    ],
)
def test_links_and_everything_else_stay_as_they_are(payload: dict[str, Any]) -> None:
    raw = json.dumps(payload).encode()
    assert without_media(raw) == raw


def test_what_was_treated_once_stays_as_it_is() -> None:
    once = without_media(json.dumps(question(image(IMAGE), audio(TEXT))).encode())
    assert without_media(once) == once


@given(st.lists(st.sampled_from([b'"audio":{', b'"data":"', b"data:image/", b";base64,", b"\\", b'"', b"}", b"A"])))
def test_garbage_never_fails(pieces: list[bytes]) -> None:
    without_media(b"".join(pieces))


@pytest.mark.parametrize(
    "piece", ["data:image/x;", "data:image/x;a", "data:image/x;base64,AA\\n", '"audio":{"a', '"file_data":"']
)
def test_a_long_payload_is_read_once_and_not_again_from_each_beginning_in_it(piece: str) -> None:
    """A payload is as long as the client likes; the square of its length would stop the gateway."""
    long = ";base64," + piece * (1_000_000 // len(piece))
    without_media(long.encode())
