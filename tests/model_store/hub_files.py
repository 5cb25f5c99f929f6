"""What a repository of the test hub holds."""

import random

WEIGHTS = random.Random(1).randbytes(3_000_000)
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}" * 50,
    "chat_template.jinja": b"{{ messages }}",
    "1_Pooling/config.json": b"{}",
    "merges.txt": b"a b",
    # none of these may arrive
    "modeling_custom.py": b"raise SystemExit",
    "tokenizer_custom.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
    "tokenizer.pt": b"pickle",
    "original/consolidated.safetensors": b"twice",
    "README.md": b"# card",
}
WANTED = ["1_Pooling/config.json", "chat_template.jinja", "config.json", "merges.txt"]
WANTED += ["model.safetensors", "tokenizer.json"]
