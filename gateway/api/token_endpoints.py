"""Endpoints that count tokens."""

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.json_response import json_response
from gateway.api.warning_header import warning_headers
from gateway.protocols.json_body import decode_body, ignored_fields
from gateway.protocols.tokenization import Detokenized, DetokenizeRequest, Tokenized, to_tokenize, tokenize_ignored
from gateway.serving.tokens import TokenServing


class TokenEndpoints:
    def __init__(self, tokens: TokenServing) -> None:
        self._tokens = tokens

    async def tokenize(self, request: Request) -> Response:
        """POST /v1/tokenize"""
        body = await request.body()
        fields, prompt = to_tokenize(body)
        found = await self._tokens.tokenize(
            fields.model,
            prompt,
            special=fields.add_special_tokens is not False,
            pieces=bool(fields.return_token_strs),
        )
        answer = Tokenized(len(found.ids), found.context_tokens, found.ids, found.pieces)
        return json_response(answer, headers=warning_headers(tokenize_ignored(body, fields)))

    async def detokenize(self, request: Request) -> Response:
        """POST /v1/detokenize"""
        body = await request.body()
        asked = decode_body(body, DetokenizeRequest)
        answer = Detokenized(await self._tokens.detokenize(asked.model, asked.tokens))
        return json_response(answer, headers=warning_headers(ignored_fields(body, DetokenizeRequest)))
