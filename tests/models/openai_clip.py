"""CLIP as OpenAI and OpenCLIP name its parts, written in PyTorch from the paper's description, for comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.reduced.generator import write_tokenizer
from tests.models.originals import randomise

VOCABULARY, CONTEXT, END = 514, 77, 513
TEXT = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 24, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "head_width": 64}


class QuickGELU(nn.Module):
    def forward(self, x: Any) -> Any:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, quick: bool) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGELU() if quick else nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Any, mask: Any) -> Any:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Blocks(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, quick: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, quick) for _ in range(layers))

    def forward(self, x: Any, mask: Any = None) -> Any:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class ImageTransformer(nn.Module):
    def __init__(self, embed: int, quick: bool) -> None:
        super().__init__()
        width, patch = VIT["width"], VIT["patch_size"]
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros((VIT["image_size"] // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Blocks(width, VIT["layers"], width // VIT["head_width"], quick)
        self.proj = nn.Parameter(torch.zeros(width, embed))

    def forward(self, x: Any) -> Any:
        x = self.conv1(x).flatten(2).mT
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class Bottleneck(nn.Module):
    def __init__(self, channels: int, inner: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, 4 * inner, 1, bias=False), nn.BatchNorm2d(4 * inner)
        self.stride = stride
        self.downsample = None
        if stride > 1 or channels != 4 * inner:
            self.downsample = nn.Sequential(nn.Conv2d(channels, 4 * inner, 1, bias=False), nn.BatchNorm2d(4 * inner))

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        if self.stride > 1:
            x, y = (nn.functional.avg_pool2d(z, self.stride) for z in (x, y))
        return torch.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


class AttentionPool(nn.Module):
    def __init__(self, side: int, width: int, heads: int, embed: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.zeros(side * side + 1, width))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, embed)
        self.heads = heads

    def forward(self, x: Any) -> Any:
        x = x.flatten(2).mT
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positional_embedding

        def parts(y: Any) -> Any:
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = parts(self.q_proj(x[:, :1])), parts(self.k_proj(x)), parts(self.v_proj(x))
        weights = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1)
        return self.c_proj((weights @ v).transpose(1, 2).flatten(2))[:, 0]


class ImageResNet(nn.Module):
    def __init__(self, embed: int) -> None:
        super().__init__()
        width = RESNET["width"]
        half = width // 2
        self.conv1, self.bn1 = nn.Conv2d(3, half, 3, 2, 1, bias=False), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = nn.Conv2d(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = nn.Conv2d(half, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        channels = width
        for stage, depth in enumerate(RESNET["layers"]):
            blocks = []
            for number in range(depth):
                blocks.append(Bottleneck(channels, width * 2**stage, 2 if stage and not number else 1))
                channels = 4 * width * 2**stage
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        heads = channels // RESNET["head_width"]
        self.attnpool = AttentionPool(RESNET["image_size"] // 32, channels, heads, embed)

    def stem(self, x: Any) -> Any:
        for number in (1, 2, 3):
            x = torch.relu(getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x)))
        return nn.functional.avg_pool2d(x, 2)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        for stage in range(len(RESNET["layers"])):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.attnpool(x)


class OpenAICLIP(nn.Module):
    def __init__(self, kind: str, embed: int = 20, quick: bool = False) -> None:
        super().__init__()
        width = TEXT["width"]
        self.visual = ImageTransformer(embed, quick) if kind == "vit" else ImageResNet(embed)
        self.transformer = Blocks(width, TEXT["layers"], TEXT["heads"], quick)
        self.token_embedding = nn.Embedding(VOCABULARY, width)
        self.positional_embedding = nn.Parameter(torch.zeros(CONTEXT, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, embed))
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def encode_image(self, images: Any) -> Any:
        return self.visual(images)

    def encode_text(self, ids: Any) -> Any:
        x = self.token_embedding(ids) + self.positional_embedding
        mask = torch.full((CONTEXT, CONTEXT), float("-inf"), dtype=x.dtype).triu(1)
        x = self.ln_final(self.transformer(x, mask))
        return x[torch.arange(len(x)), ids.argmax(-1)] @ self.text_projection


def tokenize(texts: list[str]) -> Any:
    """The ids of ASCII texts under the tokenizer of single bytes, padded with 0 as OpenCLIP does."""
    rows = np.zeros((len(texts), CONTEXT), np.int64)
    for row, text in zip(rows, texts, strict=True):
        ids = [512]
        for word in text.lower().replace(".", " . ").split():
            ids += [ord(letter) - 33 for letter in word[:-1]] + [ord(word[-1]) - 33 + 256]
        row[: len(ids) + 1] = [*ids, END]
    return torch.from_numpy(rows)


def open_clip_folder(folder: Path, kind: str, *, quick: bool = False, **preprocess: Any) -> OpenAICLIP:
    """Writes an OpenCLIP folder of random weights and returns the original."""
    from safetensors.torch import save_file

    model = randomise(OpenAICLIP(kind, quick=quick))
    write_tokenizer(folder)
    (folder / "tokenizer_config.json").unlink()  # OpenCLIP folders need not hold it
    config = {"embed_dim": 20, "vision_cfg": VIT if kind == "vit" else RESNET, "text_cfg": TEXT}
    config |= {"quick_gelu": True} if quick else {}
    content = {"model_cfg": config, "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], **preprocess}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model
