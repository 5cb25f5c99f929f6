"""Every error the gateway raises on purpose.

A message is written for the person who has to act on it: it names what was wrong, with the numbers, and
what to change. No HTTP here; `protocols.wire_errors` gives each class its status and wire shape.
"""

from pathlib import Path


class GatewayError(Exception):
    """Root of the tree; `str(error)` is fit to show to a client."""


class ConfigError(GatewayError):
    """The configuration cannot be used; raised before anything is started."""


# --- the request is at fault -------------------------------------------------------------------------


class InvalidRequest(GatewayError):
    """A field of the request has a wrong type or value.

    `param` is the field's path as the client wrote it, such as `messages[0].content`.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class UnsupportedParameter(InvalidRequest):
    """The field is a known one, but this server cannot honour it."""


class ContextLengthExceeded(InvalidRequest):
    """The prompt leaves no room for an answer in the model's context.

    It has `at_least` so many tokens if nobody counted them, because the text alone is too long.
    """

    def __init__(
        self, prompt_tokens: int, context_tokens: int, param: str = "messages", *, at_least: bool = False
    ) -> None:
        super().__init__(
            f"This model's maximum context length is {context_tokens} tokens, but the prompt has "
            f"{'at least ' if at_least else ''}{prompt_tokens} tokens, which leaves no room for an answer. "
            f"Shorten the {param}.",
            param=param,
        )
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens


class InputTooLong(ContextLengthExceeded):
    """A text is longer than the model that embeds or ranks it takes at once."""

    def __init__(self, tokens: int, context_tokens: int, param: str, *, at_least: bool = False) -> None:
        InvalidRequest.__init__(
            self,
            f"This model's maximum context length is {context_tokens} tokens, but {param} has "
            f"{'at least ' if at_least else ''}{tokens} tokens. "
            "Shorten it" + (", or set truncate to have only its beginning read." if param != "query" else "."),
            param,
        )


class RequestTooLarge(InvalidRequest):
    """The request would not fit into this server's memory even if it were alone.

    `fitting_tokens` is what would fit, prompt and answer together, in each of `choices` choices. `prompt_field` is what
    the client calls the prompt, `answer_field` what it calls the length of an answer.
    """

    def __init__(
        self,
        prompt_tokens: int,
        max_tokens: int,
        choices: int,
        needed_bytes: int,
        available_bytes: int,
        fitting_tokens: int,
        prompt_field: str = "messages",
        answer_field: str = "max_tokens",
    ) -> None:
        answers = f"up to {max_tokens} tokens of an answer" if choices == 1 else f"{choices} x {max_tokens} of answers"
        if prompt_tokens < fitting_tokens:
            advice = f"Set {answer_field} to at most {fitting_tokens - prompt_tokens}"
        else:
            advice = f"Shorten the {prompt_field}: prompt and answer together may have {max(0, fitting_tokens)} tokens"
        super().__init__(
            f"This request needs {needed_bytes / 2**20:.0f} MiB of memory for {prompt_tokens} tokens of prompt and "
            f"{answers}, but this server can give it at most {max(0, available_bytes) / 2**20:.0f} MiB. "
            f"{advice}{', or ask for fewer choices' if choices > 1 else ''}.",
            param=answer_field if prompt_tokens < fitting_tokens else prompt_field,
        )


class ModelNotFound(InvalidRequest):
    """The model id names no model of this server."""

    def __init__(self, model_id: str, known_ids: list[str]) -> None:
        super().__init__(
            f"The model {model_id!r} does not exist here. Known models: {', '.join(known_ids) or 'none'}.",
            param="model",
        )


class RequestNotKnown(InvalidRequest):
    """Nothing is on record of the request with this id."""

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"Nothing is known of a request {request_id[:80]!r}. The id is in its answer's x-request-id header; only "
            "the latest requests that began to be computed are on record.",
            param="request_id",
        )


class DownloadNotKnown(InvalidRequest):
    """No download has this id."""

    def __init__(self, download_id: str) -> None:
        super().__init__(f"There is no download {download_id[:80]!r}. GET /admin/downloads lists them.", "download_id")


class UploadNotKnown(InvalidRequest):
    """There is no upload with this id."""

    def __init__(self, upload_id: str) -> None:
        super().__init__(
            f"There is no upload {upload_id[:80]!r}; those that nobody adds to are removed after a day. "
            "Begin another one: POST /admin/uploads.",
            "upload_id",
        )


class UploadConflict(InvalidRequest):
    """The upload is not in a state to be written to like that; `offset` bytes of it have arrived."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"The upload cannot be changed like that: {reason}.", "upload-offset")
        self.offset = offset


