"""What requests may say, as the `openai` client says it: read from JSON, checked, and refused in one sentence.

Fields that change nothing here, such as `user`, are let through; those that would change the text are refused.
"""

import base64
import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Stop = Annotated[str, Field(min_length=1, max_length=200)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]


_DATA_URL = re.compile(r"data:image/(?:png|jpeg|jpg|webp|gif);base64,", re.IGNORECASE)


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

    @property
    def num_texts(self):
        """How many texts are to be drawn, behind the name of the field that says so."""
        return "n", self.n or 1

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


class ImageAddress(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    url: str


class ImagePart(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    type: Literal["image_url"]
    image_url: ImageAddress

    def image(self):
        """The bytes of the image.

        Raises:
            BadRequest: where they are not in the address itself; nothing is fetched.
        """
        found = _DATA_URL.match(self.image_url.url)
        try:
            return base64.b64decode(self.image_url.url[found.end() :], validate=True)
        except (AttributeError, ValueError):
            raise BadRequest(
                "An image is given as a data URL, data:image/png;base64,…: other addresses are not fetched.", "messages"
            ) from None


class Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]

    @property
    def images(self):
        """The `ImagePart`s of its content."""
        return [part for part in self.content if isinstance(part, ImagePart)] if isinstance(self.content, list) else []

    def plain(self):
        """As chat templates read it, without images."""
        parts = self.content if isinstance(self.content, list) else []
        texts = (part.text for part in parts if isinstance(part, TextPart))
        return self._as(self.content if isinstance(self.content, str) else "".join(texts))

    def in_parts(self):
        """As `images.chat_prompt` takes it."""
        if isinstance(self.content, str):
            return self._as(self.content)
        return self._as(
            [
                {"type": "text", "text": part.text}
                if isinstance(part, TextPart)
                else {"type": "image", "image": part.image()}
                for part in self.content
            ]
        )

    def _as(self, content):
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
    # Not OpenAI's: the answer is the best of so many, as `kerasllm.dialogue.reply` chooses it.
    candidates: int | None = Field(None, ge=1, le=128)
    min_safety: float | None = Field(None, ge=0, le=1)

    _unsupported = (*_Drawing._unsupported.default, "tools", "functions")

    @property
    def num_texts(self):
        return super().num_texts if self.candidates is None else ("candidates", self.candidates)

    def check(self):
        super().check()
        if self.candidates is not None and ((self.n or 1) > 1 or self.logprobs):
            name = "logprobs" if self.logprobs else "n"
            raise BadRequest(f"`{name}` is not supported beside `candidates`: leave one out.", name)
        if self.candidates is not None and any(message.images for message in self.messages):
            raise BadRequest("`candidates` are judged by texts alone: leave images out.", "candidates")
        if self.candidates is not None and self.messages[-1].role != "user":
            raise BadRequest("With `candidates`, the last message must be the user's.", "messages")


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
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        first = max(errors, key=lambda one: len(one["loc"]))  # of what may be several things, that which is nearest
        field = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part.islower())
        where = f"`{field}`: " if field else ""
        raise BadRequest(f"{where}{first['msg']}."[:500], field or None) from None
    if hasattr(request, "check"):
        request.check()
    return request
