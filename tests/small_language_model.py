"""A random T5 folder of a few thousand weights in transformers' layout, made without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS = [
    "a",
    "an",
    "the",
    "on",
    "in",
    "under",
    "near",
    "of",
    "and",
    "with",
    "red",
    "blue",
    "small",
    "old",
    "bird",
    "dog",
    "river",
    "tree",
    "boat",
    "house",
    "photo",
    "sky",
    "grass",
]
PIECES = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0), *((f"▁{word}", -3.0) for word in WORDS)]
PIECES += [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
CONFIG: dict[str, Any] = {
    "model_type": "t5",
    "vocab_size": len(PIECES) + 3,  # as in the published ones, more than the tokenizer has
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": 0,
}
V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


def write_text_tokenizer(folder: Path) -> None:
    """Writes the `tokenizer.json` of a T5 whose vocabulary is `PIECES`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.Unigram(PIECES, unk_id=2))
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single=["$A", "</s>"], special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))


def write_language_model(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Writes a random T5 with a tokenizer; `changes` go over `CONFIG`."""
    from flax import nnx
    from safetensors.numpy import save_file

    from bridgejax.models.t5 import T5, T5_RULES, T5Config
    from bridgejax.models.weights import export

    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, **changes}
    model = T5(T5Config.read(config, "config"), own_head=config.get("tie_word_embeddings") is False, rngs=nnx.Rngs(seed))
    (folder / "config.json").write_text(json.dumps(config))
    save_file(export(model, T5_RULES), folder / "model.safetensors", metadata={"format": "pt"})
    write_text_tokenizer(folder)
    return folder