class OperatorOnly(GatewayError):
    """The admin routes are not for this client."""

    def __init__(self) -> None:
        super().__init__(
            "Without API keys the admin routes answer to programs on the server's own machine only. Make a key there: "
            "`mlx-gateway keys create --name NAME --scope admin`."
        )


class ApiKeyWrong(GatewayError):
    """The request has no API key where one is needed, or none that is valid."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} Send one as `Authorization: Bearer KEY` or as `x-api-key: KEY`.")


class ScopeMissing(GatewayError):
    """The API key is not for this path."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"This API key has not the scope {scope!r}, which this path needs. Use one that has it.")


class HostNotAllowed(GatewayError):
    """The Host header names another server."""

    def __init__(self) -> None:
        super().__init__(
            "The Host header names no server that this one is known as. Use its address or localhost, send an API key, "
            "or add the name to security.allowed_hosts."
        )


class OriginNotAllowed(GatewayError):
    """A web page of another origin asks."""

    def __init__(self) -> None:
        super().__init__(
            "Requests of web pages are refused. If this page may use the server, add its origin to "
            "security.allowed_origins."
        )


class ApiKeyNotKnown(InvalidRequest):
    """No API key has this id or name."""

    def __init__(self, id_or_name: str) -> None:
        super().__init__(f"There is no API key with the id or name {id_or_name[:80]!r}.", "id")


class RateLimited(GatewayError):
    """The API key has used up what it may for now."""

    def __init__(self, limit: int, what: str, retry_after_seconds: int) -> None:
        super().__init__(
            f"This API key may use {limit} {what} and has used them up. Try again in {retry_after_seconds} s."
        )
        self.retry_after_seconds = retry_after_seconds


class BodyTooLarge(GatewayError):
    """The request body exceeds `server.max_body_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The request body is larger than this server's limit of {limit_bytes} bytes.")


# --- the request is fine, the server cannot serve it now ---------------------------------------------


class Overloaded(GatewayError):
    """The waiting queue is full; try again after `retry_after_seconds`."""

    def __init__(self, waiting: int, limit: int, retry_after_seconds: int) -> None:
        super().__init__(
            f"The server is busy: {waiting} requests are waiting and the queue's limit is {limit}. "
            f"Try again in {retry_after_seconds} s."
        )
        self.retry_after_seconds = retry_after_seconds


class ModelUnavailable(GatewayError):
    """The model is configured but could not be loaded, or its engine has stopped."""


class ModelDoesNotFit(ModelUnavailable):
    """There is no room for the model in memory, and none can be made."""

    def __init__(self, model_id: str, why: str) -> None:
        super().__init__(f"{model_id} cannot be loaded: {why}.")


class NoRoomForRequest(ModelUnavailable):
    """The model is in memory, but other models leave the request no room, and none can be made."""

    def __init__(self, model_id: str, why: str) -> None:
        super().__init__(f"There is no memory for this request to {model_id}: {why}.")


class ModelReplaced(ModelUnavailable):
    """While the request waited, other files took the place of the model's."""

    def __init__(self, model_id: str) -> None:
        super().__init__(f"{model_id} was replaced by another version of it. Send the request again.")


class ModelNotPrepared(ModelUnavailable):
    """The model's files could not be had, or its weights not be loaded; that is tried again later."""

    def __init__(self, reason: str, retry_after_seconds: int) -> None:
        super().__init__(f"{reason} It is tried again in {retry_after_seconds} s.")
        self.retry_after_seconds = retry_after_seconds


class LoadCancelled(ModelUnavailable):
    """The model was no longer wanted while it was loaded."""

    def __init__(self) -> None:
        super().__init__("The model's load was given up before it was done. Send the request again.")


