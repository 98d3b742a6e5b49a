"""The official openai client for Python, unchanged but for its base URL."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest

from tests.acceptance.conftest import World
from tests.support.logos_up import Platform
from tests.support.raw_upstream import whole
from tests.support.upstream import Received, chat, completion, error

pytestmark = [pytest.mark.ray, pytest.mark.slow]

QUESTION = [{"role": "user", "content": "What is a gateway?"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather — in °C",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
            "strict": True,
        },
    }
]


@pytest.fixture
def client(world: World) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{world.platform.base_url}/v1", api_key=world.key(), max_retries=0) as made:
        yield made


def test_a_chat_is_answered_with_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="llama-3.1-8b", messages=QUESTION, max_tokens=12)  # type: ignore[arg-type]
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 1 <= answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_streamed_chat_arrives_in_parts_and_usage_only_if_asked_for(client: openai.OpenAI) -> None:
    for wanted in (False, True):
        options = {"stream_options": {"include_usage": True}} if wanted else {}
        stream = client.chat.completions.create(
            model="llama-3.1-8b",
            messages=QUESTION,  # type: ignore[arg-type]
            max_tokens=8,
            stream=True,
            **options,  # type: ignore[arg-type]
        )
        chunks = list(stream)
        words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
        usages = [chunk.usage for chunk in chunks if chunk.usage is not None]
        assert len(words) >= 1
        assert len(usages) == (1 if wanted else 0)


def test_embeddings_have_one_vector_for_each_input(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="bge-m3", input=["one text", "another text"])
    assert [each.index for each in answer.data] == [0, 1]
    assert len(answer.data[0].embedding) == len(answer.data[1].embedding) > 1
    assert answer.usage.prompt_tokens > 0


def test_the_models_list_names_what_the_key_may_use(world: World) -> None:
    mine, other = world.model(), world.model()
    key = world.key(models=[mine, "bge-m3"])
    with openai.OpenAI(base_url=f"{world.platform.base_url}/v1", api_key=key) as client:
        listed = [model.id for model in client.models.list()]
        assert sorted(listed) == sorted([mine, "bge-m3"])
        assert client.models.retrieve(mine).id == mine
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(other)


def test_a_tool_call_passes_through_unchanged(world: World, client: openai.OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Köln"}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    said = completion("", choices=[{"index": 0, "message": message, "finish_reason": "tool_calls"}])
    model = world.model(lambda _: [whole(said)])
    messages = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": '{"degrees": 21.50}'},
    ]
    answer = client.chat.completions.with_raw_response.create(
        model=model,
        messages=messages,  # type: ignore[arg-type]
        tools=TOOLS,  # type: ignore[arg-type]
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        parallel_tool_calls=False,
    )
    (received,) = world.upstream.of(model)
    assert received.document["tools"] == TOOLS
    assert received.document["messages"] == messages
    assert received.document["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}
    assert received.document["parallel_tool_calls"] is False
    assert answer.http_response.content == said, "without a price, not a byte may change"
    parsed = answer.parse().choices[0].message.tool_calls
    assert parsed is not None
    assert parsed[0].model_dump() == call


def test_a_field_that_nobody_knows_reaches_the_upstream(world: World, client: openai.OpenAI) -> None:
    model = world.model(chat())
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "weird": [1, {"deep": None}], "big": 2**60}
    client.chat.completions.create(model=model, messages=QUESTION, extra_body=extra)  # type: ignore[arg-type]
    (received,) = world.upstream.of(model)
    assert {name: received.document[name] for name in extra} == extra


def test_the_upstream_sees_its_own_key_and_not_the_clients(world: World) -> None:
    model, key = world.model(chat()), world.key()
    with openai.OpenAI(base_url=f"{world.platform.base_url}/v1", api_key=key) as client:
        client.chat.completions.create(model=model, messages=QUESTION)  # type: ignore[arg-type]
    (received,) = world.upstream.of(model)
    assert received.headers["authorization"] == "Bearer sk-upstream-secret-0123456789"
    assert key not in json.dumps(received.headers) + received.body.decode()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("400 Bad Request", openai.BadRequestError),
        ("429 Too Many Requests", openai.RateLimitError),
        ("500 Internal Server Error", openai.InternalServerError),
    ],
)
def test_an_upstreams_error_is_raised_as_the_right_class(
    world: World, client: openai.OpenAI, status: str, expected: type[openai.APIStatusError]
) -> None:
    model = world.model(error(status))
    with pytest.raises(expected) as caught:
        client.chat.completions.create(model=model, messages=QUESTION)  # type: ignore[arg-type]
    assert type(caught.value) is expected
    assert caught.value.request_id


def test_errors_of_the_gateway_are_raised_as_the_right_class(world: World, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="no-such-model", messages=QUESTION)  # type: ignore[arg-type]
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="llama-3.1-8b", messages=QUESTION, temperature="hot")  # type: ignore[call-overload]
    assert bad.value.param == "temperature"
    stranger = openai.OpenAI(base_url=f"{world.platform.base_url}/v1", api_key="lg-nobody", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_a_limit_is_raised_as_a_rate_limit_error_that_says_when(world: World) -> None:
    model, key = world.model(chat()), world.key(limits={"requests_per_minute": 1})
    with openai.OpenAI(base_url=f"{world.platform.base_url}/v1", api_key=key, max_retries=0) as client:
        client.chat.completions.create(model=model, messages=QUESTION)  # type: ignore[arg-type]
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model=model, messages=QUESTION)  # type: ignore[arg-type]
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 61
    assert len(world.upstream.of(model)) == 1


def test_a_body_without_a_model_is_classified_and_recorded_as_such(world: World, platform: Platform) -> None:
    model = world.model(chat())
    key = world.key(models=[model])
    with openai.OpenAI(base_url=f"{platform.base_url}/v1", api_key=key) as client:
        answer = client.chat.completions.with_raw_response.create(model="auto", messages=QUESTION)  # type: ignore[arg-type]
        client.chat.completions.create(model=model, messages=QUESTION)  # type: ignore[arg-type]
    assert answer.headers["x-logos-model"] == model
    platform.wait_until_settled()
    classified, direct = world.log("classification_statistics")
    assert classified[0] is not None
    assert direct[0] is None


def test_a_priced_answer_says_what_it_cost_and_the_row_says_the_same(world: World, platform: Platform) -> None:
    seen: list[Received] = []

    def answer(request: Received) -> list[bytes]:
        seen.append(request)
        return [whole(completion("Hi", prompt_tokens=1000, completion_tokens=500))]

    model = world.model(answer, priced=True)
    with openai.OpenAI(base_url=f"{platform.base_url}/v1", api_key=world.key()) as client:
        raw = client.chat.completions.with_raw_response.create(model=model, messages=QUESTION)  # type: ignore[arg-type]
    # 1,000 tokens at 1 EUR a million and 500 at 2 EUR a million
    usage = raw.http_response.json()["usage"]
    assert float(raw.headers["x-logos-cost"]) == pytest.approx(0.002)
    assert float(usage["cost"]) == pytest.approx(0.002)
    assert usage["cost_currency"] == "EUR"
    platform.wait_until_settled()
    ((request_id, micro_cents, currency, source),) = world.log(
        "request_id, cost_micro_cents, cost_currency, usage_source"
    )
    assert (request_id, micro_cents, currency, source) == (raw.headers["x-request-id"], 200_000, "EUR", "upstream")
