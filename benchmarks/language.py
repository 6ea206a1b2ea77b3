"""Sentences of a T5 beside PyTorch transformers, float32, on the CPU.

    python -m benchmarks language [--repeats 5] [--quick]

Random weights in the shape of t5-small; 200 sentences of 32 tokens, 20 for each of 10 class names, sampled with top-k 50, all
in one call of each side; --quick takes a T5 of one block and 20 sentences. Samples cannot be the same; the logits of one text
are compared. Sides run in processes of their own and take turns. Keeps docs/results/language.json and .md.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import comparison
from benchmarks.harness import Case, Side
from benchmarks.worker import Prepared

CLASSES = ("airplane", "bird", "boat", "car", "cat", "deer", "dog", "frog", "horse", "truck")
TOKENS, TOP_K, TOLERANCE = 32, 50, 1e-4
SMALL = {"model_type": "t5", "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "vocab_size": 32128}
QUICK = {**SMALL, "d_model": 64, "d_ff": 128, "num_layers": 1, "vocab_size": 4096}
_SOURCE, _SO_FAR = [[3, 17, 9, 1]], [[0, 5, 8]]


def write_model(folder: Path, config: dict[str, Any]) -> None:
    """Writes a random T5 whose tokenizer has the letters, so that no side is given words that the other has not."""
    from flax import nnx
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    from bridgejax.models.t5 import T5, T5_RULES, T5Config
    from bridgejax.models.weights import export

    config = {**config, "decoder_start_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))
    model = T5(T5Config.read(config, "config"), rngs=nnx.Rngs(0))
    save_file(export(model, T5_RULES), folder / "model.safetensors", metadata={"format": "pt"})
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((letter, -3.0) for letter in map(chr, range(97, 123))),
    ]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single=["$A", "</s>"], special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))


def our_sentences(folder: str, batch: int) -> Prepared:
    """Prepares bridgejax's language model."""
    from bridgejax import runtime
    from bridgejax.prompts import load_language_model

    runtime.start()
    model = load_language_model(Path(folder))
    texts = [CLASSES[number * len(CLASSES) // batch] for number in range(batch)]
    logits = np.asarray(model.logits(_SOURCE, _SO_FAR))
    return Prepared(
        lambda: model.generate(texts, seeds=range(batch), max_tokens=TOKENS, top_k=TOP_K),
        lambda _: logits[0, -1, :256],
    )


def their_sentences(folder: str, batch: int) -> Prepared:
    """Prepares transformers' model, which draws several texts for each source text in one call."""
    import torch
    from transformers import T5ForConditionalGeneration

    from bridgejax.prompts.text_tokenizer import TextTokenizer

    torch.set_num_threads(os.cpu_count() or 1)
    model = T5ForConditionalGeneration.from_pretrained(folder).eval()
    rows = TextTokenizer(Path(folder)).encode(CLASSES)
    ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
    for row, each in zip(ids, rows, strict=True):
        row[: len(each)] = torch.tensor(each)
    options = {"do_sample": True, "top_k": TOP_K, "max_new_tokens": TOKENS, "num_return_sequences": batch // len(CLASSES)}

    def call() -> Any:
        with torch.inference_mode():
            return model.generate(ids, attention_mask=ids != 0, **options)

    with torch.inference_mode():
        logits = model(torch.tensor(_SOURCE), decoder_input_ids=torch.tensor(_SO_FAR)).logits.numpy()
    return Prepared(call, lambda _: logits[0, -1, :256])


def main(arguments: Sequence[str]) -> int:
    """Measures, prints and keeps."""
    options = comparison.parser(__doc__).parse_args(arguments)
    config, sentences = (QUICK, 20) if options.quick else (SMALL, 200)
    with tempfile.TemporaryDirectory(prefix="bridgejax-benchmark-") as folder:
        write_model(Path(folder), config)
        given = {"folder": folder}
        case = Case(
            key=f"t5 {config['d_model']} {sentences}",
            what=f"T5 of width {config['d_model']}, sentences of {TOKENS} tokens",
            batch=sentences,
            ours=Side("bridgejax", "benchmarks.language:our_sentences", given, caches=True),
            peers=[Side("transformers", "benchmarks.language:their_sentences", given)],
            tolerance=TOLERANCE,
            flops_by="not counted",
        )
        return comparison.run("language", arguments, options, [case])
