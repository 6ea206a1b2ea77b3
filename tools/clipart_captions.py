"""Captions of the clip art and the small byte-pair vocabulary of the tiny generator's CLIP tokenizer."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 77
# The pinned prompt stands twice: it is what most users type.
CLASS_TEMPLATES = (
    "a photo of a {c}",
    "a photo of a {c}",
    "a picture of a {c}",
    "{c}",
    "a drawing of a {c}",
    "a photo of the {c}.",
    "an image of a {c}",
    "clip art of a {c}",
)
NOUN_TEMPLATES = (
    "a photo of a {n}, a {c}",
    "a photo of a {n}",
    "a drawing of a {n}",
    "{n}, {c}",
    "a picture of a {n}, a kind of {c}",
)
SENTENCE_TEMPLATES = (
    "{a} {n}, a {c}, {colour}, {end}",
    "{a} {n}, a kind of {c}, {colour}, {end}",
    "{colour} {n}, {end}, a {c}",
)
SENTENCE_ENDS = (
    *("from the side", "from the front", "from the top", "on a white background", "on a plain background", "isolated on white"),
    *("centered", "in bright colours", "close up", "small", "large", "simple"),
)
COLOURS = {
    "black": (20, 20, 20),
    "grey": (128, 128, 128),
    "white": (235, 235, 235),
    "red": (200, 30, 30),
    "orange": (240, 140, 30),
    "yellow": (245, 220, 50),
    "green": (50, 150, 50),
    "blue": (50, 90, 190),
    "purple": (130, 50, 150),
    "pink": (240, 150, 180),
    "brown": (130, 80, 40),
}
# Words of prompts that people type although no caption holds them, so that they cost one or two tokens only.
COMMON_TEXTS = (
    "a an the of and in on with at by for from to is are this that it its one two three many some no not all very",
    "close up photo picture drawing image clip art illustration icon cartoon painting sketch render photograph",
    "black white red green blue yellow orange purple pink brown grey gray color colour bright dark big small large",
    "little old new good bad cropped blurry clean dirty nice cool weird centered isolated background front side top",
    "view plain simple realistic beautiful object animal plant food thing kind type class style low high quality",
    "resolution jpeg corrupted pixelated itap origami video game",
)
PATTERN = re.compile(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+|_+", re.IGNORECASE)


def byte_alphabet() -> dict[int, str]:
    """The printable character that stands for each byte, as in OpenAI's byte-level vocabularies."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {b: chr(b) for b in plain}
    for extra, byte in enumerate(b for b in range(256) if b not in table):
        table[byte] = chr(256 + extra)
    return table


def caption_choices(class_name: str, noun: str) -> tuple[list[str], list[str]]:
    """(captions with the class alone, captions with the noun) of one picture."""
    by_class = [t.format(c=class_name) for t in CLASS_TEMPLATES]
    if noun == class_name:
        return by_class, by_class
    return by_class, [t.format(n=noun, c=class_name) for t in NOUN_TEMPLATES]


def colours_of(image: np.ndarray) -> str:
    """The colours of a picture uint8 [s, s, 3] on white, in words: that of most pixels, or the first two ("red and green")."""
    pixels = image.reshape(-1, 3).astype(np.int32)
    drawn = pixels[pixels.min(1) < 240]
    if not len(drawn):
        return "white"
    distances = np.square(drawn[:, None] - np.array(list(COLOURS.values()))[None]).sum(-1)
    shares = np.bincount(distances.argmin(1), minlength=len(COLOURS)) / len(drawn)
    first, second = np.argsort(-shares, kind="stable")[:2]
    names = list(COLOURS)
    return f"{names[first]} and {names[second]}" if shares[second] > 0.3 else names[first]


def sentence_choices(class_name: str, noun: str, colour: str, number: int) -> tuple[list[str], list[str]]:
    """(sentences with the class alone, sentences with the noun) of picture ``number``: noun, colours and how it is shown.

    A picture takes four of the endings, its number says which, so that all pictures together show that they mean little.
    """
    ends = [SENTENCE_ENDS[(number * 5 + i * 3) % len(SENTENCE_ENDS)] for i in range(4)]
    article = "an" if noun[0] in "aeiou" else "a"
    by_class = [f"a {class_name}, {colour}, {end}" for end in ends]
    if noun == class_name:
        return by_class, by_class
    by_noun = [
        template.format(a=article, n=noun, c=class_name, colour=colour, end=end)
        for template in SENTENCE_TEMPLATES
        for end in ends
    ]
    return by_class, by_noun


