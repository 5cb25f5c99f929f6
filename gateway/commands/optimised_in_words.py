"""What was made of a model, for a person at a terminal."""

from gateway.model_store.store import StoredModel


def optimised_in_words(model: StoredModel) -> str:
    """Where it is, and what changed."""
    done = model.manifest.optimisation if model.manifest else None
    if done is None:
        return f"{model.model_id} is in {model.folder}"
    before, after = (_number(value) for value in (done.perplexity_before, done.perplexity_after))
    removed = f"without layers {', '.join(map(str, done.removed_layers))}; " if done.removed_layers else ""
    return (
        f"{model.model_id} is in {model.folder}: {removed}{done.bytes_before / 1e6:.1f} MB before, "
        f"{done.bytes_after / 1e6:.1f} MB now, {done.bits_per_weight:.2f} bits a weight; "
        f"perplexity {before} before, {after} now"
    )


def _number(perplexity: float | None) -> str:
    return "not measured (too little memory)" if perplexity is None else f"{perplexity:.4g}"
