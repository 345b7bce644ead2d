"""Tiny models with random weights, saved as the ordinary folders that `from_pretrained` reads. Built in a second."""

from __future__ import annotations

from pathlib import Path

import diffusers
import tokenizers
import torch
import transformers
from tokenizers import models, pre_tokenizers, processors

WORDS = [
    "a",
    "photo",
    "of",
    "the",
    "red",
    "green",
    "blue",
    "circle",
    "square",
    "triangle",
    "large",
    "small",
    "on",
    "grey",
    "white",
    "class",
    ":",
    ".",
    ",",
    "cat",
    "dog",
    "two",
    "s",
]
TEXT_LIMIT = 12


def word_tokenizer(end: bool, limit: int) -> transformers.PreTrainedTokenizerFast:
    """One token a word; ``end`` adds start and end tokens around a text, as CLIP does."""
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<unk>", "<start>", "<end>", *WORDS])}
    core = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if end:
        core.post_processor = processors.TemplateProcessing(
            "<start> $A <end>", special_tokens=[("<start>", 2), ("<end>", 3)]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
        model_max_length=limit,
    )


def image_processor(size: int = 16) -> transformers.CLIPImageProcessorPil:
    return transformers.CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def save_clip(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = word_tokenizer(end=True, limit=TEXT_LIMIT)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={
            **tower,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": TEXT_LIMIT,
            "bos_token_id": 2,
            "eos_token_id": 3,
        },
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor().save_pretrained(folder)
    return folder


def save_siglip(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = word_tokenizer(end=True, limit=TEXT_LIMIT)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.SiglipConfig(
        text_config={**tower, "vocab_size": len(tokenizer), "max_position_embeddings": TEXT_LIMIT},
        vision_config={**tower, "image_size": 16, "patch_size": 8},
    )
    transformers.SiglipModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor().save_pretrained(folder)
    return folder


def save_writer(folder: Path, chat_template: str | None = None) -> Path:
    torch.manual_seed(0)
    tokenizer = word_tokenizer(end=False, limit=64)
    tokenizer.chat_template = chat_template
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=2, eos_token_id=3
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_seq2seq(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = word_tokenizer(end=True, limit=64)
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        eos_token_id=3,
        decoder_start_token_id=2,
        initializer_factor=2.0,  # as far from even odds that the prompt makes a difference
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_bart(folder: Path) -> Path:
    """Counts places, where T5 looks at distances; so it has a longest text."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer(end=True, limit=64)
    shape = {"layers": 1, "ffn_dim": 32, "attention_heads": 2}
    config = transformers.BartConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        max_position_embeddings=20,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
        decoder_start_token_id=3,
        forced_eos_token_id=None,
        init_std=0.5,
        **{f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in shape.items()},
    )
    transformers.BartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_vit(folder: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    image_processor().save_pretrained(folder)
    return folder


def save_resnet(folder: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    transformers.ResNetModel(config).save_pretrained(folder)
    image_processor().save_pretrained(folder)
    return folder


DETECTED = ("cat", "dog", "red circle")


def _named(names):
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def save_rt_detr(folder: Path, layer_type: str = "basic") -> Path:
    """Squashes every picture to 32 x 32."""
    torch.manual_seed(0)
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type=layer_type, out_indices=[1, 2]
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[8, 16],
        feat_strides=[4, 8],
        encode_proj_layers=[1],
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=6,
        decoder_in_channels=[16, 16],
        num_feature_levels=2,
        decoder_layers=1,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        **_named(DETECTED),
    )
    net = transformers.RTDetrForObjectDetection(config)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.3)  # so that pictures and places differ
    net.save_pretrained(folder)
    transformers.RTDetrImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_yolos(folder: Path) -> Path:
    """Keeps the shape of pictures, pads those of a batch to one size, and has no mask for that."""
    torch.manual_seed(0)
    config = transformers.YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[32, 48],
        patch_size=8,
        num_detection_tokens=6,
        initializer_range=0.3,
        **_named(DETECTED),
    )
    transformers.YolosForObjectDetection(config).save_pretrained(folder)
    transformers.YolosImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 64}).save_pretrained(folder)
    return folder


def save_vq(folder: Path, seed: int = 0, **settings: object) -> Path:
    """A tokenizer of 16 x 16 pictures: a 4 x 4 grid of 12 codes, which random pictures use all over."""
    torch.manual_seed(seed)
    vq = _vq(**settings)
    vq.save_pretrained(folder)
    return folder


def _vq(**settings: object) -> diffusers.VQModel:
    vq = diffusers.VQModel(
        **{
            "down_block_types": ["DownEncoderBlock2D"] * 3,
            "up_block_types": ["UpDecoderBlock2D"] * 3,
            "block_out_channels": [4, 4, 8],
            "latent_channels": 3,
            "sample_size": 16,
            "num_vq_embeddings": 12,
            "norm_num_groups": 4,
            "mid_block_add_attention": False,
            "lookup_from_codebook": True,
            **settings,
        }
    )
    with torch.no_grad():
        latents = vq.encode(torch.rand(8, 3, 16, 16)).latents.permute(0, 2, 3, 1).reshape(-1, 3)
    vq.quantize.embedding.weight.data.copy_(latents[torch.randperm(len(latents))[: vq.config.num_vq_embeddings]])
    return vq


def save_amused(folder: Path, seed: int = 0, grid: int = 4) -> Path:
    """An AmusedPipeline that paints a 4 x 4 grid of the codes of ``save_vq``; its texts are those of the CLIP above."""
    torch.manual_seed(seed)
    tokenizer = word_tokenizer(end=True, limit=TEXT_LIMIT)
    text = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=8,
        max_position_embeddings=TEXT_LIMIT,
        bos_token_id=2,
        eos_token_id=3,
    )
    net = diffusers.UVit2DModel(
        hidden_size=16,
        cond_embed_dim=8,
        micro_cond_encode_dim=4,
        micro_cond_embed_dim=20,
        encoder_hidden_size=16,
        vocab_size=16,
        codebook_size=12,
        in_channels=16,
        block_out_channels=16,
        num_res_blocks=1,
        block_num_heads=2,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        sample_size=grid,
    )
    diffusers.AmusedPipeline(
        vqvae=_vq(),
        tokenizer=tokenizer,
        text_encoder=transformers.CLIPTextModelWithProjection(text),
        transformer=net,
        scheduler=diffusers.AmusedScheduler(mask_token_id=15),
    ).save_pretrained(folder)
    return folder