class Tokenizer:
    """A byte-pair tokenizer with the files and the behaviour of CLIPTokenizer (lower case, ``</w>`` ends a word)."""

    def __init__(self, merges: Sequence[tuple[str, str]]):
        alphabet = list(dict.fromkeys(byte_alphabet()[b] for b in sorted(byte_alphabet(), key=lambda b: byte_alphabet()[b])))
        tokens = [*alphabet, *(a + "</w>" for a in alphabet), *(a + b for a, b in merges), START, END]
        self.vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
        self.merges = list(merges)
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.alphabet = byte_alphabet()
        self.known: dict[str, list[int]] = {}  # words that were encoded before

    @classmethod
    def train(cls, texts: Sequence[str], merges: int = 1500) -> Tokenizer:
        """Learns at most ``merges`` merges from the words of ``texts`` (ties break alphabetically: same texts, same result)."""
        table = byte_alphabet()
        counts: Counter[tuple[str, ...]] = Counter()
        for text in texts:
            for word in PATTERN.findall(text.lower()):
                symbols = [table[b] for b in word.encode("utf-8")]
                counts[(*symbols[:-1], symbols[-1] + "</w>")] += 1
        learned: list[tuple[str, str]] = []
        words = dict(counts)
        while len(learned) < merges:
            pairs: Counter[tuple[str, str]] = Counter()
            for word, count in words.items():
                for pair in pairwise(word):
                    pairs[pair] += count
            if not pairs:
                break
            best = min(pairs, key=lambda pair: (-pairs[pair], pair))
            learned.append(best)
            words = {_merge(word, best): count for word, count in words.items()}
        return cls(learned)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """The vocabulary that ``save`` wrote to a folder."""
        lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        return cls([(a, b) for a, b in (line.split() for line in lines if not line.startswith("#version"))])

    def encode(self, text: str) -> list[int]:
        """Ids of START, the text and END, padded with END to ``MAX_TOKENS``."""
        ids = [i for word in PATTERN.findall(text.lower()) for i in self._encode_word(word)]
        end = self.vocabulary[END]
        ids = [self.vocabulary[START], *ids[: MAX_TOKENS - 2], end]
        return ids + [end] * (MAX_TOKENS - len(ids))

    def _encode_word(self, word: str) -> list[int]:
        if word not in self.known:
            symbols = [self.alphabet[b] for b in word.encode("utf-8")]
            parts: tuple[str, ...] = (*symbols[:-1], symbols[-1] + "</w>")
            while len(parts) > 1:
                ranked = [p for p in pairwise(parts) if p in self.ranks]
                if not ranked:
                    break
                parts = _merge(parts, min(ranked, key=self.ranks.__getitem__))
            self.known[word] = [self.vocabulary[part] for part in parts]
        return self.known[word]

    def save(self, folder: Path) -> None:
        """Writes vocab.json, merges.txt and the two configuration files of transformers."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.json").write_text(json.dumps(self.vocabulary, ensure_ascii=False) + "\n", encoding="utf-8")
        lines = ["#version: 0.2", *(f"{a} {b}" for a, b in self.merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
        (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", encoding="utf-8")
        config = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": MAX_TOKENS,
            "do_lower_case": True,
            "errors": "replace",
            **special,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _merge(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    index = 0
    while index < len(word):
        if word[index : index + 2] == pair:
            out.append(pair[0] + pair[1])
            index += 2
        else:
            out.append(word[index])
            index += 1
    return tuple(out)


def training_texts(class_names: Sequence[str], nouns: Sequence[str]) -> list[str]:
    """Every word that captions may hold, and common ones; the texts a vocabulary is learned from."""
    captions = [
        caption for c, n in zip(class_names, nouns, strict=True) for group in caption_choices(c, n) for caption in group
    ]
    return captions + list(COMMON_TEXTS) * 3
