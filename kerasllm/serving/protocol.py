"""What requests may say, as the `openai` client says it: read from JSON, checked, and refused in one sentence.

Fields that change nothing here, such as `user`, are let through; those that would change the text are refused.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Stop = Annotated[str, Field(min_length=1, max_length=200)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]


class BadRequest(Exception):
    """A request that cannot be answered: a sentence, the field that it is about, and a status."""

    def __init__(self, message, param=None, code=None, status=400):
        super().__init__(message)
        self.message, self.param, self.code, self.status = message, param, code, status


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    model: str | None = None


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool = False


class _Drawing(_Body):
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=0, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    repetition_penalty: float | None = Field(None, gt=0, le=10, allow_inf_nan=False)
    n: int | None = Field(None, ge=1, le=128)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    # What is refused unless it says nothing.
    _unsupported = ("presence_penalty", "frequency_penalty", "logit_bias")

    def check(self):
        """Refuses what would change the text and is not there.

        Raises:
            BadRequest: for the first such field.
        """
        for name in self._unsupported:
            if getattr(self, name):
                raise BadRequest(f"`{name}` is not supported: leave it out.", name, "unsupported_parameter")


class CompletionRequest(_Drawing):
    prompt: str | TokenIds | list[str] | list[TokenIds]
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None

    _unsupported = (*_Drawing._unsupported.default, "echo", "suffix")

    def check(self):
        super().check()
        if self.best_of not in (None, 1, self.n or 1):
            raise BadRequest("`best_of` is not supported: leave it out.", "best_of", "unsupported_parameter")


class TextPart(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    type: Literal["text"]
    text: str


class Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart]

    def plain(self):
        """As chat templates read it."""
        parts = self.content if isinstance(self.content, list) else []
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in parts)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class JsonSchema(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    name: str | None = None
    content: dict | None = Field(None, alias="schema")


class ResponseFormat(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def asked_schema(self):
        """The JSON schema that the answer is to meet, a dict; None where it may be any text.

        Raises:
            BadRequest: if it is not said.
        """
        if self.type == "json_object":
            return {"type": "object"}
        if self.type == "text":
            return None
        if self.json_schema is None or self.json_schema.content is None:
            raise BadRequest("`response_format` lacks `json_schema.schema`.", "response_format")
        return self.json_schema.content


class ChatRequest(_Drawing):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list | None = None
    functions: list | None = None

    _unsupported = (*_Drawing._unsupported.default, "tools", "functions")


class EmbeddingRequest(_Body):
    input: str | list[str] = Field(min_length=1)
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


def read(kind, body):
    """A request of one of these kinds from the bytes of its body.

    Raises:
        BadRequest: if it is none.
    """
    try:
        request = kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part.islower())
        where = f"`{field}`: " if field else ""
        raise BadRequest(f"{where}{first['msg']}."[:500], field or None) from None
    if hasattr(request, "check"):
        request.check()
    return request
