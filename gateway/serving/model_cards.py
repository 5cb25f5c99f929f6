"""What the pool's models can do, as far as their files tell."""

import re

from gateway.chat.fill_in import fill_in_marks
from gateway.chat.output_format import output_format
from gateway.generation.adapter import BASE, adapter_id
from gateway.generation.model_card import ModelCard
from gateway.model_pool.model_progress import ModelState
from gateway.model_pool.resident_model import ResidentModel
from gateway.model_pool.served_model import Purpose
from gateway.model_pool.upstream_model import UpstreamModel

SPEAKS_OF_TOOLS = re.compile(r"\btools\b")
"""In a chat template: the variable that holds a request's tools."""


def model_card(model: ResidentModel | UpstreamModel, adapter: str = BASE) -> ModelCard:
    """At once, even while the model is on its way."""
    model_id, text, loaded = adapter_id(model.model_id, adapter), model.text, model.state is ModelState.READY
    if text is None:
        return ModelCard(
            id=model_id,
            created=model.created,
            loaded=loaded,
            purpose=(model.purpose or Purpose.TEXT).value,
            architecture=model.architecture,
            weight_bytes=model.weight_bytes,
            context_tokens=model.context_tokens,
            calls_tools=isinstance(model, UpstreamModel),  # nobody says otherwise
        )
    return ModelCard(
        id=model_id,
        created=model.created,
        loaded=loaded,
        architecture=text.architecture,
        quantization_bits=text.quantization_bits,
        digest=text.fingerprint.hex(),
        weight_bytes=model.weight_bytes,
        context_tokens=text.context_tokens,
        template=text.template,
        calls_tools=SPEAKS_OF_TOOLS.search(text.template) is not None,
        thinks=output_format(text.template).reasoning is not None,
        fills_in=fill_in_marks(text.tokenizer.backend_tokenizer) is not None,
    )
