"""Endpoints that count tokens."""

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.json_response import json_response
from gateway.protocols.json_body import decode_body
from gateway.protocols.tokenization import Detokenized, DetokenizeRequest, Tokenized, to_tokenize
from gateway.serving.tokens import TokenServing


class TokenEndpoints:
    def __init__(self, tokens: TokenServing) -> None:
        self._tokens = tokens

    async def tokenize(self, request: Request) -> Response:
        """POST /v1/tokenize"""
        fields, prompt = to_tokenize(await request.body())
        found = await self._tokens.tokenize(
            fields.model,
            prompt,
            special=fields.add_special_tokens is not False,
            pieces=bool(fields.return_token_strs),
        )
        return json_response(Tokenized(len(found.ids), found.context_tokens, found.ids, found.pieces))

    async def detokenize(self, request: Request) -> Response:
        """POST /v1/detokenize"""
        asked = decode_body(await request.body(), DetokenizeRequest)
        return json_response(Detokenized(await self._tokens.detokenize(asked.model, asked.tokens)))
