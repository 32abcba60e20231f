"""Each client of OpenAI's API once, as its own documentation has it: `talks.py CLIENT` prints its answers as JSON.

Runs in the environment of requirements.txt; where to ask is in OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

URL, KEY, MODEL = (os.environ[f"OPENAI_{name}"] for name in ("BASE_URL", "API_KEY", "MODEL"))
HI: Any = [{"role": "user", "content": "hi"}]


def of_openai() -> list[Any]:
    import openai

    client = openai.OpenAI()
    options: Any = {"include_usage": True}
    pieces = client.chat.completions.create(model=MODEL, messages=HI, stream=True, stream_options=options)
    with client.chat.completions.stream(model=MODEL, messages=HI) as stream:
        final = stream.get_final_completion()
    return [
        client.chat.completions.create(model=MODEL, messages=HI).choices[0].message.content,
        "".join(piece.choices[0].delta.content or "" for piece in pieces),
        final.choices[0].message.content,
        client.completions.create(model=MODEL, prompt="say hi").choices[0].text,
    ]


def of_langchain() -> list[Any]:
    from langchain_openai import ChatOpenAI, OpenAI

    labels = ("safety_identifier", "prompt_cache_key", "service_tier")
    more = {**dict.fromkeys(labels, "auto"), "modalities": ["text"]}
    chat, labelled = ChatOpenAI(model=MODEL), ChatOpenAI(model=MODEL, model_kwargs={"parallel_tool_calls": True})
    text = OpenAI(model=MODEL, n=2, best_of=2)
    return [
        chat.invoke("hi").content,
        labelled.invoke("hi", **more).content,
        "".join(piece.content for piece in chat.stream("hi", stream_usage=True)),
        *(one.text for many in text.generate(["say hi"] * 21).generations for one in many),
        "".join(OpenAI(model=MODEL).stream("say hi")),
    ]


def of_llama_index() -> list[Any]:
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    chat, text = (
        OpenAILike(model=MODEL, api_base=URL, api_key=KEY, is_chat_model=talks, context_window=4096)
        for talks in (True, False)
    )
    said = [ChatMessage(role="user", content="hi")]
    return [
        chat.chat(said).message.content,
        "".join(piece.delta or "" for piece in chat.stream_chat(said)),
        text.complete("say hi").text,
        "".join(piece.delta or "" for piece in text.stream_complete("say hi")),
    ]


def of_litellm() -> list[Any]:
    import litellm

    way = {"api_base": URL, "api_key": KEY}
    chat: dict[str, Any] = {"model": f"openai/{MODEL}", **way, "messages": HI}
    text = {"model": f"text-completion-openai/{MODEL}", **way, "prompt": "say hi"}
    first = litellm.completion(**chat).choices[0].message
    options = {"user": "me", "parallel_tool_calls": True, "service_tier": "auto", "max_tokens": 5}
    return [
        first.content,
        litellm.completion(**{**chat, "messages": [*HI, first.model_dump(), *HI]}, **options)
        .choices[0]
        .message.content,
        "".join(piece.choices[0].delta.content or "" for piece in litellm.completion(**chat, stream=True)),
        litellm.text_completion(**text).choices[0].text,
        "".join(piece.choices[0].text or "" for piece in litellm.text_completion(**text, stream=True)),
    ]


def of_autogen() -> list[Any]:
    from autogen_agentchat.agents import AssistantAgent
    from autogen_ext.models.openai import OpenAIChatCompletionClient

    can = dict.fromkeys(("vision", "function_calling", "json_output", "structured_output"), False)

    async def talk() -> list[Any]:
        model = OpenAIChatCompletionClient(
            model=MODEL, base_url=URL, api_key=KEY, model_info={**can, "family": "unknown"}
        )
        agent = AssistantAgent("helper", model_client=model)
        stream = AssistantAgent("helper", model_client=model, model_client_stream=True)
        found = [(await one.run(task="hi")).messages[-1].content for one in (agent, agent, stream)]
        await model.close()
        return found

    return asyncio.run(talk())


def of_ag2() -> list[Any]:
    from ag2 import Agent
    from ag2.config import OpenAIConfig

    agent = Agent("helper", prompt="short", config=OpenAIConfig(model=MODEL, base_url=URL, api_key=KEY))
    answer = asyncio.run(agent.ask("hi"))
    return [asyncio.run(answer.content())]


def of_lm_eval() -> list[Any]:
    from lm_eval.api.instance import Instance
    from lm_eval.models.api_models import JsonChatStr
    from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

    chat = LocalChatCompletion(base_url=f"{URL}/chat/completions", model=MODEL)
    text = LocalCompletionsAPI(
        base_url=f"{URL}/completions", model=MODEL, tokenizer_backend=None, tokenized_requests=False
    )

    def asked(context: object) -> list[Any]:
        words = (context, {"until": ["\n"], "max_gen_toks": 16})
        return [Instance(request_type="generate_until", doc={}, arguments=words, idx=0)]

    return [*chat.generate_until(asked(JsonChatStr(json.dumps(HI)))), *text.generate_until(asked("say hi"))]


if __name__ == "__main__":
    print("\n" + json.dumps(globals()[f"of_{sys.argv[1]}"]()))
