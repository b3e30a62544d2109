"""What clients send, as OpenAI defines it, with every number bounded.

Fields that Presize does not know are of three kinds: those that would change the answer are refused by name, harmless
ones are passed over, all others are refused as unknown; a null is the same as an absent field.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from presize.engine.sampling_params import (
    MAX_LOGPROBS,
    MAX_N,
    MAX_STOP_LENGTH,
    MAX_STOPS,
    MAX_TOKENS,
    SEED_RANGE,
    SamplingParams,
)

MAX_PROMPTS = 128
MAX_MESSAGES = 4096
MAX_FIELDS = 256
MAX_PRIORITY = 2**31
_TEXT = 2**24  # characters

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Token = Annotated[StrictInt, Field(ge=0, le=2**31)]
Stop = Annotated[StrictStr, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
Text = Annotated[StrictStr, Field(max_length=_TEXT)]
# one error is enough: a million of them would stop the server for seconds
Tokens = Annotated[list[Token], Field(min_length=1, fail_fast=True)]


class Wire(BaseModel):
    """Base: an unknown field is an error that says so."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _few(cls, values: Any) -> Any:
        """Each field that is unknown is an error, and they are all collected before the first is told."""
        if isinstance(values, dict) and len(values) > MAX_FIELDS:
            raise ValueError(f"an object has {len(values)} fields; at most {MAX_FIELDS} are allowed")
        return values


class TextPart(Wire):
    """A part of a message's content. Presize reads text only."""

    type: Literal["text"]
    text: Text


class Message(Wire):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(max_length=1024)]
    name: Annotated[StrictStr, Field(max_length=256)] | None = None

    def plain(self) -> dict[str, str]:
        """As a chat template wants it; ``developer`` is OpenAI's newer word for ``system``."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(Wire):
    """include_usage: one more chunk in the end with the counts; continuous_usage_stats: counts in every chunk."""

    include_usage: StrictBool = False
    continuous_usage_stats: StrictBool = False


class Generation(Wire):
    """Fields that both endpoints share."""

    # would change the answer, and can not be done; but these values ask for nothing
    REFUSED: ClassVar[dict[str, tuple[Any, ...]]] = {
        "best_of": (1,), "logit_bias": ({},), "use_beam_search": (False,), "length_penalty": (1, 1.0),
        "prompt_embeds": (), "structured_outputs": (), "guided_json": (), "guided_regex": (), "guided_choice": (),
        "guided_grammar": (), "response_format": ({"type": "text"},), "bad_words": ([],), "allowed_token_ids": (),
        "truncate_prompt_tokens": (), "prompt_logprobs": (), "logits_processors": ([],), "echo": (False,),
        "include_stop_str_in_output": (False,), "skip_special_tokens": (True,),
    }  # fmt: skip
    PASSED_OVER: ClassVar[frozenset[str]] = frozenset({
        "user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls",
        "spaces_between_special_tokens", "detokenize", "request_id", "prompt_cache_retention",
    })  # fmt: skip

    model: Annotated[StrictStr, Field(max_length=1024)] | None = None
    max_tokens: Annotated[StrictInt, Field(ge=1, le=MAX_TOKENS)] | None = None
    n: Annotated[StrictInt, Field(ge=1, le=MAX_N)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=100)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[StrictInt, Field(ge=-1, le=2**31)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[Number, Field(gt=0, le=100)] | None = None
    seed: Annotated[StrictInt, Field(ge=SEED_RANGE[0], le=SEED_RANGE[1])] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    stop_token_ids: Annotated[list[Token], Field(max_length=MAX_STOPS)] | None = None
    min_tokens: Annotated[StrictInt, Field(ge=0, le=MAX_TOKENS)] | None = None
    ignore_eos: StrictBool | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    priority: Annotated[StrictInt, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] | None = Field(
        None, description="lower goes first"
    )
    return_forecast: StrictBool | None = Field(
        None, description="add an object `presize`: the predicted length, and what became of it"
    )

    @model_validator(mode="before")
    @classmethod
    def _sort_out(cls, values: Any) -> Any:
        """Drop what is null or harmless, refuse by name what can not be done."""
        if not isinstance(values, dict):
            return values
        kept = {}
        for name, value in values.items():
            if value is None or name in cls.PASSED_OVER:
                continue
            if name in cls.REFUSED:
                if value not in cls.REFUSED[name]:
                    raise PydanticCustomError("refused", "{field} is not supported", {"field": name})
                continue
            kept[name] = value
        return kept

    @model_validator(mode="after")
    def _consistent(self) -> Generation:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is allowed only with stream: true")
        return self

    def sampling(self, **more: Any) -> SamplingParams:
        """Sampling parameters; a field that is absent has its default. InvalidRequestError if they clash."""
        names = {f.name for f in fields(SamplingParams)} - {"logprobs", "max_tokens"}
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return SamplingParams(**{**given, **more})


class ChatRequest(Generation):
    """Body of /v1/chat/completions."""

    REFUSED: ClassVar[dict[str, tuple[Any, ...]]] = {
        **Generation.REFUSED,
        "tools": ([],), "tool_choice": ("none",), "functions": ([],), "function_call": ("none",),
        "modalities": (["text"],), "audio": (), "prediction": (), "reasoning_effort": (), "web_search_options": (),
        "verbosity": (), "chat_template": (), "chat_template_kwargs": ({},), "add_generation_prompt": (True,),
        "continue_final_message": (False,),
    }  # fmt: skip

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[StrictInt, Field(ge=1, le=MAX_TOKENS)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs is allowed only with logprobs: true")
        return self

    def params(self) -> SamplingParams:
        """How the answer is drawn; without a limit it may fill the context."""
        limit = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return self.sampling(max_tokens=limit, logprobs=(self.top_logprobs or 0) if self.logprobs else None)


class CompletionRequest(Generation):
    """Body of /v1/completions."""

    REFUSED: ClassVar[dict[str, tuple[Any, ...]]] = {**Generation.REFUSED, "suffix": ("",)}

    prompt: (
        Text
        | Tokens
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
        | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
    )
    logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    def params(self) -> SamplingParams:
        """How the answers are drawn; 16 tokens if nothing is said, as OpenAI has it."""
        return self.sampling(max_tokens=16 if self.max_tokens is None else self.max_tokens, logprobs=self.logprobs)

    def prompts(self) -> list[str | list[int]]:
        """One or several."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        ids = [part for part in prompt if isinstance(part, int)]
        return [ids] if ids else [part for part in prompt if not isinstance(part, int)]


class TokenizeRequest(Wire):
    """Body of /tokenize: ``prompt``, or ``messages`` put into the chat template."""

    model: Annotated[StrictStr, Field(max_length=1024)] | None = None
    prompt: Text | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    add_special_tokens: StrictBool = True

    @model_validator(mode="after")
    def _one(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class DetokenizeRequest(Wire):
    """Body of /detokenize."""

    model: Annotated[StrictStr, Field(max_length=1024)] | None = None
    tokens: Annotated[list[Token], Field(max_length=MAX_TOKENS, fail_fast=True)]
