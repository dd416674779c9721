"""The fields of requests, as OpenAI's API names them. A field that is not here is refused.

Beside OpenAI's, there are three that other servers also have: `top_k`, `min_p` and
`repetition_penalty`. `user` is accepted, since it never changes an answer.

What this leaves out: answers (completions.py).
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lm_core.user_error import UserError

MOST_STOP_STRINGS = 16
LONGEST_STOP_STRING = 1000
MOST_SAMPLES = 64
MOST_DIGITS = 12  # of a token id
MOST_INPUTS = 2048
# fail_fast: otherwise a list of a million wrong numbers gives a million errors.
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]
Texts = Annotated[list[str], Field(min_length=1, max_length=MOST_INPUTS, fail_fast=True)]
ListsOfIds = Annotated[list[TokenIds], Field(min_length=1, max_length=MOST_INPUTS, fail_fast=True)]
StopString = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP_STRING)]
StopStrings = Annotated[list[StopString], Field(max_length=MOST_STOP_STRINGS, fail_fast=True)]


class Fields(BaseModel):
    """The base of all: unknown fields are errors, numbers are not read from text, and null stands
    for the default.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, fields: object) -> object:
        if not isinstance(fields, dict):
            return fields
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {key: v for key, v in fields.items() if v is not None or key not in known}


class StreamOptions(Fields):
    include_usage: bool = False


class SamplingFields(Fields):
    """The fields of both kinds of requests.

    Attributes:
        seed: the same seed, prompt and settings give the same answer; drawn at random if missing.
        stop: one string or several, which end the answer and do not belong to it.
    """

    model: str | None = None
    temperature: float = Field(1.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0, le=100)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] = Field(default_factory=dict)
    seed: int | None = Field(None, ge=0, lt=2**63)
    n: int = Field(1, ge=1, le=MOST_SAMPLES)
    stop: StopStrings = Field(default_factory=list)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_several(cls, stop: object) -> object:
        return [stop] if isinstance(stop, str) else stop

    @model_validator(mode="after")
    def _check_options(self) -> "SamplingFields":
        if self.stream_options is not None and not self.stream:
            raise UserError("stream_options needs stream = true")
        for key in self.logit_bias:
            if not (key.isascii() and key.isdecimal() and len(key) < MOST_DIGITS):
                raise UserError(f"logit_bias: {key[:MOST_DIGITS]!r} is not a token id")
        return self


class CompletionFields(SamplingFields):
    """/v1/completions: continue a text, several texts, or token ids."""

    prompt: str | TokenIds | Texts | ListsOfIds
    max_tokens: int = Field(16, ge=1)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: Literal[False] = False


class TextPart(Fields):
    type: Literal["text"]
    text: str


class CalledFunction(Fields):
    name: str
    arguments: str


class ToolCall(Fields):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Fields):
    """One message. Images and sound are not supported."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class FunctionDescription(Fields):
    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Fields):
    type: Literal["function"]
    function: FunctionDescription

    def as_json(self) -> dict[str, Any]:
        """Return the tool as chat templates read it."""
        return self.model_dump(exclude_none=True)


class FunctionName(Fields):
    name: str


class ChosenTool(Fields):
    type: Literal["function"]
    function: FunctionName


class JsonSchema(Fields):
    name: str = "answer"
    description: str | None = None
    json_schema: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Fields):
    """Free text, any JSON object, or JSON by a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise UserError("the type json_schema goes with a json_schema")
        return self


class ChatFields(SamplingFields):
    """/v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool = True

    @model_validator(mode="after")
    def _check_together(self) -> "ChatFields":
        if self.top_logprobs is not None and not self.logprobs:
            raise UserError("top_logprobs needs logprobs = true")
        both = self.max_tokens, self.max_completion_tokens
        if None not in both and both[0] != both[1]:
            raise UserError("max_tokens and max_completion_tokens differ; give one of them")
        names = [tool.function.name for tool in self.tools or []]
        if isinstance(self.tool_choice, ChosenTool) and self.tool_choice.function.name not in names:
            raise UserError(f"tool_choice: no tool is named {self.tool_choice.function.name!r}")
        if self.tool_choice == "required" and not names:
            raise UserError("tool_choice: required needs tools")
        if len(names) != len(set(names)):
            raise UserError("tools: two of them have the same name")
        if self.offered_tools and not self.parallel_tool_calls and not self.must_call:
            raise UserError(
                "parallel_tool_calls: false needs tool_choice required or a function's name; "
                "otherwise, the number of calls is not limited"
            )
        return self

    @property
    def offered_tools(self) -> list[Tool] | None:
        """The tools that the model is told of; None for none."""
        return None if self.tool_choice == "none" else self.tools or None

    @property
    def must_call(self) -> bool:
        """Whether the answer must be a call."""
        return self.tool_choice == "required" or isinstance(self.tool_choice, ChosenTool)

    @property
    def callable_tools(self) -> list[Tool]:
        """The tools that the answer may call."""
        tools = self.offered_tools or []
        if not isinstance(self.tool_choice, ChosenTool):
            return tools
        return [tool for tool in tools if tool.function.name == self.tool_choice.function.name]

    @property
    def most_tokens(self) -> int | None:
        """The limit of the answer, None for what is left of the context."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class EmbeddingFields(Fields):
    """/v1/embeddings."""

    model: str | None = None
    input: str | TokenIds | Texts | ListsOfIds
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None


class TokenizeFields(Fields):
    """/tokenize: the ids of a text, or of a conversation up to the assistant's next message."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "TokenizeFields":
        if (self.prompt is None) == (self.messages is None):
            raise UserError("give either prompt or messages")
        return self
