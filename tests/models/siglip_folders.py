"""Small SigLIP tokenizers in the forms that published folders have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PIECES = ["<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz", "▁a", "▁photo", "▁of", "▁cat", "▁dog", "ing"]
SCORES = [0.0, 0.0, 0.0, *(-6.0 for _ in range(27)), *(-2.0 - 0.1 * i for i in range(6))]


def write_sentencepiece(folder: Path) -> Path:
    """Writes `spiece.model`, a unigram model of a few pieces, as SigLIP's is one of 32,000."""
    from transformers.convert_slow_tokenizer import import_protobuf

    library = import_protobuf()
    model = library.ModelProto()
    for number, (piece, score) in enumerate(zip(PIECES, SCORES, strict=True)):
        kind = 3 if number < 2 else 2 if number == 2 else 1
        model.pieces.add(piece=piece, score=score, type=kind)
    model.trainer_spec.model_type = 1
    model.trainer_spec.vocab_size = len(PIECES)
    model.trainer_spec.unk_id, model.trainer_spec.bos_id = 2, -1
    model.trainer_spec.pad_id, model.trainer_spec.eos_id = 0, 1
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = True
    model.normalizer_spec.escape_whitespaces = True
    (folder / "spiece.model").write_bytes(model.SerializeToString())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>"}))
    return folder


def write_unigram(folder: Path) -> Path:
    """Writes the same as `tokenizer.json`."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors

    vocabulary = list(zip(PIECES, SCORES, strict=True))
    made = tokenizers.Tokenizer(models.Unigram(vocabulary, unk_id=2))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.add_special_tokens(["<pad>", "</s>", "<unk>"])
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _save(made, folder, tokenizer_class="SiglipTokenizer", pad_token="</s>", eos_token="</s>")


def write_gemma(folder: Path) -> Path:
    """Writes a `tokenizer.json` of byte pairs as Gemma's is one of 256,000."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, processors

    words = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz.,", "ca", "cat", "▁cat"]
    merges = [("c", "a"), ("ca", "t"), ("▁", "cat")]
    vocabulary = {word: number for number, word in enumerate(words)}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.add_special_tokens(words[:4])
    made.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return _save(made, folder, tokenizer_class="GemmaTokenizer", pad_token="<pad>", eos_token="<eos>", padding_side="right")


def _save(tokenizer: Any, folder: Path, **config: Any) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