class MemoryShort(ModelUnavailable):
    """The model's weights are larger than what others leave of the memory; nothing was read of them."""

    def __init__(self, needed_bytes: int, available_bytes: int, budget_bytes: int) -> None:
        super().__init__(
            f"The model's weights need {needed_bytes / 2**20:.0f} MiB of memory, but of the budget of "
            f"{budget_bytes / 2**20:.0f} MiB the other models and work space leave "
            f"{max(0, available_bytes) / 2**20:.0f} MiB. Evict another model, raise hardware.memory_bytes or "
            "hardware.memory_fraction, or serve a smaller model."
        )
        self.needed_bytes = needed_bytes
        self.available_bytes = available_bytes


class MemoryUnderPressure(GatewayError):
    """The machine is short of memory, and the request is long."""

    def __init__(self, tokens: int, most_tokens: int, retry_after_seconds: int) -> None:
        super().__init__(
            f"This machine is short of memory, so requests of more than {most_tokens} tokens (prompt and answer) are "
            f"not taken now; this one has {tokens}. Try again in {retry_after_seconds} s, or send a shorter one."
        )
        self.retry_after_seconds = retry_after_seconds


class ModelBusy(GatewayError):
    """The model cannot be evicted while it is loaded or serves requests."""

    def __init__(self, model_id: str, doing: str) -> None:
        super().__init__(f"{model_id} cannot be evicted now: {doing}. Try again later.")


class CacheUnusable(GatewayError):
    """What is kept of prompts cannot be written to disk as the configuration asks."""


class GrammarsUnavailable(GatewayError):
    """Grammars cannot be compiled at present; nothing is wrong with the one that was sent."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"Answers cannot be held to a grammar at present: {reason}. Send the request without, or again."
        )


class CrashNotKnown(GatewayError):
    """There is no such report."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no report {name[:80]!r} of a crash; GET /admin/crashes lists all.")


class UsageUnavailable(GatewayError):
    """What was used is not noted, or cannot be read."""


class ShuttingDown(GatewayError):
    """The server is stopping; the request was not, or not fully, served."""

    def __init__(self) -> None:
        super().__init__("The server is shutting down. Send the request again.")


class GenerationFailed(GatewayError):
    """The engine failed while it worked on this request; other requests go on."""


class UnexpectedError(GatewayError):
    """An error that nobody foresaw; its details are for the log, not for clients."""

    def __init__(self) -> None:
        super().__init__("An unexpected error; see the server's log.")


# --- servers elsewhere ------------------------------------------------------------------------------


class UpstreamsDown(ModelUnavailable):
    """None of the servers that run a model answers at present."""

    def __init__(self, model_id: str, why: str, retry_after_seconds: int) -> None:
        super().__init__(
            f"None of the servers that run {model_id} can be used now: {why}. Try again in {retry_after_seconds} s."
        )
        self.retry_after_seconds = retry_after_seconds


class UpstreamFailed(GatewayError):
    """A server elsewhere gave no whole answer. `reason` is one of a fixed set, `sent` says that it had the request."""

    def __init__(self, message: str, reason: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.reason = reason
        self.sent = sent


class UpstreamRefused(GatewayError):
    """A server elsewhere answered with an HTTP error, which is passed on: its `status`, `headers` and `body`.

    `body` is None for one that is no JSON or too long.
    """

    def __init__(self, message: str, status: int, headers: dict[str, str], body: bytes | None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.body = body


class RequestCancelled(GatewayError):
    """An operator ended this request."""

    def __init__(self) -> None:
        super().__init__("The operator of this server cancelled the request.")


# --- models on disk ----------------------------------------------------------------------------------


class ModelStoreError(GatewayError):
    """A model cannot be found, fetched, imported or kept."""


class ModelFilesInvalid(ModelStoreError):
    """The model's files are missing, broken or of a kind the gateway does not read."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path


class NotStored(ModelStoreError):
    """The store has no such model, or no such version of it."""


class DownloadRefused(ModelStoreError):
    """The configuration forbids to download this model, or anything."""


class InsufficientStorage(ModelStoreError):
    """The disk has no room for a file that is to be uploaded."""


class AdapterUnfit(ModelStoreError):
    """A LoRA adapter cannot be served beside its base; the base can."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"The adapter {name!r} cannot be served: {reason}.")


class UntrustedModel(ModelStoreError):
    """The model's folder asks to execute code it carries, which is refused."""
